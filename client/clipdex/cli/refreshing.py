"""`clipdex index --refresh-metadata`: what it reports."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from clipdex.base.counting import counted
from clipdex.base.limits import Limits
from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.printing import say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.pipeline.refresh import refresh_metadata
from clipdex.sources import Source

__all__ = ["refresh"]


def refresh(source: Source, out: Path, exif: bool, workers: int | None, limits: Limits, as_json: bool) -> int:
    """Read the metadata of indexed pictures again, and say what was done -> the number that could not be read."""
    with interruptible("run the same command again for the rest"), rows_progress("reading") as progress:
        done = refresh_metadata(source, out, exif=exif, workers=workers, limits=limits, progress=progress)
    if as_json:
        say_json({"index": str(out), "dry_run": False} | asdict(done))
    else:
        left = [
            f"{count:,} {why}"
            for count, why in (
                (done.changed, "changed"),
                (done.unknown, "not indexed"),
                (done.failed, "could not be read"),
            )
            if count
        ]
        rest = f"; left as they are: {', '.join(left)}" if left else ""
        say(
            f"{counted(done.refreshed, 'picture')} read again, {done.with_exif:,} with metadata of their own, in "
            f"{shown_path(str(out))}; nothing was embedded{rest}"
        )
    return done.failed
