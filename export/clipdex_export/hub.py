"""The files of a source: a local directory, or a hub repository downloaded to the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from clipdex.base.errors import CheckpointError
from clipdex_export.downloads import download, network_errors
from clipdex_export.pointers import refuse_small_pointers
from clipdex_export.quiet import quiet

__all__ = ["CheckpointFiles", "fetch_files", "fetch_weights", "find_checkpoint", "list_files"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = ["*.json", "*.txt", "*.model"]


@dataclass(frozen=True)
class CheckpointFiles:
    """A directory of checkpoint files, and their commit on the hub ("" for a local directory).

    hub_id: the repository to download the weights from later; "" for a local directory.
    """

    directory: Path
    revision: str
    hub_id: str = ""


def find_checkpoint(source: str, revision: str | None) -> CheckpointFiles:
    """Find a local directory or a hub id (`openai/clip-vit-base-patch32`), and download all but its weights.

    Raises:
        CheckpointError: neither exists, the hub cannot be reached or denies access, or the directory was cloned
            without git-lfs.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a local directory: a revision ({revision}) is for hub ids only")
        refuse_small_pointers(path)
        return CheckpointFiles(path, "")
    if path.exists():
        raise CheckpointError(
            f"{source} is a file: give the directory that holds config.json and the weights, or a hub id"
        )
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"{source}: there is no such directory, and it is not a hub id such as openai/clip-vit-base-patch32"
        )
    directory = _download(source, revision, _SMALL_FILES)
    return CheckpointFiles(directory, directory.name, source)


def fetch_weights(files: CheckpointFiles, patterns: Sequence[str]) -> None:
    """Download the files of the first pattern that matches any on the hub; do nothing for a local directory."""
    for pattern in patterns if files.hub_id else ():
        _download(files.hub_id, files.revision, [*_SMALL_FILES, pattern])  # the hub's client warns if none matches
        if any(files.directory.glob(pattern)):
            return


def list_files(files: CheckpointFiles) -> tuple[str, ...]:
    """List a source's files by name, sorted, down to its direct subdirectories: no kind of source has deeper ones.

    For a hub repository, these are the files on the hub; if it cannot be reached, those downloaded before.
    """
    names = _listed_on_the_hub(files) if files.hub_id else None
    if names is None:
        found = [path for pattern in ("*", "*/*") for path in files.directory.glob(pattern) if path.is_file()]
        names = [path.relative_to(files.directory).as_posix() for path in found]
    return tuple(sorted(name for name in names if name.count("/") <= 1))


def fetch_files(files: CheckpointFiles, names: Sequence[str]) -> None:
    """Download these files; do nothing for a local directory."""
    missing = [name for name in names if not (files.directory / name).exists()] if files.hub_id else []
    if missing:
        _download(files.hub_id, files.revision, [*_SMALL_FILES, *map(escape, missing)])


def _listed_on_the_hub(files: CheckpointFiles) -> list[str] | None:
    from huggingface_hub import HfApi

    try:
        with quiet():
            # list_repo_files would retry for half a minute.
            found = HfApi().model_info(files.hub_id, revision=files.revision)
    # The hub's client lets the errors of its HTTP library through, and raises its own in offline mode.
    except Exception:
        return None
    return [sibling.rfilename for sibling in found.siblings or ()]


def _download(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, errors

    try:
        return download(hub_id, revision, patterns)
    except errors.GatedRepoError as exc:
        raise CheckpointError(
            f"{hub_id} is gated: accept its terms on the hub, and log in with  hf auth login"
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise CheckpointError(
            f"there is no local directory {hub_id}, and no such repository on the hub (or it is private)"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise CheckpointError(f"{hub_id} has no revision {revision} on the hub") from exc
    except errors.HFValidationError as exc:
        raise CheckpointError(f"{hub_id} is neither a local directory nor a hub id: {_first_line(exc)}") from exc
    except network_errors() as exc:
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"{hub_id} is not in the hub's local cache, {constants.HF_HUB_CACHE}, or not all of it, and "
                "HF_HUB_OFFLINE is set: unset it, or download it on another machine and give its directory"
            ) from exc
        raise CheckpointError(
            f"there is no local directory {hub_id}, it is not in the hub's local cache, and the hub cannot be "
            f"reached ({_first_line(exc)}): download it on a machine with network access, and give its directory"
        ) from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
