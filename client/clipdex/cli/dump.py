"""`clipdex dump`: write the vectors of an index in another program's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.dump_files import dump_faiss, dump_npy, dump_table
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.base.extras import is_usable
from clipdex.base.replacing import together
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.index_options import IndexAndFile, takes_index_and_file
from clipdex.cli.printing import say, say_json
from clipdex.cli.query_options import ParamOption, WhereOption, parameters
from clipdex.index import Index

__all__ = ["dump"]


@takes_index_and_file
def dump(
    named: IndexAndFile,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File for the paths, one line per row: .parquet or .csv. If not given, .npy and .faiss get one "
            "beside them.",
            show_default=False,
        ),
    ] = None,
    where: WhereOption = None,
    param: ParamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the vectors of an index in another program's format.

    Tombstones are left out. Row i of the vectors is line i of the table. An existing FILE is replaced.
    """
    index, out = named.index, named.file
    write = _writer(out)
    if table is None and out.suffix.lower() in (".npy", ".faiss"):
        table = out.with_suffix(".parquet" if is_usable("pyarrow") else ".csv")
    if param and where is None:
        raise InvalidArgument("--param gives a value to --where, but --where is not given")
    with interruptible("FILE is either unchanged or complete"), Index.open(index) as opened, together():
        rows = None if where is None else opened.where(where, parameters(param or []))
        if table is not None:
            dump_table(opened, table, rows)
        count = write(opened, out, rows)
        dim = opened.manifest.embedding_dim
    if as_json:
        paths = None if table is None else str(table)
        say_json({"index": str(index), "file": str(out), "table": paths, "rows": count, "embedding_dim": dim})
        return
    shape = f"{count:,} × {dim}"
    say(f"{shown_path(str(out))}: {shape}" + (f"; paths in {shown_path(str(table))}" if table else ""))


def _writer(out: Path) -> Callable[[Index, Path, Array | None], int]:
    suffix = out.suffix.lower()
    if suffix == ".npy":
        return dump_npy
    if suffix == ".faiss":
        return dump_faiss
    if suffix in (".pt", ".pth"):
        from clipdex_export.torch_cache import dump_torch

        return dump_torch
    raise InvalidArgument(f"{out}: unknown format {suffix!r}; expected .npy, .faiss or .pt")
