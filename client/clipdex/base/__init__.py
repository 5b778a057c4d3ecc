"""Errors, records, limits and files: what every other part stands on, and which knows none of them."""
