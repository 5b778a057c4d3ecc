"""The run that joins the stages: scan → decode → embed → append."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np

from clipdex.arrays import Array, Pixels
from clipdex.client import Client
from clipdex.errors import IndexFault
from clipdex.index.manifest import Manifest
from clipdex.index.rows import Failure, Picture
from clipdex.index.writer import IndexWriter
from clipdex.pipeline.decode import Decoded, DecodePool
from clipdex.pipeline.limits import Limits
from clipdex.pipeline.stages import StageTimes
from clipdex.sources.opening import as_source
from clipdex.sources.scan import FoundFile
from clipdex.sources.source import Source

__all__ = ["Progress", "RunReport", "index_pictures"]

# A commit costs an fsync or two; this many rows or seconds are lost at most when the power goes.
_COMMIT_ROWS = 16_384
_COMMIT_S = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a run is. total: the pictures in the folder, None until they are counted."""

    indexed: int
    unchanged: int
    failed: int
    total: int | None
    images_per_s: float

    @property
    def done(self) -> int:
        """The files that need no more work."""
        return self.indexed + self.unchanged + self.failed


@dataclass(frozen=True)
class RunReport:
    """What a run did. discovered = indexed + unchanged + failed.

    indexed: new and changed files, committed. recognised: those of them that have the content of another
        row (moved or copied files) and were not embedded again.
    unchanged: files that were in the index already, with the same content.
    failed: files that are in the ledger, whether this run put them there or an earlier one.
    removed: rows whose file is no longer there.
    rows: live rows in the index now.
    seconds: the whole run. images_per_s: the indexed ones, from the first file decoded to the last commit.
    stage_seconds: see `stages.STAGES`.
    """

    discovered: int
    indexed: int
    recognised: int
    unchanged: int
    failed: int
    removed: int
    rows: int
    seconds: float
    images_per_s: float
    stage_seconds: Mapping[str, float]


@dataclass
class _Tally:
    indexed: int = 0
    recognised: int = 0
    touched: int = 0
    same: int = 0  # counted in the decoder's thread
    failed_now: int = 0
    failed_before: int = 0  # counted in the decoder's thread

    @property
    def failed(self) -> int:
        return self.failed_now + self.failed_before

    @property
    def unchanged(self) -> int:
        return self.same + self.touched


@dataclass
class _Batch:
    """Files on their way to rows, in order: some need the model, some have the content of a row that is there."""

    pictures: list[Picture] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    at: list[int] = field(default_factory=list)  # the positions that the pixels belong to
    copies: dict[int, int] = field(default_factory=dict)  # position -> row with the same content


