"""Bringing one index directory up to date with a source."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from clipdex.base.errors import IndexFault
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.client.client import Client
from clipdex.index.manifest import Manifest
from clipdex.index.writer import IndexWriter
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.pipeline.decode import DECODER
from clipdex.pipeline.departures import remove_departed
from clipdex.pipeline.report import Progress, RunReport
from clipdex.pipeline.ring import open_ring
from clipdex.pipeline.run import BATCH_DEADLINE_S, Run
from clipdex.pipeline.standing import Check
from clipdex.sources.census import PassedOver, Surveyed
from clipdex.sources.source import Source

__all__ = ["MAX_RING_BYTES", "index_one", "require_a_picture"]

# For decoded pictures. At 224 px it holds some 3,500 of them.
MAX_RING_BYTES = 512 << 20


def index_one(
    client: Client,
    source: Source,
    index: Path,
    *,
    dtype: str = "float16",
    icc: IccUse | None = None,
    decode: DecodeUse | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    retry_failures: bool = False,
    check: Check = "stat",
    max_ring_bytes: int = MAX_RING_BYTES,
    batch_deadline_s: float = BATCH_DEADLINE_S,
    exif: bool = True,
    progress: Callable[[Progress], None] | None = None,
    count: bool = True,
    decoder: Sequence[str] = DECODER,
) -> RunReport:
    """Bring an index that has no parts up to date with a source; see `index_pictures`.

    count: count the pictures for `progress`, which costs a pass over the source, unless it knows their number.
    decoder: what the workers run, for measurements without decoding; see `DecodePool`.
    """
    started = time.monotonic()
    rules = PictureRules.of(icc, decode)
    # Lock the index before a long listing; but do not create an index for an empty source.
    is_new = not os.path.lexists(index)
    if is_new:
        require_a_picture(source)
    with IndexWriter.open_or_create(index, Manifest.of(client.card, dtype, rules.icc, rules.decode)) as writer:
        writer.manifest.require(client.card, index)
        writer.manifest.require_rules(icc, decode, index)
        if not is_new:
            require_a_picture(source)
        failed_before = writer.failed_paths()
        run = Run(
            client, writer, source, retry_failures, check, progress, batch_deadline_s, exif=exif, count=count
        )
        try:
            with open_ring(client, max_ring_bytes) as ring:
                run.embed_all(ring, workers, limits or Limits(), decoder)
        except BaseException:
            # The rows appended so far are complete; the next run need not embed them again.
            with suppress(IndexFault):
                writer.commit()
            raise
        removed, left_out = remove_departed(writer, source, failed_before)
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


def require_a_picture(source: Source) -> None:
    """Raise SourceError if there is none: the folder may be the mount point of a disk that is not mounted."""
    source = getattr(source, "whole", source)
    seen: list[Failure] = []
    if next(source.files(seen.append), None) is None and not seen:
        raise source.nothing_found()
