"""Ranking rows for queries."""
