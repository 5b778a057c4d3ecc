"""Bringing an index up to date with a source."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.limits import Limits
from clipdex.client.client import Client
from clipdex.index.part_plan import is_parted
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse
from clipdex.pipeline.index_one import MAX_RING_BYTES, index_one
from clipdex.pipeline.index_parts import index_parts, opened_plan
from clipdex.pipeline.report import Progress, RunReport
from clipdex.pipeline.run import BATCH_DEADLINE_S
from clipdex.pipeline.standing import Check, checked
from clipdex.sources.opening import as_source
from clipdex.sources.source import Source

__all__ = ["MAX_RING_BYTES", "index_pictures"]


def index_pictures(
    client: Client,
    source: Source | str | os.PathLike[str],
    index: PathLike,
    *,
    dtype: str = "float16",
    icc: IccUse | None = None,
    decode: DecodeUse | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    retry_failures: bool = False,
    check: Check = "stat",
    exif: bool = True,
    max_ring_bytes: int = MAX_RING_BYTES,
    batch_deadline_s: float = BATCH_DEADLINE_S,
    progress: Callable[[Progress], None] | None = None,
    parts: int | None = None,
    part: int | None = None,
) -> RunReport:
    """Bring an index up to date with a folder or another source; create it if it does not exist.

    Files that the index already holds with the same size and times are not read again. A file that cannot be
    read gets a line in the ledger and never ends the run. If the run is ended by Ctrl-C, a lost server or a full
    disk, everything committed is kept, and the next run resumes from there.

    Args:
        source: a directory, a tar or a table (see `open_source`), or any `Source`, such as `PathList`.
        dtype: dtype of a new index, float16 or float32.
        icc: for a new index: "srgb" converts pictures from their colour profiles, "off" (the default) does not.
            An existing index keeps its own setting.
        decode: for a new index: "fast" decodes large JPEGs at a half, a quarter or an eighth of their size, at
            least twice the model's; "exact" (the default) decodes them whole. An existing index keeps its own.
        workers: decoding processes; one per core if not given.
        limits: limits on the cost of one file; the defaults of `Limits` if not given.
        retry_failures: retry files that failed before and have not changed since.
        check: "stat": a file with unchanged size, mtime and ctime is not read; "content": every file is read, and
            embedded if its content has changed.
        exif: keep what the pictures that are read say of themselves, in EXIF, XMP or IPTC (`clipdex.Exif`).
        max_ring_bytes: memory for decoded pictures, including those in flight; at least two pictures.
        batch_deadline_s: seconds for one request with all its retries, after which the run ends with the error.
        progress: called as pictures are read and embedded, at most twenty times a second, and after each batch.
        parts: make an index of so many parts (docs/parts.md). An existing index of parts keeps its number.
        part: bring only this part up to date, from 0; several processes may each do another one.

    Raises:
        InvalidArgument: `check` is neither of the two.
        SourceError: the source is missing, unreadable, or holds no picture.
        FingerprintMismatch: the index holds another model's vectors.
        InvalidArgument: the index was created with another `icc`, `decode` or number of parts, or lacks this part.
        ServerError, IndexFault: as the client and the index raise them.
    """
    source = as_source(source)
    index = as_path(index, "the path of an index")
    checked(check)
    run = partial(
        index_one,
        client,
        workers=workers,
        limits=limits,
        retry_failures=retry_failures,
        check=check,
        max_ring_bytes=max_ring_bytes,
        batch_deadline_s=batch_deadline_s,
        exif=exif,
    )
    if parts is None and part is None and not is_parted(index):
        return run(source, index, dtype=dtype, icc=icc, decode=decode, progress=progress)
    plan = opened_plan(client.card, source, index, parts, part, dtype, icc, decode)
    run_part = partial(run, dtype=plan.dtype, icc=plan.icc, decode=plan.decode)
    return index_parts(run_part, source, index, plan, part, progress)
