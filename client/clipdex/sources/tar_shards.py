"""Pictures in tar archives, read in place, with the texts that webdataset puts beside them."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from clipdex.base.counting import counted
from clipdex.base.errors import SourceError
from clipdex.base.json_text import parse_json
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import NO_METADATA, Failure
from clipdex.base.text_files import decoded
from clipdex.sources.census import Census, PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TAR_SUFFIXES, containers, member_path
from clipdex.sources.metadata import LONGEST_FIELD, metadata_json
from clipdex.sources.scan import SUFFIXES, FoundFile, Tree, nothing_at, regular_file, stat_failure
from clipdex.sources.sidecars import Sidecars, is_sidecar, stem_of
from clipdex.sources.tar_headers import BrokenTar, TarEntry, walk

__all__ = ["TarShards", "tar_member", "tar_span"]


class TarShards:
    """A source of the pictures in tar archives: those named, or all below a folder.

    Each is known as `SHARD!/NAME`. If a name is in a shard twice, it means the later member, as when unpacked. The
    readable part of a damaged shard is indexed, and the shard itself gets a line in the ledger.
    """

    def __init__(
        self, shards: Iterable[Path] = (), *, below: Path | None = None, exclusion: Exclusion | None = None
    ) -> None:
        """below: a folder, scanned for `.tar` files at each run, except those that `exclusion` leaves out."""
        self._named = dict.fromkeys(os.path.abspath(os.fsencode(shard)) for shard in shards)
        self._below = below
        self._tree = None if below is None else Tree(below, TAR_SUFFIXES, exclusion=exclusion)
        self._held: dict[bytes, _Held] = {}  # the names that the last pass found in each
        self._others = PassedOver()  # members that the last complete pass skipped
        self._wanted: Callable[[bytes], bool] | None = None

    def divided(self, wanted: Callable[[bytes], bool]) -> TarShards:
        """Return a source of those shards alone whose paths are wanted."""
        found = copy.copy(self)
        found._held, found._others, found._wanted = {}, PassedOver(), wanted
        return found

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the pictures shard by shard, in the order of the archive."""
        census = Census()
        for shard in self._shards(on_failure):
            try:
                listing = _listed(shard)
            except OSError as exc:
                on_failure(stat_failure(shard, exc))
                continue
            self._held[shard] = _Held.of(listing)
            yield from listing.pictures(on_failure)
            listing.count_others(census)
        self._others = census.result()

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return members that their shard no longer has, or whose shard is gone; none of a damaged shard."""
        members: dict[bytes, list[tuple[bytes, bytes]]] = {}  # shard -> (path, name)
        others: list[bytes] = []
        for path in paths:
            for shard, name in (*containers(path), (path, b"")):
                if self._is_ours(shard):
                    members.setdefault(shard, []).append((path, name))
                    break
            else:
                others.append(path)
        gone = [path for shard, pairs in members.items() for path in self._gone(shard, pairs)]
        return gone if self._tree is None else gone + self._tree.sound_folders(others)

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return members of shards that exist below the folder, but are left out now."""
        held = {
            path: next((s for s, _ in (*containers(path), (path, b"")) if self._is_ours(s)), b"") for path in paths
        }
        out = set() if self._tree is None else set(self._tree.left_out(set(held.values())))
        return [path for path, shard in held.items() if shard in out]

    def passed_over(self) -> PassedOver:
        """Return what was skipped in the tars and their folder."""
        skipped = [self._others]
        # Of the parts, the one that the folder's own path belongs to counts what was skipped in the folder.
        if self._tree is not None and (self._wanted is None or self._wanted(os.fsencode(str(self._below)))):
            skipped.append(self._tree.passed_over)
        return PassedOver.sum(skipped)

    def nothing_found(self) -> SourceError:
        """Return the error, which names the shards and the suffixes that were looked for."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        others = sum(self._others.others.values())
        beside = f"; it has {counted(others, 'other member')}" if others else ""
        if self._below is not None:
            return SourceError(f"{self._below}: no .tar file in it holds a picture (looked for {suffixes})")
        names = [os.fsdecode(shard) for shard in self._named]
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        return SourceError(f"{names[0]}{more}: no member is a picture (looked for {suffixes}){beside}")

    def _shards(self, on_failure: Callable[[Failure], None]) -> Iterator[bytes]:
        if self._tree is not None:
            yield from (file.path for file in self._tree.files(on_failure) if self._is_wanted(file.path))
        for shard in self._named:
            if self._is_wanted(shard) and regular_file(shard, on_failure) is not None:
                yield shard

    def _is_wanted(self, shard: bytes) -> bool:
        return self._wanted is None or self._wanted(shard)

    def _is_ours(self, shard: bytes) -> bool:
        if self._below is None:
            return shard in self._named
        root = os.path.join(os.path.abspath(os.fsencode(self._below)), b"")
        return shard.startswith(root) and shard.lower().endswith(TAR_SUFFIXES)

    def _gone(self, shard: bytes, pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the paths that do not exist any more. An empty name: the shard's own line in the ledger."""
        if nothing_at(shard):
            # If the folder of a named shard is gone too, a disk may not be mounted.
            if self._below is None and nothing_at(os.path.dirname(shard)):
                return []
            return [path for path, name in pairs if name or self._below is not None]
        try:
            held = self._held.get(shard)
            # A large index asks in parts, most with pictures of many shards: do not list a shard again for each.
            if held is None or held.state != _state(os.stat(shard)):
                held = self._held[shard] = _Held.of(_listed(shard))
        except OSError:
            return []
        if held.broken:
            return []
        there = held.has([name for _, name in pairs])
        return [path for (path, _), is_there in zip(pairs, there, strict=True) if not is_there]


