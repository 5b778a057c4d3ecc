"""Reading again what the pictures of an index say of themselves, without embedding anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import IndexFault
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.index.writer import IndexWriter
from clipdex.model.card import ImageSpec
from clipdex.pipeline.decode import DecodePool, Unchanged
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.standing import looked_up
from clipdex.sources.opening import as_source
from clipdex.sources.scan import FoundFile
from clipdex.sources.source import Source

__all__ = ["Refreshed", "refresh_metadata"]

# No pixels are decoded: the ring only bounds how far the workers read ahead.
_SPEC = ImageSpec(1, 1, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3)
_TRAY, _TRAYS = 64, 6
_COMMIT = 4096


@dataclass(frozen=True)
class Refreshed:
    """The result of a refresh.

    refreshed: pictures that were read again. with_exif: those of them that say anything.
    changed: files whose content differs from what was indexed; their rows are left.
    failed: files that could not be read; their rows are left. unknown: files that have no row.
    """

    refreshed: int
    with_exif: int
    changed: int
    failed: int
    unknown: int


def refresh_metadata(
    source: Source | str | os.PathLike[str],
    index: PathLike,
    *,
    exif: bool = True,
    workers: int | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Refreshed:
    """Read the indexed pictures of a source again for their metadata: no server is needed, nothing is embedded.

    What their files and sidecars say now replaces what they said (`clipdex.Exif`), and so do the captions and
    columns of tars and tables. Files that are new, changed or unreadable are left to `index_pictures`; no row is
    added or removed. What was committed stays if it is interrupted.

    Args:
        source: as for `index_pictures`.
        exif: False leaves what their files say as it is kept.
        workers: reading processes; one per core if not given.
        limits: limits on the cost of one file.
        progress: called with the number of files read, and of live rows, of which the source may have fewer.

    Raises:
        IndexNotFound: there is no index.
        SourceError: the source is missing, unreadable, or holds no picture.
        IndexFault: as `IndexWriter` raises it.
    """
    source, index = as_source(source), as_path(index, "the path of an index")
    failures: list[Failure] = []
    refreshed = with_exif = changed = read = unknown = 0

    with IndexWriter(index) as writer:
        rows = writer.live_rows()

        def known_files() -> Iterator[FoundFile]:
            nonlocal unknown
            for file, known in looked_up(source.files(failures.append), writer.known_among):
                if known is None or known.row is None:
                    unknown += 1
                else:
                    yield file

        try:
            with (
                PixelRing(_SPEC.size, _TRAY, _TRAYS) as ring,
                DecodePool(_SPEC, ring, workers=workers, limits=limits, exif=exif, decodes=False) as pool,
            ):
                for read, result in enumerate(pool.decode(known_files()), start=1):
                    if not isinstance(result, Unchanged):
                        failures += [result] if isinstance(result, Failure) else []
                    else:
                        picture = result.picture
                        known = writer.known(picture.path)
                        if known is not None and known.content_hash == picture.content_hash:
                            writer.touch(picture)
                            refreshed += 1
                            with_exif += bool(picture.exif)
                        else:
                            changed += 1
                    if read % _TRAY == 0:
                        pool.release_tray()
                    if writer.pending >= _COMMIT:
                        writer.commit()
                    if progress is not None:
                        progress(read, rows)
        except BaseException:
            with suppress(IndexFault):
                writer.commit()
            raise
        writer.commit()
    if not (read or unknown or failures):
        raise source.nothing_found()
    return Refreshed(refreshed, with_exif, changed, len(failures), unknown)
