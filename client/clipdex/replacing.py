"""Writing a file so that whatever was at its path stays until the new one is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipdex.errors import ClipdexError

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path, what: str) -> Iterator[BinaryIO]:
    """A new file, which takes the place of the one at `path` when the `with` block ends without an exception.

    what: names the file in errors, as in "the contact sheet". Folders on the way are made.

    Raises:
        ClipdexError: the file cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as exc:
        raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
