"""The names of help panels that several commands share."""

from __future__ import annotations

__all__ = ["ACCESS", "CONNECTION", "LIMITS", "OUTPUT"]

ACCESS = "Access"
CONNECTION = "Connection"
LIMITS = "Limits"
OUTPUT = "Output"
