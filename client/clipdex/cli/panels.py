"""The names of help panels that several commands share."""

from __future__ import annotations

__all__ = ["CONNECTION", "LIMITS", "OUTPUT"]

CONNECTION = "Connection"
LIMITS = "Limits"
OUTPUT = "Output"
