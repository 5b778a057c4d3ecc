"""Bringing an index up to date with a source."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import IndexFault
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.client.client import Client
from clipdex.index.manifest import Manifest
from clipdex.index.writer import IndexWriter
from clipdex.model.formats.icc import IccUse, check_icc
from clipdex.pipeline.departures import remove_departed
from clipdex.pipeline.report import Progress, RunReport
from clipdex.pipeline.ring import open_ring
from clipdex.pipeline.run import BATCH_DEADLINE_S, Run
from clipdex.pipeline.standing import Check, checked
from clipdex.sources.census import PassedOver, Surveyed
from clipdex.sources.opening import as_source
from clipdex.sources.source import Source

__all__ = ["MAX_RING_BYTES", "index_pictures"]

# For decoded pictures. At 224 px it holds some 3,500 of them.
MAX_RING_BYTES = 512 << 20


def index_pictures(
    client: Client,
    source: Source | str | os.PathLike[str],
    index: PathLike,
    *,
    dtype: str = "float16",
    icc: IccUse | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    retry_failures: bool = False,
    check: Check = "stat",
    exif: bool = True,
    max_ring_bytes: int = MAX_RING_BYTES,
    batch_deadline_s: float = BATCH_DEADLINE_S,
    progress: Callable[[Progress], None] | None = None,
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
        workers: decoding processes; one per core if not given.
        limits: limits on the cost of one file; the defaults of `Limits` if not given.
        retry_failures: retry files that failed before and have not changed since.
        check: "stat": a file with unchanged size, mtime and ctime is not read; "content": every file is read, and
            embedded if its content has changed.
        exif: keep what the pictures that are read say of themselves, in EXIF, XMP or IPTC (`clipdex.Exif`).
        max_ring_bytes: memory for decoded pictures, including those in flight; at least two pictures.
        batch_deadline_s: seconds for one request with all its retries, after which the run ends with the error.
        progress: called as pictures are read and embedded, at most twenty times a second, and after each batch.

    Raises:
        InvalidArgument: `check` is neither of the two.
        SourceError: the source is missing, unreadable, or holds no picture.
        FingerprintMismatch: the index holds another model's vectors.
        InvalidArgument: the index was created with another `icc`.
        ServerError, IndexFault: as the client and the index raise them.
    """
    started = time.monotonic()
    source = as_source(source)
    index = as_path(index, "the path of an index")
    checked(check)
    # Lock the index before a long listing; but do not create an index for an empty source.
    is_new = not os.path.lexists(index)
    if is_new:
        _require_a_picture(source)
    made_with = check_icc("off" if icc is None else icc)
    with IndexWriter.open_or_create(index, Manifest.of(client.card, dtype, made_with)) as writer:
        writer.manifest.require(client.card, index)
        writer.manifest.require_icc(icc, index)
        if not is_new:
            _require_a_picture(source)
        run = Run(client, writer, source, retry_failures, check, progress, batch_deadline_s, exif=exif)
        try:
            with open_ring(client, max_ring_bytes) as ring:
                run.embed_all(ring, workers, limits or Limits())
        except BaseException:
            # The rows appended so far are complete; the next run need not embed them again.
            with suppress(IndexFault):
                writer.commit()
            raise
        removed, left_out = remove_departed(writer, source)
        writer.commit()
        tally = run.tally
        return RunReport(
            discovered=tally.found,
            indexed=tally.indexed,
            recognised=tally.recognised,
            unchanged=tally.unchanged,
            failed=tally.failed,
            removed=removed,
            rows=writer.live_rows(),
            seconds=time.monotonic() - started,
            images_per_s=run.images_per_s(),
            stage_seconds=run.times.seconds,
            transfer=ring.transfer,
            unseen=tally.unseen,
            left_out=left_out,
            changed=tally.changed,
            passed_over=source.passed_over() if isinstance(source, Surveyed) else PassedOver(),
            stranded=run.copies.stranded(),
        )


def _require_a_picture(source: Source) -> None:
    """Raise SourceError if there is none: the folder may be the mount point of a disk that is not mounted."""
    source = getattr(source, "whole", source)
    seen: list[Failure] = []
    if next(source.files(seen.append), None) is None and not seen:
        raise source.nothing_found()
