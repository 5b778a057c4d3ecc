"""Add perceptual signatures to rows that have none: their files are read again, but not embedded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdex.base.item_paths import is_item
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.index.part_plan import is_parted, whole_parts
from clipdex.index.reader import Index
from clipdex.index.writer import IndexWriter
from clipdex.model.card import ImageSpec
from clipdex.pipeline.decode import DecodePool
from clipdex.pipeline.ring import PixelRing
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.opening import retry_source

__all__ = ["Signed", "sign_index"]

# The pixels are not used; the signature is computed from the picture resized to this.
_SPEC = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3)
_TRAY, _TRAYS = 16, 6
_COMMIT = 4096


@dataclass(frozen=True)
class Signed:
    """The result of signing. signed: rows given one. left: rows whose file is gone, changed or unreadable."""

    signed: int
    left: int


def sign_index(
    directory: Path,
    *,
    workers: int | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Signed:
    """Compute and store the perceptual signature of all rows that have none, from their files.

    A file whose content has changed is left; the next `clipdex index` takes care of it.

    Args:
        workers: decoding processes; one per core if not given.
        limits: limits on the cost of one file.
        progress: called with the number of files read and of all.

    Raises:
        IndexLocked, IndexWriteError, IndexDamaged: as the writer raises them.
    """
    if is_parted(directory):
        parts = whole_parts(directory)
        done = [sign_index(part, workers=workers, limits=limits, progress=progress) for part in parts]
        return Signed(sum(each.signed for each in done), sum(each.left for each in done))
    with IndexWriter(directory) as writer:
        wanted = _unsigned(directory)
        signed = read = 0
        failures: list[Failure] = []
        files = retry_source(wanted, f"the rows of {directory}").files(failures.append) if wanted else iter(())
        with (
            PixelRing(_SPEC.size, _TRAY, _TRAYS) as ring,
            DecodePool(_SPEC, ring, workers=workers, limits=limits, rules=writer.manifest.rules) as pool,
            FetchAhead((limits or Limits()).max_file_bytes) as ahead,
        ):
            for read, result in enumerate(pool.decode(ahead.over(files)), start=1):
                if not isinstance(result, Failure) and result.picture.phash is not None:
                    picture = result.picture
                    if wanted.get(picture.path) == picture.content_hash:
                        writer.sign(picture.path, result.picture.phash)
                        signed += 1
                if read % _TRAY == 0:
                    pool.release_tray()
                if writer.pending >= _COMMIT:
                    writer.commit()
                if progress is not None:
                    progress(read, len(wanted))
        return Signed(signed, len(wanted) - signed)


def _unsigned(directory: Path) -> dict[bytes, bytes]:
    """Return path -> content hash for the live rows of files without a valid signature."""
    found: dict[bytes, bytes] = {}
    with Index.open(directory) as index:
        for start in range(0, len(index.vectors), 65_536):
            held = {row for row, _ in index.signatures(start, start + 65_536)}
            rows = {row: content for row, content, *_ in index.contents(start, start + 65_536) if row not in held}
            pictures = index.pictures(list(rows))
            found |= {
                pictures[row].path: content for row, content in rows.items() if not is_item(pictures[row].path)
            }
    return found
