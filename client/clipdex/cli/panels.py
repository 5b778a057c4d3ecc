"""The panels of a help page that several commands have."""

from __future__ import annotations

__all__ = ["CONNECTION", "LIMITS", "OUTPUT"]

CONNECTION = "Connection"
LIMITS = "Limits"
OUTPUT = "Output"