def index_pictures(
    client: Client,
    source: Source | str | os.PathLike[str],
    index: Path,
    *,
    dtype: str = "float16",
    workers: int | None = None,
    limits: Limits | None = None,
    retry_failures: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Bring an index up to date with a folder or another source; make it if it is not there.

    Files that the index already holds with the same size and time are not read again. A file that cannot be
    read gets a line in the ledger and never ends the run. What ends the run (Ctrl-C, a lost server, a full
    disk) loses nothing that was committed, and the next run goes on from there.

    Args:
        source: a directory, a tar or a table (see `open_source`), or any `Source`, such as `PathList`.
        dtype: of a new index, float16 or float32.
        workers: decoding processes; one a core if not given.
        limits: what one file may cost; the defaults of `Limits` if not given.
        retry_failures: try files again that failed before and have not changed since.
        progress: called about every batch.

    Raises:
        SourceError: the source is missing, unreadable, or holds no picture.
        FingerprintMismatch: the index holds another model's vectors.
        ServerError, IndexFault: as the client and the index raise them.
    """
    started = time.monotonic()
    source = as_source(source)
    _require_a_picture(source)
    with IndexWriter.open_or_create(index, Manifest.of(client.card, dtype)) as writer:
        writer.manifest.require(client.card, index)
        run = _Run(client, writer, source, retry_failures, progress)
        try:
            run.embed_all(workers, limits or Limits())
        except BaseException:
            # The rows appended so far are whole; the next run need not make them again.
            with suppress(IndexFault):
                writer.commit()
            raise
        removed = _remove_vanished(writer, source)
        writer.commit()
        tally = run.tally
        return RunReport(
            discovered=tally.indexed + tally.unchanged + tally.failed,
            indexed=tally.indexed,
            recognised=tally.recognised,
            unchanged=tally.unchanged,
            failed=tally.failed,
            removed=removed,
            rows=writer.live_rows(),
            seconds=time.monotonic() - started,
            images_per_s=run.images_per_s(),
            stage_seconds=run.times.seconds,
        )


def _require_a_picture(source: Source) -> None:
    seen: list[Failure] = []
    if next(source.files(seen.append), None) is None and not seen:
        raise source.nothing_found()


def _remove_vanished(writer: IndexWriter, source: Source) -> int:
    """Tombstones for rows whose file is gone, and their ledger lines -> how many rows."""
    rows = source.vanished(writer.live_paths())
    for path in rows + source.vanished(failure.path for failure in writer.failures()):
        writer.remove(path)
    return len(rows)


class _Run:
    """The state of one run; `embed_all` is the straight line through its stages."""

    def __init__(
        self,
        client: Client,
        writer: IndexWriter,
        source: Source,
        retry_failures: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.tally = _Tally()
        self.times = StageTimes()
        self._client = client
        self._writer = writer
        self._source = source
        self._retry_failures = retry_failures
        self._progress = progress
        # The scan runs in the decoder's thread; what it cannot look at is handed over here.
        self._scan_failures: deque[Failure] = deque()
        self._remarks: deque[tuple[bytes, str]] = deque()  # new metadata of files that have not changed
        self._total: int | None = None
        self._over = threading.Event()
        self._first_at: float | None = None
        self._last_at = self._committed_at = time.monotonic()

    def embed_all(self, workers: int | None, limits: Limits) -> None:
        """scan → decode → one request a full batch → append in order."""
        counter = threading.Thread(target=self._count, name="clipdex-count", daemon=True)
        counter.start()
        batch_size = self._client.max_batch_size
        waiting: deque[tuple[_Batch, Future[Array] | None]] = deque()
        try:
            with DecodePool(self._client.card.image, workers=workers, ahead=4 * batch_size, limits=limits) as pool:
                batch = _Batch()
                fresh = self.times.each("scan", self._fresh_files())
                for result in self.times.each("wait_decode", pool.decode(fresh)):
                    self._place(result, batch)
                    if len(batch.pixels) == batch_size or len(batch.pictures) >= 4 * batch_size:
                        waiting.append((batch, self._submit(batch)))
                        batch = _Batch()
                    if len(waiting) >= self._client.in_flight:
                        self._append(*waiting.popleft())
                waiting.append((batch, self._submit(batch)))
                while waiting:
                    self._append(*waiting.popleft())
        finally:
            self._over.set()
        self._note_scan()
        self._commit()
        self._last_at = time.monotonic()
        self._report()

    def _place(self, result: Decoded | Failure, batch: _Batch) -> None:
        """What becomes of a file that was read: the ledger, its old row, the vector of another, or the model."""
        self._commit_if_due()  # a run may meet nothing but failures and touched files
        if isinstance(result, Failure):
            self._fail(result)
            return
        with self.times.during("place"):
            picture = result.picture
            known = self._writer.known(picture.path)
            if known is not None and known.content_hash == picture.content_hash:
                self._writer.touch(picture)
                self.tally.touched += 1
                return
            if self._first_at is None:
                self._first_at = time.monotonic()
            row = self._writer.row_of_content(picture.content_hash)
            batch.pictures.append(picture)
            if row is None:
                batch.at.append(len(batch.pictures) - 1)
                batch.pixels.append(result.pixels)
            else:
                batch.copies[len(batch.pictures) - 1] = row

    def images_per_s(self) -> float:
        """The pictures indexed so far, over the time since the first was decoded."""
        return 0.0 if self._first_at is None else self.tally.indexed / max(1e-9, self._last_at - self._first_at)

    def _fresh_files(self) -> Iterator[FoundFile]:
        """The files whose index row is missing or out of date. Runs in the decoder's thread."""
        for file in self._source.files(self._scan_failures.append):
            known = self._writer.known(file.path)
            same = known is not None and (known.size, known.mtime_ns) == (file.size, file.mtime_ns)
            if known is None or not same or (known.row is None and self._retry_failures):
                yield file
            elif known.row is None:
                self.tally.failed_before += 1
            else:
                self.tally.same += 1
                said = file.metadata
                if said is not None and known.row is not None and said != self._writer.metadata(known.row):
                    self._remarks.append((file.path, said))

    def _submit(self, batch: _Batch) -> Future[Array] | None:
        with self.times.during("submit"):
            return self._client.submit_pixels(np.stack(batch.pixels)) if batch.pixels else None

    def _append(self, batch: _Batch, answer: Future[Array] | None) -> None:
        vectors = np.empty((len(batch.pictures), self._client.card.embedding_dim), dtype=np.float32)
        if answer is not None:
            with self.times.during("wait_embed"):
                vectors[batch.at] = self._client.checked(answer.result())
        with self.times.during("append"):
            for position, row in batch.copies.items():
                vectors[position] = self._writer.vector(row)
            self._writer.append(batch.pictures, vectors)
        self.tally.indexed += len(batch.pictures)
        self.tally.recognised += len(batch.copies)
        self._note_scan()
        self._commit_if_due()
        self._last_at = time.monotonic()
        self._report()

    def _commit_if_due(self) -> None:
        if self._writer.pending >= _COMMIT_ROWS or time.monotonic() - self._committed_at >= _COMMIT_S:
            self._commit()

    def _commit(self) -> None:
        with self.times.during("commit"):
            self._writer.commit()
        self._committed_at = time.monotonic()

    def _fail(self, failure: Failure) -> None:
        self._writer.fail(failure)
        self.tally.failed_now += 1

    def _note_scan(self) -> None:
        while self._scan_failures:
            self._fail(self._scan_failures.popleft())
        while self._remarks:
            self._writer.annotate(*self._remarks.popleft())

    def _report(self) -> None:
        if self._progress is not None:
            t = self.tally
            self._progress(Progress(t.indexed, t.unchanged, t.failed, self._total, self.images_per_s()))

    def _count(self) -> None:
        # Only the progress bar needs it; what goes wrong here goes wrong in the run as well, and is said there.
        with suppress(Exception):
            failures: list[Failure] = []
            files = takewhile(lambda _: not self._over.is_set(), self._source.files(failures.append))
            self._total = sum(1 for _ in files) + len(failures)
