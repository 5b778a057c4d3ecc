"""The pictures of a source that belong to one part of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.sources.census import PassedOver, Surveyed, is_costly
from clipdex.sources.scan import FoundFile
from clipdex.sources.source import Source

__all__ = ["Divided", "Divisible", "PartOf"]


@runtime_checkable
class Divisible(Protocol):
    """A source that can list some of its pictures without looking for the others."""

    def divided(self, wanted: Callable[[bytes], bool]) -> Source:
        """Return a source of the same pictures that need not look into files of paths that are not wanted."""
        ...


class Divided:
    """A source divided into parts by the path of each picture; `of` gives one of them.

    A complete pass over one of them counts all, unless it need not look at the others.
    """

    def __init__(self, source: Source, parts: int, part_of: Callable[[bytes], int]) -> None:
        self.source, self.parts, self.part_of = source, parts, part_of
        self.sizes: dict[int, int] = {}  # files and failures of each part, as far as they were counted

    def of(self, number: int) -> PartOf:
        """Return the part of this number."""
        kind = _SurveyedPartOf if isinstance(self.source, Surveyed) else PartOf
        return kind(self, number)


class PartOf:
    """A source of one part's pictures. Whatever else the index has, belongs to it as to the whole source.

    whole: the source that is divided, which must not be gone or empty.
    """

    def __init__(self, divided: Divided, number: int) -> None:
        self._divided, self._number = divided, number
        source = divided.source
        self.whole: Source = getattr(source, "whole", source)
        self._source = source.divided(self._is_mine) if isinstance(source, Divisible) else source
        self._sees_all = self._source is source

    def _is_mine(self, path: bytes) -> bool:
        return self._divided.part_of(path) == self._number

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the part's files in the order of the source; the part's failures go to `on_failure`."""
        part_of, number = self._divided.part_of, self._number
        counts = [0] * self._divided.parts

        def note(failure: Failure) -> None:
            part = part_of(failure.path)
            counts[part] += 1
            if part == number:
                on_failure(failure)

        for file in self._source.files(note):
            part = part_of(file.path)
            counts[part] += 1
            if part == number:
                yield file
        self._divided.sizes |= dict(enumerate(counts)) if self._sees_all else {number: counts[number]}

    def size(self) -> int | None:
        """Return the number of files and failures, if a pass has counted them."""
        return self._divided.sizes.get(self._number)

    def is_costly(self) -> bool:
        """Return whether a pass over the source is."""
        return is_costly(self._source)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what the source reports as gone."""
        return self._source.vanished(paths)

    def nothing_found(self) -> SourceError:
        """Return the error of the source."""
        return self._source.nothing_found()


class _SurveyedPartOf(PartOf):
    """A part of a source that scans folders."""

    def passed_over(self) -> PassedOver:
        """Return what the whole source skipped."""
        assert isinstance(self._source, Surveyed)
        return self._source.passed_over()

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what the source leaves out."""
        assert isinstance(self._source, Surveyed)
        return self._source.left_out(paths)
