"""Where the demo model is: in the installed package, or in the checkout that it is built from."""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo_repository"]


def demo_repository() -> Path | None:
    """Return the model repository with the demo model that came with clipdex, or None if it came without one.

    It may be read-only.
    """
    here = Path(__file__).resolve()
    for repository in (here.parent / "model_repository", here.parents[3] / "model_repository"):
        if (repository / "demo_image" / "config.pbtxt").is_file():
            return repository
    return None
