"""One run over a source, which joins the stages: scan → decode → embed → append."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import RequestRefused
from clipdex.base.interrupts import interrupts_noted
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.client.client import Client
from clipdex.client.steps import bisect
from clipdex.index.writer import IndexWriter
from clipdex.pipeline.batch import Batch
from clipdex.pipeline.decode import DECODER, Decoded, DecodePool, Unchanged
from clipdex.pipeline.departures import CopiesMet
from clipdex.pipeline.picture_count import PictureCount
from clipdex.pipeline.report import Phase, Progress, StageTimes, Tally
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.standing import Check, Standing, keeps_its_row, looked_up, standing_of, to_read
from clipdex.sources.census import Counted, is_costly
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.scan import FoundFile
from clipdex.sources.source import Source

__all__ = ["BATCH_DEADLINE_S", "Run"]

_LOG = logging.getLogger("clipdex.pipeline")
_T = TypeVar("_T")

# A commit costs an fsync or two; at most this many rows or seconds are lost in a power failure.
_COMMIT_ROWS = 16_384
_COMMIT_S = 5.0

# For one batch with all its retries: a server that restarts, or builds its engines, costs time but no rows.
BATCH_DEADLINE_S = 900.0

# Notes of the scan on files that are not decoded: the most that may wait for the joining thread, and how long.
_MOST_NOTES = 16_384
_PATIENCE_S = 0.05

# A progress bar moves as smoothly as an eye can see.
_REPORT_S = 0.05


class Run:
    """The state of one run; `embed_all` goes through its stages."""

    def __init__(
        self,
        client: Client,
        writer: IndexWriter,
        source: Source,
        retry_failures: bool,
        check: Check,
        progress: Callable[[Progress], None] | None,
        batch_deadline_s: float = BATCH_DEADLINE_S,
        *,
        exif: bool,
        count: bool = True,
    ) -> None:
        self.tally = Tally()
        self.copies = CopiesMet(writer)
        self.times = StageTimes()
        self._client = client
        self._writer = writer
        self._source = source
        self._retry_failures = retry_failures
        self._check = check
        self._progress = progress
        self._deadline_s = batch_deadline_s
        self._exif = exif
        self._counts = count
        # The scan runs in the decoder's thread, and hands over its failures here.
        self._scan_failures: deque[Failure] = deque()
        # New metadata of unchanged files, and ctimes of those whose ctime was not known.
        self._remarks: deque[tuple[bytes, str | int]] = deque()
        size = source.size() if isinstance(source, Counted) else None
        self._total: Callable[[], int | None] = lambda: size  # of all pictures, once known
        self._replacing: set[bytes] = set()  # paths of decoded pictures that have a row already
        self._waiting = 0
        self._phase: Phase = "scanning"
        self._reported_at = 0.0
        self._over = threading.Event()
        self._busy: Mapping[str, float] = {}  # the workers' seconds so far
        self._first_at: float | None = None
        self._last_at = self._committed_at = time.monotonic()

    def embed_all(
        self, ring: PixelRing, workers: int | None, limits: Limits, decoder: Sequence[str] = DECODER
    ) -> None:
        """Scan → decode → one request per tray → append in order. decoder: as for a DecodePool."""
        in_flight = min(self._client.in_flight, ring.trays - 1)
        if in_flight < self._client.in_flight:
            _LOG.warning(
                "the ring has room for %d trays: %d requests in flight instead of %d; make it larger to keep the "
                "server busy",
                ring.trays,
                in_flight,
                self._client.in_flight,
            )
        with (
            DecodePool(
                self._client.card.image,
                ring,
                workers=workers,
                limits=limits,
                rules=self._writer.manifest.rules,
                exif=self._exif,
                decoder=decoder,
            ) as pool,
            FetchAhead(limits.max_file_bytes) as ahead,
            self._counted(),
            interrupts_noted() as stop_if_told,
        ):
            self._busy = pool.busy
            self._embed(pool, ahead, ring, in_flight, stop_if_told)
            self.times.seconds.update(pool.busy)
        self._note_scan()
        self._phase = "committing"
        self._report()
        self._commit()
        self.tally.check()
        self._last_at = time.monotonic()
        self._report()

    def _embed(
        self,
        pool: DecodePool,
        ahead: FetchAhead,
        ring: PixelRing,
        in_flight: int,
        stop_if_told: Callable[[], None],
    ) -> None:
        waiting: deque[tuple[Batch, Future[Array] | None]] = deque()
        fresh = self.times.each("scan", ahead.over(self._fresh_files()))
        batch = Batch(ring.tray_of(0))
        heard = 0
        self._report()
        try:
            for results in self.times.each("wait_decode", pool.decode_within(_PATIENCE_S, fresh)):
                stop_if_told()
                self._report_if_due()
                if not results:  # the scan may have many notes on files that are not decoded
                    self._note_scan()
                    self._commit_if_due()
                while results:
                    stop_if_told()
                    # A tray's worth at most: it ends with a request, and then with rows that the next may copy.
                    room = ring.rows - heard % ring.rows
                    some, results = results[:room], results[room:]
                    heard += len(some)
                    self._place(some, batch)
                    if heard % ring.rows == 0:
                        waiting.append((batch, self._submit(batch)))
                        batch = Batch(ring.tray_of(heard))
                        if len(waiting) >= in_flight:
                            self._append(*waiting.popleft())
                            pool.release_tray()
            waiting.append((batch, self._submit(batch)))
            while waiting:
                stop_if_told()
                self._append(*waiting.popleft())
        finally:
            self._over.set()
            for _, answer in waiting:
                if answer is not None:
                    answer.cancel()

    def _place(self, results: Sequence[Decoded | Unchanged | Failure], batch: Batch) -> None:
        """Send files that were read to the ledger, their old row, another row's vector, or the model."""
        self._commit_if_due()  # a run may meet nothing but failures and touched files
        self._phase = "embedding"
        with self.times.during("place"):
            pictures = [result.picture for result in results if not isinstance(result, Failure)]
            contents = self._writer.contents_among([picture.content_hash for picture in pictures])
            for result in results:
                if isinstance(result, Failure):
                    self._fail(result)
                else:
                    self._place_one(result, batch, contents)

    def _place_one(self, result: Decoded | Unchanged, batch: Batch, contents: Container[bytes]) -> None:
        """Do as `_place` for one picture. contents: those of rows in the index, committed or not."""
        picture, known = result.picture, result.known
        if known is not None and known.content_hash == picture.content_hash:
            self._writer.touch(picture)
            self.tally.touched += 1
            return
        if isinstance(result, Unchanged):  # compared with what the file was when found; it has changed since
            why = "it was changed during the run"
            self._fail(Failure(picture.path, "unreadable", why, 0, 0))
            return
        if self._first_at is None:
            self._first_at = time.monotonic()
        self._waiting += 1
        if known is not None and known.row is not None:
            self._replacing.add(picture.path)
        row = self._writer.row_of_content(picture.content_hash) if picture.content_hash in contents else None
        if row is None:
            batch.embed(picture, result.slot)
        else:
            batch.copy(picture, row)
            self.copies.note(picture.content_hash)

    def images_per_s(self) -> float:
        """Return the pictures indexed per second since the first was decoded."""
        return 0.0 if self._first_at is None else self.tally.indexed / max(1e-9, self._last_at - self._first_at)

    def _fresh_files(self) -> Iterator[FoundFile]:
        """Yield the files whose index row is missing or out of date. Runs in the decoder's thread."""
        for file, known in looked_up(self._source.files(self._fail_scan), self._writer.known_among):
            if self._over.is_set():
                return  # Ctrl-C: with a million unchanged files, no other stage would notice it
            self.tally.found += 1
            standing = standing_of(file, known, check=self._check, retry_failures=self._retry_failures)
            if known is None or standing not in (Standing.FAILED, Standing.UNCHANGED):
                yield to_read(file, known)
                continue
            if known.ctime_ns is None and file.ctime_ns is not None:
                self._hand_over(self._remarks, (file.path, file.ctime_ns))
            if known.row is None:
                self.tally.failed_before += 1
                continue
            self.tally.same += 1
            said = file.metadata
            if said is not None and said != self._writer.metadata(known.row):
                self._hand_over(self._remarks, (file.path, said))

    def _fail_scan(self, failure: Failure) -> None:
        self.tally.found += 1
        self._hand_over(self._scan_failures, failure)

    def _hand_over(self, notes: deque[_T], note: _T) -> None:
        """Queue a note for the joining thread, bounded: a table of millions may have new captions."""
        while len(notes) >= _MOST_NOTES and not self._over.wait(0.005):
            pass
        notes.append(note)

    def _submit(self, batch: Batch) -> Future[Array] | None:
        with self.times.during("submit"):
            pixels = batch.pixels()
            return self._client.submit_pixels(pixels, self._deadline_s) if len(pixels) else None

    def _append(self, batch: Batch, answer: Future[Array] | None) -> None:
        vectors, count = None, len(batch.pictures)
        if answer is not None:
            with self.times.during("wait_embed"):
                vectors = self._answers(batch, answer)
        with self.times.during("append"):
            if vectors is not None:
                writer = self._writer
                writer.manifest = writer.manifest.noting(self._client.card, writer.directory)
            dim = self._client.card.embedding_dim
            self._writer.append(batch.pictures, batch.vectors(vectors, self._writer.vector, dim))
        self.tally.indexed += len(batch.pictures)
        self.tally.recognised += batch.recognised
        if self._replacing:
            replaced = self._replacing.intersection([picture.path for picture in batch.pictures])
            self._replacing -= replaced
            self.tally.changed += len(replaced)
        self._waiting -= count
        self._note_scan()
        self._commit_if_due()
        self._last_at = time.monotonic()
        self._report()

    def _answers(self, batch: Batch, answer: Future[Array]) -> Array:
        """Return the model's vectors for a batch's pixels; refused pictures leave the batch for the ledger."""
        pixels, client = batch.pixels(), self._client
        try:
            return client.checked(answer.result(), len(pixels))
        except RequestRefused as exc:
            found = bisect(pixels, lambda part: client.submit_pixels(part, self._deadline_s), exc, client.checked)
            refusals = {row: each for row, each in enumerate(found) if isinstance(each, RequestRefused)}
            if len(found) > 1 and len(refusals) == len(found):
                raise  # all were refused: the pictures are not at fault
        vectors = np.zeros((len(found), client.card.embedding_dim), dtype=np.float32)
        for row, each in enumerate(found):
            if not isinstance(each, RequestRefused):
                vectors[row] = each
        for row, refusal in refusals.items():
            for picture in batch.drop([row]):
                p = picture
                self._fail(Failure(p.path, "refused", str(refusal), p.size, p.mtime_ns, p.ctime_ns))
        return vectors

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
            failure = self._scan_failures.popleft()
            if keeps_its_row(failure, self._writer.known):
                self.tally.unseen += 1  # a line in the ledger would replace the row
            else:
                self._fail(failure)
        while self._remarks:
            path, remark = self._remarks.popleft()
            if isinstance(remark, int):
                self._writer.date(path, remark)
            else:
                self._writer.annotate(path, remark)

    def _report_if_due(self) -> None:
        if self._progress is not None and time.monotonic() - self._reported_at >= _REPORT_S:
            self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._reported_at = time.monotonic()
            t, rate = self.tally, self.images_per_s()
            seconds, total = {**self.times.seconds, **self._busy}, self._total()
            self._progress(
                Progress(t.indexed, t.unchanged, t.failed, total, rate, seconds, self._waiting, self._phase)
            )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the pictures in a thread during the block, if progress is reported and nobody else counts them."""
        if self._progress is None or self._total() is not None or not self._counts or is_costly(self._source):
            yield
            return
        with PictureCount(self._source) as self._total:
            yield
