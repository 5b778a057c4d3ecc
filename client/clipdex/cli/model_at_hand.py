"""The model for `find` and `serve`: one in a repository, or a listed one, exported there once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdex.base.errors import ClipdexError, ModelNotFound
from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.download_progress import download_progress
from clipdex.cli.printing import note, says_yes
from clipdex.client.discovery import served_models
from clipdex.model.assets import default_cache_dir

if TYPE_CHECKING:
    from clipdex_export.catalogue import AvailableModel

__all__ = ["AtHand", "YesOption", "model_at_hand"]

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Download a missing model without asking.")]


@dataclass(frozen=True)
class AtHand:
    """A model and the repository that holds it."""

    repository: Path
    name: str

    @property
    def parts(self) -> list[str]:
        """The names of its three Triton models."""
        return [f"{self.name}_{part}" for part in ("image", "text", "assets")]


def model_at_hand(model: str | None, repository: Path | None, *, yes: bool) -> AtHand:
    """Return a model of a repository, after exporting it there if it is listed and missing.

    Args:
        model: its name in the repository or the list; None for the list's default, or the repository's only one.
        repository: None for the one in the user's cache.
        yes: download without asking.

    Raises:
        ModelNotFound: there is no such model, or it would have to be downloaded and nobody can be asked.
        ClipdexError: the user does not want it downloaded.
        ExportError, MissingExtra: it cannot be downloaded or exported.
    """
    place = default_cache_dir() / "models" if repository is None else repository.expanduser()
    held = served_models(path.parent.name for path in place.glob("*/config.pbtxt"))
    # In these two cases the list need not be read.
    if model in held:
        return AtHand(place, str(model))
    if model is None and len(held) == 1:
        return AtHand(place, held[0])
    from clipdex_export.catalogue import available_models, find_available

    listed = find_available(available_models().default if model is None else model)
    if listed is not None and listed.model_name in held:
        return AtHand(place, listed.model_name)
    if model is None and held:
        raise ModelNotFound(
            f"{shown_path(str(place))} has several models; name one with --model: {', '.join(held)}"
        )
    if listed is None or (model is None and repository is not None):
        where = shown_path(str(place))
        if repository is not None and not place.is_dir():
            raise ModelNotFound(f"{where}: there is no such model repository")
        if model is None:
            raise ModelNotFound(f"{where} has no model; clipdex export NAME --repository {where}  adds one")
        others = f"; it has {', '.join(held)}" if held else ""
        raise ModelNotFound(
            f"{where} has no model {model}{others};  clipdex models --available  lists what can be downloaded"
        )
    _export(listed, place, yes=yes)
    return AtHand(place, listed.model_name)


def _export(listed: AvailableModel, place: Path, *, yes: bool) -> None:
    from clipdex_export import export_model
    from clipdex_export.downloads import require_space
    from clipdex_export.requirements import need_export_extra, need_onnx_extra

    # A missing extra is reported before anybody waits for a download.
    # Whoever typed `find` or `serve` asked for no export.
    (need_onnx_extra if listed.onnx else need_export_extra)(f"the model {listed.name}, which is not here yet,")
    size = "of unknown size" if listed.download_mb is None else f"about {listed.download_mb:,} MB"
    what = f"{listed.name} ({listed.title}; {size}; licence {listed.licence})"
    require_space(
        place, (listed.download_mb or 0) * 10**6, f"the model {listed.name}", "make room, or set CLIPDEX_CACHE"
    )
    if not yes:
        if not _somebody_can_answer():
            raise ModelNotFound(
                f"the model {what} has to be downloaded first: the same command with --yes does so, and  clipdex "
                "models --available  lists others"
            )
        if not says_yes(f"Download {what} to {shown_path(str(place))}? [Y/n] "):
            raise ClipdexError("nothing was downloaded")
    with interruptible("what was downloaded is kept; run the same command again to resume"), download_progress():
        export_model(
            listed.name,
            name=listed.model_name,
            repository=place,
            progress=lambda stage: note(f"{stage} ..."),
        )


def _somebody_can_answer() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
