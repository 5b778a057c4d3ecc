"""The files of one source of ready-made ONNX: listed by name, and downloaded when needed."""

from __future__ import annotations

from pathlib import Path

from clipdex.base.errors import CheckpointError
from clipdex_export.hub import CheckpointFiles, fetch_files, find_checkpoint, list_files
from clipdex_export.pointers import refuse_pointers

__all__ = ["Repository"]


class Repository:
    """A local directory, or a hub repository.

    source: as given. names: of its files, relative, down to its direct subdirectories.
    """

    def __init__(self, source: str, files: CheckpointFiles, names: tuple[str, ...]) -> None:
        self.source = source
        self.files = files
        self.names = names

    @classmethod
    def find(cls, source: str, revision: str | None) -> Repository:
        """Find a source, and download its small files only.

        Raises:
            CheckpointError: see `hub.find_checkpoint`.
        """
        files = find_checkpoint(source, revision)
        return cls(source, files, list_files(files))

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def first_of(self, *names: str) -> str | None:
        """Return the first of these names that the source has."""
        return next((name for name in names if name in self), None)

    def path(self, name: str) -> Path:
        """Return the path of a file, after downloading it if necessary.

        Raises:
            CheckpointError: there is no such file, it cannot be downloaded, or it is a git-lfs pointer.
        """
        if name not in self:
            raise CheckpointError(f"{self.source} has no {name}")
        fetch_files(self.files, [name])
        path = self.files.directory / name
        refuse_pointers([path], "a file of the model")
        return path
