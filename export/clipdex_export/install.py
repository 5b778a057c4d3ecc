"""Atomic installation of three finished model directories in a repository.

Everything is built in a hidden directory next to the repository, so that installing is three renames on one file
system. (Next to it, not inside: Triton takes every directory inside for a model, even hidden ones, and a server
that starts meanwhile would fail. It is inside only if renaming from outside is impossible, for instance because
the repository is a mount of its own.)

No file system renames three directories at once, so the order gives the guarantee: `NAME_assets`, which every
client reads first, leaves first and arrives last. A client that finds it also finds its towers.

    .REPOSITORY.clipdex-export-XXXX/    locked (flock) by the export that owns it
        new/NAME_image, NAME_text, NAME_assets
        old/…                 the replaced models, until the last rename is done
        install.json          written once `new` is complete: from then on a killed export is completed

A staging directory whose owner is gone is from a killed export. The next export to the repository completes it if
it had begun to install, and removes it otherwise.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clipdex.base.errors import ExportError

__all__ = ["SUFFIXES", "Staging", "check_free", "recover", "staging"]

# In order of arrival; they leave in reverse order.
SUFFIXES = ("image", "text", "assets")

_JOURNAL = "install.json"


class Staging:
    """A hidden directory in which the three directories of a model are built."""

    def __init__(self, repository: Path, directory: Path, name: str) -> None:
        self.repository = repository
        self.directory = directory
        self.name = name

    def model_directory(self, suffix: str) -> Path:
        """Return the directory in which NAME_suffix is built."""
        return self.directory / "new" / f"{self.name}_{suffix}"

    def install(self, *, overwrite: bool) -> dict[str, Path]:
        """Move the three directories into the repository -> their paths, by suffix.

        Raises:
            ExportError: a model of that name exists and `overwrite` is false.
            OSError: a rename failed; the previous state is restored.
        """
        _sync_tree(self.directory / "new")
        with _locked(self.repository):
            if not overwrite:
                check_free(self.repository, self.name)
            (self.directory / "old").mkdir()
            try:
                _write_synced(self.directory / _JOURNAL, json.dumps({"name": self.name}))
                _sync_directory(self.directory)
                _swap(self.repository, self.directory, self.name)
            except BaseException:
                _swap_back(self.repository, self.directory, self.name)
                (self.directory / _JOURNAL).unlink(missing_ok=True)
                raise
            (self.directory / _JOURNAL).unlink()
        return {suffix: self.repository / f"{self.name}_{suffix}" for suffix in SUFFIXES}


@contextmanager
def staging(repository: Path, name: str) -> Iterator[Staging]:
    """Recover killed exports, then provide a new staging directory, which is always removed at the end.

    The repository is created if it does not exist, and removed again if the export fails.
    """
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, _make_repository(repository))
        with _locked(repository):
            _recover(repository)
            directory = Path(tempfile.mkdtemp(prefix=_prefix(repository), dir=_staging_parent(repository)))
            # Held while this process lives; the kernel releases it however the process ends.
            stack.enter_context(_locked(directory))
        stack.callback(_remove_staging, repository, directory)
        for suffix in SUFFIXES:
            # mkdtemp's directory is private; these use the umask, since the server may run as another user.
            (directory / "new" / f"{name}_{suffix}" / "1").mkdir(parents=True)
        yield Staging(repository, directory, name)


def check_free(repository: Path, name: str) -> None:
    """Raise ExportError if the repository has a model, or a part of one, of this name."""
    for suffix in SUFFIXES:
        if os.path.lexists(repository / f"{name}_{suffix}"):
            raise ExportError(
                f"{repository} already has a model {name} ({name}_{suffix}): choose another name or overwrite it"
            )


def recover(repository: Path) -> None:
    """Complete or remove what killed exports left in the repository; running ones are left alone."""
    with _locked(repository):
        _recover(repository)


def _recover(repository: Path) -> None:
    for directory in _leftovers(repository):
        if not directory.is_dir():
            directory.unlink()  # left by `_staging_parent`, which runs under the repository's lock
            continue
        with suppress(BlockingIOError), _locked(directory, wait=False):
            name = _journal(directory)
            if name is not None:
                _swap(repository, directory, name)
            shutil.rmtree(directory)


def _prefix(repository: Path) -> str:
    return f".{repository.name}.clipdex-export-"


def _staging_parent(repository: Path) -> Path:
    """Return the directory next to the repository if files can be renamed from there, else the repository."""
    try:
        with tempfile.NamedTemporaryFile(dir=repository.parent, prefix=_prefix(repository)) as probe:
            inside = repository / Path(probe.name).name
            # Only a rename tells: two mounts of one device look the same, and so do quotas.
            Path(probe.name).rename(inside)
            inside.rename(probe.name)
    except OSError:
        return repository
    return repository.parent


def _leftovers(repository: Path) -> list[Path]:
    """List this user's staging directories only: in a parent like /tmp, anyone could plant one to be installed."""
    found = []
    for parent in (repository.parent, repository):
        with suppress(PermissionError):  # a parent that cannot be listed cannot be used for building either
            found += [entry for entry in parent.iterdir() if entry.name.startswith(_prefix(repository))]
    return sorted(entry for entry in found if entry.lstat().st_uid == os.geteuid() and not entry.is_symlink())


