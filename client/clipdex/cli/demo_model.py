"""The demo model: its place, and the note for results that were made with it."""

from __future__ import annotations

import os
from pathlib import Path

from clipdex.cli.printing import note

__all__ = ["default_repository", "note_demo_model"]

# From the card in model_repository/demo_assets. It does not depend on the model's name or precision.
_FINGERPRINT = "4c7e426c9f09940b1160296252511dbbe1c36ceee57147759a6f5cbba3f0318a"

_WORDS = (
    "this is the demo model, which knows drawn shapes only; models for photographs are listed by:  "
    "clipdex models --available"
)


def note_demo_model(fingerprint: str) -> None:
    """Note in one line what the demo model is for, if a model or index has its fingerprint.

    Every command that embeds or searches pictures for a user calls this, after its results: an error stands alone.
    """
    if fingerprint == _FINGERPRINT:
        note(_WORDS)


def default_repository(model: str | None = None) -> Path:
    """Return ./model_repository if it exists, or else the repository that came with clipdex.

    If neither exists, return ./model_repository, for an error message to name.

    Args:
        model: a model that ./model_repository must hold to be chosen.
    """
    here = Path("model_repository")
    if os.path.lexists(here if model is None else here / f"{model}_image"):
        return here
    from clipdex_export.demo.repository import demo_repository  # here: only serve and demo need it

    return demo_repository() or here
