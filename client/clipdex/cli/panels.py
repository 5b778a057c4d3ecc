"""The names of help panels that several commands share."""

from __future__ import annotations

__all__ = ["ACCESS", "CONNECTION", "ENGINE", "LIMITS", "OUTPUT"]

ACCESS = "Access"
CONNECTION = "Connection"
ENGINE = "Engine"
LIMITS = "Limits"
OUTPUT = "Output"