def _journal(directory: Path) -> str | None:
    """Return the name of the model whose installation had begun, if any."""
    try:
        return str(json.loads((directory / _JOURNAL).read_text())["name"])
    except (FileNotFoundError, ValueError):  # a truncated journal was not synced, so no rename had begun
        return None


def _remove_staging(repository: Path, directory: Path) -> None:
    if (directory / _JOURNAL).exists():
        return  # even the rollback was interrupted, and the replaced models are in here: the next export resumes
    with ExitStack() as stack:
        with suppress(FileNotFoundError):  # somebody removed the repository meanwhile
            stack.enter_context(_locked(repository))
        shutil.rmtree(directory, ignore_errors=True)


def _swap(repository: Path, directory: Path, name: str) -> None:
    """Move old models out and new ones in. After a kill at any point, calling it again resumes."""
    waiting = [s for s in SUFFIXES if (directory / "new" / f"{name}_{s}").exists()]
    for suffix in reversed(SUFFIXES):
        live, old = repository / f"{name}_{suffix}", directory / "old" / f"{name}_{suffix}"
        if suffix in waiting and os.path.lexists(live):
            live.rename(old)
    _sync_directory(repository)
    for suffix in SUFFIXES:
        if suffix in waiting:
            (directory / "new" / f"{name}_{suffix}").rename(repository / f"{name}_{suffix}")
            _sync_directory(repository)


def _swap_back(repository: Path, directory: Path, name: str) -> None:
    """Undo a `_swap` that raised: move new models back to staging, and old ones back in place, assets last."""
    for suffix in reversed(SUFFIXES):
        live, new = repository / f"{name}_{suffix}", directory / "new" / f"{name}_{suffix}"
        if not new.exists():
            live.rename(new)
    for suffix in SUFFIXES:
        live, old = repository / f"{name}_{suffix}", directory / "old" / f"{name}_{suffix}"
        if os.path.lexists(old):
            old.rename(live)
    _sync_directory(repository)


def _make_repository(repository: Path) -> list[Path]:
    """Create the directory with its parents -> those that were created, innermost first."""
    made = []
    for path in (repository, *repository.parents):
        if path.exists():
            break
        made.append(path)
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ExportError(f"{repository} cannot be created as a model repository: {exc.strerror}") from exc
    return made


def _remove_if_empty(directories: list[Path]) -> None:
    for directory in directories:
        with suppress(OSError):  # not empty: it has the installed model
            directory.rmdir()


@contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive flock on the directory itself, which leaves no lock file behind."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def _sync_tree(root: Path) -> None:
    for parent, _, files in os.walk(root):
        for file in files:
            fd = os.open(Path(parent) / file, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        _sync_directory(Path(parent))


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
