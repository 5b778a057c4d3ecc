"""The demo model: where it is, and what to say to whoever uses it."""

from __future__ import annotations

import os
from pathlib import Path

from clipdex.cli.printing import note

__all__ = ["default_repository", "note_demo_model"]

# Of the card in model_repository/demo_assets. It is the same under another name, and in another precision.
_FINGERPRINT = "4c7e426c9f09940b1160296252511dbbe1c36ceee57147759a6f5cbba3f0318a"

_WORDS = (
    "this is the demo model, which knows drawn shapes only; models for photographs are listed by:  "
    "clipdex models --available"
)


def note_demo_model(fingerprint: str) -> None:
    """Say in one line what the demo model is for, if the fingerprint of a model or index is its.

    Every command that embeds or searches pictures for a user calls this, after its results: an error stands alone.
    """
    if fingerprint == _FINGERPRINT:
        note(_WORDS)


def default_repository(model: str | None = None) -> Path:
    """Return ./model_repository if it is there, or else the repository that came with clipdex.

    If neither is: ./model_repository, which is what a message should name.

    Args:
        model: a model that the one in the current folder must hold to be chosen.
    """
    here = Path("model_repository")
    if os.path.lexists(here if model is None else here / f"{model}_image"):
        return here
    from clipdex_export.demo.repository import demo_repository  # here: only serve and demo need it

    return demo_repository() or here