def tar_member(shard: bytes, name: bytes, limit: int) -> bytes | None:
    """Read a member; None if no member of at most `limit` bytes has that name.

    Raises:
        OSError: the shard cannot be read.
    """
    entry = _listed(shard).entries.get(name)
    if entry is None or entry.refused or entry.length > limit:
        return None
    with open(shard, "rb") as file:
        return _span(file, entry)


def tar_span(shard: bytes, name: bytes) -> tuple[int, int] | None:
    """Return the offset and length of a member's bytes in its shard; None if there is no such file in it.

    Raises:
        OSError: the shard cannot be read.
    """
    entry = _listed(shard).entries.get(name)
    return None if entry is None or entry.refused else (entry.offset, entry.length)


@dataclass(frozen=True)
class _Listing:
    """A shard's members by name, as they were listed, and why the list is incomplete, if it is."""

    shard: bytes
    info: os.stat_result
    entries: dict[bytes, TarEntry]
    broken: str

    @classmethod
    def read(cls, shard: bytes) -> _Listing:
        """Read the shard's headers. Raises OSError if it cannot be read."""
        entries: dict[bytes, TarEntry] = {}
        broken = ""
        with open(shard, "rb", buffering=0) as file:
            info = os.fstat(file.fileno())
            try:
                for entry in walk(file, info.st_size):
                    entries[entry.name] = entry
            except BrokenTar as exc:
                broken = str(exc)
        return cls(shard, info, entries, broken)

    @property
    def mtime_ns(self) -> int:
        """The shard's mtime, which is also that of its pictures."""
        return self.info.st_mtime_ns

    def pictures(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield its pictures; those that cannot be read in place, and damage to the shard, go to `on_failure`."""
        stems = {stem_of(name) for name in self.entries if not is_sidecar(name)}
        sidecars = Sidecars.among(self.entries.values(), stems)
        for name, entry in self.entries.items():
            if not name.lower().endswith(SUFFIXES):
                continue
            path = member_path(self.shard, name)
            if entry.refused:
                on_failure(Failure(path, "not_a_file", entry.refused, entry.length, self.mtime_ns))
            else:
                member = _TarPicture(self.shard, self.mtime_ns, entry, sidecars.of(name))
                yield FoundFile(path, entry.length, self.mtime_ns, member=member, ctime_ns=self.info.st_ctime_ns)
        if self.broken:
            on_failure(Failure(self.shard, "broken_container", self.broken, self.info.st_size, self.mtime_ns))

    def count_others(self, census: Census) -> None:
        """Count the members that are neither pictures, by their suffix, nor sidecars."""
        for name, entry in self.entries.items():
            if not (name.lower().endswith(SUFFIXES) or is_sidecar(name) or entry.refused):
                census.pass_by(os.path.basename(name))


def _listed(shard: bytes) -> _Listing:
    """List a shard as it is now. Raises OSError if it cannot be read."""
    return _listing_as_of(shard, _state(os.stat(shard)))


def _state(info: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is rewritten, even if its size and mtime are restored."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


@functools.lru_cache(maxsize=4)
def _listing_as_of(shard: bytes, state: tuple[int, ...]) -> _Listing:
    """List a shard, cached for the passes of a run, and for a page of thumbnails, which asks member by member."""
    return _Listing.read(shard)


@dataclass(frozen=True)
class _Held:
    """The names of a shard's pictures as hashes: 8 bytes per name, since there may be millions."""

    state: tuple[int, ...]
    broken: bool
    names: npt.NDArray[np.int64]

    @classmethod
    def of(cls, listing: _Listing) -> _Held:
        wanted = [hash(name) for name in listing.entries if name.lower().endswith(SUFFIXES)]
        return cls(_state(listing.info), bool(listing.broken), np.array(wanted, dtype=np.int64))

    def has(self, names: list[bytes]) -> list[bool]:
        """Return whether each name is one of them."""
        asked = np.array([hash(name) for name in names], dtype=np.int64)
        found: list[bool] = np.isin(asked, self.names).tolist()
        return found


@dataclass(frozen=True)
class _TarPicture:
    """A member to be decoded: the worker opens the shard and reads the span itself."""

    shard: bytes
    mtime_ns: int
    entry: TarEntry
    notes: Mapping[str, TarEntry]

    def request(self) -> bytes:
        e = self.entry
        return ReadRequest(self.shard, e.offset, e.length, e.length, self.mtime_ns, self.mtime_ns).encode()

    def metadata(self) -> str:
        if not self.notes:
            return NO_METADATA
        try:
            with open(self.shard, "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_mtime_ns != self.mtime_ns:
                    return NO_METADATA  # rewritten; it is listed again next time
                fields = {
                    name: _value(note.name, _span(file, note))
                    for name, note in self.notes.items()
                    if not note.refused and note.length <= LONGEST_FIELD
                }
        except OSError:
            return NO_METADATA  # gone since it was listed
        return metadata_json(fields)


def _value(name: bytes, data: bytes) -> object:
    text = decoded(data, "backslashreplace").strip()
    if name.lower().endswith((b".json", b".cls")):
        try:
            return parse_json(text)
        except ValueError:
            pass
    return text


def _span(file: BinaryIO, entry: TarEntry) -> bytes:
    file.seek(entry.offset)
    return file.read(entry.length)
