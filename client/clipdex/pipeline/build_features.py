"""Making the local features of an index's pictures, from their files: only those that it has not yet."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import (
    ImageError,
    IndexDamaged,
    IndexFault,
    IndexLocked,
    InvalidArgument,
)
from clipdex.base.item_paths import is_item
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import Failure
from clipdex.index.files import is_at
from clipdex.index.part_plan import whole_parts
from clipdex.index.reader import Index
from clipdex.index.side.feature_file import (
    FEATURES_FILE,
    FEATURES_LOCK,
    FeatureFile,
    lock_features,
    remove_features,
)
from clipdex.looks.local_features import LocalFeatures, Recipe
from clipdex.pipeline.feature_service import FeatureService
from clipdex.pipeline.worker_service import Given
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.opening import retry_source
from clipdex.sources.scan import FoundFile

__all__ = ["BuiltFeatures", "build_features"]

_ROWS_AT_ONCE = 65_536  # a tar is listed once for each
_COMMIT_BYTES = 16 << 20
_COMMIT_S = 5.0
_QUEUED = 4  # pictures for each process, including the one that it is at
_FAILURES_KEPT = 100

# What rows are counted by, beside the reasons of failures.
_MADE, _HAD, _ITEMS = "+made", "+had", "+items"


@dataclass(frozen=True)
class BuiltFeatures:
    """The result of a build, in live rows of the index: made + had + failed + items.

    made: given features now. had: had them before. failed: by reason, rows whose picture could not be read;
    `failures` are the first hundred pictures of them. items: added by id, without features and without a file to
    make them of.
    points: of the features made. recipe: how they were made. file_bytes: the size of the side file now.
    """

    made: int
    had: int
    failed: dict[str, int]
    items: int
    points: int
    recipe: Recipe
    file_bytes: int
    seconds: float
    failures: list[Failure] = field(default_factory=list, repr=False)


def build_features(
    directory: PathLike,
    *,
    kind: str | None = None,
    most: int | None = None,
    side: int | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    rebuild: bool = False,
    check: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BuiltFeatures:
    """Find and keep the local features of all pictures of an index that have none yet.

    They are made of the files, in worker processes; a file whose content has changed since it was indexed is left
    until it is indexed again. Others may search the index and write to it meanwhile. What was made is kept if it
    is interrupted, and the next build continues from there.

    Args:
        kind: "sift" (default) or "orb". most: the most points of a picture (default 500). side: pixels of the
            longer side beyond which a picture is made smaller first (default 640; 1,024 of ORB). An index
            that has features keeps how they are made.
        workers: processes; one per core if not given.
        limits: limits on the cost of one file.
        rebuild: drop the features it has, and make all anew. Those of items, which have no file, stay if all are
            made as before; else they are dropped, until the items are added again.
        check: compare those it has with their checksums first, and make the damaged ones again.
        progress: called with the number of rows looked at so far and of all rows.

    Raises:
        InvalidArgument: the index has features made otherwise, and `rebuild` is not given.
        MissingExtra: OpenCV is not installed: the extra `features` brings it.
        IndexLocked: another process is making them.
        IndexWriteError: the disk is full or failed; what was made before is kept.
        IndexFault: as `Index` raises it.
    """
    path = as_path(directory, "the path of an index")
    if workers is not None and workers < 1:
        raise InvalidArgument(f"workers is {workers}; expected at least 1")
    wanted = (kind, most, side)
    Recipe().but(*wanted)  # before anything is opened
    began = time.monotonic()
    done = []
    with FeatureService(workers=workers or usable_cpus(), limits=limits, waiting=1 << 20) as service:
        parts = whole_parts(path)
        usual = _usual(parts)
        for part in parts:
            with _Build(part, service, usual, wanted, limits or Limits(), rebuild) as build:
                done.append(build.run(check, progress))
    return _sum(done, time.monotonic() - began)


@dataclass(frozen=True)
class _Place:
    """Where a picture is, and its width and height as shown."""

    path: bytes
    size: tuple[int, int]


class _Build:
    """The build of one index that has no parts. Use it in a `with`, and once."""

    def __init__(
        self,
        directory: Path,
        service: FeatureService,
        usual: Recipe,
        wanted: tuple[str | None, int | None, int | None],
        limits: Limits,
        rebuild: bool,
    ) -> None:
        self._directory, self._service, self._limits = directory, service, limits
        self._pending: dict[bytes, LocalFeatures] = {}
        self._pending_bytes, self._since = 0, time.monotonic()
        self._failed: dict[bytes, Failure] = {}  # by content
        self._made: set[bytes] = set()
        self._points = 0
        self._counts = Counter[str]()
        Index.open(directory).close()  # before anything is put into a folder that is not an index
        self._lock = lock_features(directory)
        try:
            self._file = _opened(directory, usual, wanted, rebuild)
        except BaseException:
            os.close(self._lock)
            raise

    def run(self, check: bool, progress: Callable[[int, int], None] | None) -> BuiltFeatures:
        """Make what is missing."""
        began = time.monotonic()
        try:
            if check:
                self._file.drop_damaged()
            # Again until nothing is missing: a compaction, while it copies, may miss what is made meanwhile.
            tried = True
            while tried or not self._in_place():
                self._follow()
                tried = self._pass(progress)
                self._keep()
        except BaseException:
            with suppress(IndexFault):
                self._keep()
            raise
        counts = self._counts
        self._file.close()  # which moves what its log has into the file
        return BuiltFeatures(
            counts.pop(_MADE, 0),
            counts.pop(_HAD, 0),
            items=counts.pop(_ITEMS, 0),
            failed=dict(counts.most_common()),
            points=self._points,
            recipe=self._file.recipe,
            file_bytes=(self._directory / FEATURES_FILE).stat().st_size,
            seconds=time.monotonic() - began,
            failures=list(self._failed.values())[:_FAILURES_KEPT],
        )

    def _pass(self, progress: Callable[[int, int], None] | None) -> bool:
        """Go over all rows once, and count them -> whether any were tried, so that the counts are not the last."""
        self._counts = Counter[str]()
        tried = False
        with Index.open(self._directory) as index:
            total = len(index.vectors)
            for start in range(0, total, _ROWS_AT_ONCE):
                end = min(start + _ROWS_AT_ONCE, total)
                missing = self._missing(index, start, end)
                if missing:
                    tried = True
                    before = end - start - len(missing)
                    for done, _ in enumerate(self._make(missing), start=1):
                        if progress is not None:
                            progress(start + min(before + done, end - start), total)
                if progress is not None:
                    progress(end, total)
        return tried

    def _missing(self, index: Index, start: int, end: int) -> dict[bytes, list[_Place]]:
        """Find the contents without features that may have some, and their places; count the other rows."""
        contents, paths = index.contents(start, end), dict(index.live_paths(start, end))
        held = self._file.held(list(dict.fromkeys(content for _, content, *_ in contents)))
        found: dict[bytes, list[_Place]] = {}
        for row, content, width, height in contents:
            path = paths[row]
            if content in held:
                self._counts[_MADE if content in self._made else _HAD] += 1
            elif is_item(path):
                self._counts[_ITEMS] += 1
            elif content in self._failed:
                self._counts[self._failed[content].reason] += 1
            else:
                found.setdefault(content, []).append(_Place(path, (width, height)))
        return found

    def _make(self, missing: Mapping[bytes, Sequence[_Place]]) -> Iterator[None]:
        """Make the features of contents, of the first of their places that can be read. Yields after each."""
        places = {content: deque(each) for content, each in missing.items()}
        while places:
            files = {each.popleft(): content for content, each in places.items()}
            for content, result in self._results(files):
                if isinstance(result, LocalFeatures):
                    del places[content]
                    self._take(content, result)
                elif not places[content]:
                    del places[content]
                    self._failed[content] = result
                else:
                    continue  # a copy of it may be readable
                yield

    def _results(self, files: Mapping[_Place, bytes]) -> Iterator[tuple[bytes, LocalFeatures | Failure]]:
        """Yield (content, features or why there are none) of each file."""
        by_path = {place.path: (place, content) for place, content in files.items()}
        refused: list[Failure] = []
        source = retry_source(by_path, f"the rows of {self._directory}")
        window: deque[tuple[bytes, bytes, Future[LocalFeatures] | Failure]] = deque()
        with FetchAhead(self._limits.max_file_bytes) as ahead:
            for file in ahead.over(source.files(refused.append)):
                if file.path in by_path:
                    place, content = by_path.pop(file.path)
                    window.append((content, file.path, self._submitted(file, place, content)))
                if len(window) >= _QUEUED * self._service.workers:
                    yield _settled(*window.popleft())
        while window:
            yield _settled(*window.popleft())
        for failure in refused:
            if failure.path in by_path:
                yield by_path.pop(failure.path)[1], failure
        for path, (_, content) in by_path.items():
            yield content, Failure(path, "vanished", "the file does not exist any more", 0, 0)

    def _submitted(self, file: FoundFile, place: _Place, content: bytes) -> Future[LocalFeatures] | Failure:
        try:
            given = Given(request=ReadRequest.parse(file.request()), holder=file)
        except ImageError as exc:
            return Failure(file.path, exc.reason, str(exc), file.size, file.mtime_ns)
        return self._service.extract(given, self._file.recipe, content_hash=content, size=place.size)

    def _take(self, content: bytes, features: LocalFeatures) -> None:
        self._pending[content] = features
        self._points += len(features)
        self._pending_bytes += len(features) * (16 + self._file.recipe.width)
        if self._pending_bytes >= _COMMIT_BYTES or time.monotonic() - self._since >= _COMMIT_S:
            self._keep()

    def _keep(self) -> None:
        """Put what was made on disk."""
        if self._pending:
            self._follow()
            self._file.add(self._pending)
            self._made.update(self._pending)
            self._pending = {}
        self._pending_bytes, self._since = 0, time.monotonic()

    def _in_place(self) -> bool:
        return is_at(self._lock, self._directory / FEATURES_LOCK)

    def _follow(self) -> None:
        """Move to the directory that a compaction has put at the path, if it has: its pictures are the same."""
        if self._in_place():
            return
        recipe = self._file.recipe
        self.close()
        self._lock = lock_features(self._directory)
        self._file = FeatureFile.open_or_make(self._directory, recipe)
        if self._file.recipe != recipe:
            raise IndexLocked(f"{self._directory}: its local features were made anew meanwhile: build them again")

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        os.close(self._lock)

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()


def _settled(
    content: bytes, path: bytes, result: Future[LocalFeatures] | Failure
) -> tuple[bytes, LocalFeatures | Failure]:
    if isinstance(result, Failure):
        return content, result
    try:
        return content, result.result()
    except ImageError as exc:
        return content, Failure(path, exc.reason, str(exc), 0, 0)


def _without_files(directory: Path) -> set[bytes]:
    """Find the contents that only items have: their features cannot be made anew."""
    items, others = set[bytes](), set[bytes]()
    with Index.open(directory) as index:
        for start in range(0, len(index.vectors), _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, len(index.vectors))
            paths = dict(index.live_paths(start, end))
            for row, content, *_ in index.contents(start, end):
                (items if is_item(paths[row]) else others).add(content)
    return items - others


def _usual(parts: Sequence[Path]) -> Recipe:
    """Return how those features are made that the first of the parts has; the default if none has any."""
    for part in parts:
        with suppress(IndexFault):
            found = FeatureFile.open(part)
            if found is not None:
                with closing(found):
                    return found.recipe
    return Recipe()


def _opened(
    directory: Path, usual: Recipe, wanted: tuple[str | None, int | None, int | None], rebuild: bool
) -> FeatureFile:
    """Open the features of an index for writing; make the file, or empty it, if that is asked for.

    usual: how they are made where there are none yet.
    """
    try:
        found = FeatureFile.open(directory, write=True)
    except IndexDamaged:
        if not rebuild:
            raise
        remove_features(directory)
        found = None
    kept = usual if found is None else found.recipe
    asked = kept.but(*wanted)
    if found is None:
        return FeatureFile.open_or_make(directory, asked)
    try:
        if rebuild:
            try:
                found.empty(asked, _without_files(directory) if asked == kept else frozenset())
            except IndexDamaged:
                found.close()
                remove_features(directory)
                return FeatureFile.open_or_make(directory, asked)
        elif asked != kept:
            raise InvalidArgument(
                f"{directory} has local features of another recipe ({kept}): give the same, or  --rebuild  to "
                f"make all of them anew ({asked})"
            )
        return found
    except BaseException:
        found.close()
        raise


def _sum(done: Sequence[BuiltFeatures], seconds: float) -> BuiltFeatures:
    if len(done) == 1:
        return done[0]
    failed = Counter[str]()
    for each in done:
        failed.update(each.failed)
    return BuiltFeatures(
        sum(each.made for each in done),
        sum(each.had for each in done),
        dict(failed.most_common()),
        sum(each.items for each in done),
        sum(each.points for each in done),
        done[-1].recipe,
        sum(each.file_bytes for each in done),
        seconds,
        [failure for each in done for failure in each.failures][:_FAILURES_KEPT],
    )
