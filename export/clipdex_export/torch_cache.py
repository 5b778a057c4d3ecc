"""Export of an index as a PyTorch cache: `torch.load(path)` gives a dictionary of embeddings and paths."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from clipdex.apps.dump_files import chosen_rows, recorded, write_rows
from clipdex.base.arrays import Array
from clipdex.base.extras import needs
from clipdex.base.replacing import replacing
from clipdex.index import Index

__all__ = ["dump_torch"]


def dump_torch(index: Index, path: Path, rows: Array | None = None) -> int:
    """Write `{'embeddings': float32 tensor (n, D), 'paths': [n of str]}` with `torch.save` -> n.

    Bytes of a path that are not UTF-8 become surrogates; `os.fsencode` restores them.
    rows: the rows to write; all live ones if not given.

    Raises:
        MissingExtra: torch is not installed, or cannot be imported.
        IndexDamaged: a row to write is damaged.
        ClipdexError: the file cannot be written.
    """
    with needs("torch", "torch", "export", "writing a torch cache"):
        import torch
    chosen = chosen_rows(index, rows)
    shape = (len(chosen), index.manifest.embedding_dim)
    paths: list[str] = []
    for some in recorded(index, chosen):
        paths += [os.fsdecode(picture.path) for _, picture in some]
    # torch.save needs all rows at once: a mapped file provides them without using memory.
    with (
        replacing(path, "the torch cache") as file,
        tempfile.TemporaryFile(dir=path.absolute().parent) as rows_file,
    ):
        write_rows(rows_file, index, chosen, "float32")
        rows_file.flush()
        mapped = np.memmap(rows_file, "<f4", "r+", shape=shape) if len(chosen) else np.empty(shape, np.float32)
        try:
            torch.save({"embeddings": torch.from_numpy(mapped), "paths": paths}, file)
        except RuntimeError as exc:
            # torch's error on closing its archive hides the write that failed before.
            if isinstance(exc.__context__, OSError):
                raise OSError(*exc.__context__.args) from exc
            raise
    return len(chosen)
