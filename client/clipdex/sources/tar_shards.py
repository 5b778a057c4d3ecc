"""Pictures in tar archives, read in place, with the texts that webdataset puts beside them."""

from __future__ import annotations

import copy
import functools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from clipdex.base.counting import counted
from clipdex.base.errors import ImageError, SourceError
from clipdex.base.json_text import parse_json
from clipdex.base.object_paths import is_object
from clipdex.base.read_request import REWRITTEN, ReadRequest, require_within
from clipdex.base.records import NO_METADATA, Failure
from clipdex.base.text_files import decoded
from clipdex.sources.census import Census, PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TAR_SUFFIXES, containers, member_path
from clipdex.sources.metadata import LONGEST_FIELD, metadata_json
from clipdex.sources.object_file import read_spans
from clipdex.sources.object_member import ObjectMember
from clipdex.sources.object_store import CHANGED, FETCHES, Bucket, Listed
from clipdex.sources.scan import SUFFIXES, FoundFile, regular_file, stat_failure
from clipdex.sources.sidecars import Sidecars, is_sidecar, stem_of
from clipdex.sources.storage import (
    FileState,
    identity_of,
    is_away,
    is_gone_from,
    listed_at,
    open_file,
    root_of,
    state_in,
    state_of,
    tree_at,
)
from clipdex.sources.tar_headers import BrokenTar, TarEntry, walk

__all__ = ["TarShards", "tar_member", "tar_span"]


class TarShards:
    """A source of the pictures in tar archives: those named, or all below a folder.

    Each is known as `SHARD!/NAME`. If a name is in a shard twice, it means the later member, as when unpacked. The
    readable part of a damaged shard is indexed, and the shard itself gets a line in the ledger.
    """

    def __init__(
        self,
        shards: Iterable[str | Path] = (),
        *,
        below: str | Path | None = None,
        exclusion: Exclusion | None = None,
        fetches: int = FETCHES,
    ) -> None:
        """below: a folder, scanned for `.tar` files at each run, except those that `exclusion` leaves out.
        fetches: pictures of tars in a bucket to read at a time.
        """
        self._named = dict.fromkeys(map(identity_of, shards))
        self._below = below
        self._root = b"" if below is None else root_of(below)
        self._tree = None if below is None else tree_at(below, TAR_SUFFIXES, exclusion=exclusion)
        self._fetches = fetches
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
        with closing(_listed_ahead(self._shards(on_failure))) as listings:
            for shard, listing in listings:
                if isinstance(listing, OSError):
                    on_failure(stat_failure(shard, listing))
                    continue
                self._held[shard] = _Held.of(listing)
                yield from listing.pictures(on_failure, self._fetches)
                listing.count_others(census)
        self._others = census.result()

    def is_costly(self) -> bool:
        """Return whether a pass reads tars in a bucket."""
        return is_object(self._root) or any(map(is_object, self._named))

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return members that their shard no longer has, or whose shard is gone; none of a damaged shard.

        None, if there is no longer the folder that the last pass scanned, as for `Tree.vanished`.
        """
        if self._tree is not None and not self._tree.is_in_place():
            return []
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
        if self._tree is not None and (self._wanted is None or self._wanted(self._root.rstrip(b"/"))):
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
            if self._is_wanted(shard) and (is_object(shard) or regular_file(shard, on_failure) is not None):
                yield shard

    def _is_wanted(self, shard: bytes) -> bool:
        return self._wanted is None or self._wanted(shard)

    def _is_ours(self, shard: bytes) -> bool:
        if self._below is None:
            return shard in self._named
        return shard.startswith(self._root) and shard.lower().endswith(TAR_SUFFIXES)

    def _gone(self, shard: bytes, pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the paths that do not exist any more. An empty name: the shard's own line in the ledger."""
        if is_gone_from(shard):
            # If the folder of a named shard is gone too, a disk may not be mounted.
            if self._below is None and is_away(shard):
                return []
            return [path for path, name in pairs if name or self._below is not None]
        try:
            held = self._held.get(shard)
            # A large index asks in parts, most with pictures of many shards: do not list a shard again for each.
            if held is None or held.state != state_of(shard):
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
    listing = _listed(shard)
    entry = listing.entries.get(name)
    if entry is None or entry.refused or entry.length > limit:
        return None
    with open_file(shard, listing.state) as file:
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
    state: FileState
    entries: dict[bytes, TarEntry]
    broken: str

    @classmethod
    def read(cls, shard: bytes, state: FileState) -> _Listing:
        """Read the shard's headers. Raises OSError if it cannot be read."""
        entries: dict[bytes, TarEntry] = {}
        broken = ""
        with open_file(shard, state) as file:
            state = state_in(file, state)
            try:
                for entry in walk(file, state.size):
                    entries[entry.name] = entry
            except BrokenTar as exc:
                broken = str(exc)
        return cls(shard, state, entries, broken)

    @property
    def mtime_ns(self) -> int:
        """The shard's mtime, which is also that of its pictures."""
        return self.state.mtime_ns

    def pictures(self, on_failure: Callable[[Failure], None], fetches: int) -> Iterator[FoundFile]:
        """Yield its pictures; those that cannot be read in place, and damage to the shard, go to `on_failure`."""
        stems = {stem_of(name) for name in self.entries if not is_sidecar(name)}
        sidecars = Sidecars.among(self.entries.values(), stems)
        at = listed_at(self.shard, self.state) if is_object(self.shard) else None
        for name, entry in self.entries.items():
            if not name.lower().endswith(SUFFIXES):
                continue
            path = member_path(self.shard, name)
            if entry.refused:
                on_failure(Failure(path, "not_a_file", entry.refused, entry.length, self.mtime_ns))
            else:
                notes = sidecars.of(name)
                member = (
                    _TarPicture(self.shard, self.mtime_ns, entry, notes)
                    if at is None
                    else _RemotePicture(*at, entry, notes, fetches)
                )
                yield FoundFile(path, entry.length, self.mtime_ns, member=member, ctime_ns=self.state.ctime_ns)
        if self.broken:
            on_failure(Failure(self.shard, "broken_container", self.broken, self.state.size, self.mtime_ns))

    def count_others(self, census: Census) -> None:
        """Count the members that are neither pictures, by their suffix, nor sidecars."""
        for name, entry in self.entries.items():
            if not (name.lower().endswith(SUFFIXES) or is_sidecar(name) or entry.refused):
                census.pass_by(os.path.basename(name))


def _listed(shard: bytes) -> _Listing:
    """List a shard as it is now. Raises OSError if it cannot be read."""
    return _listing_as_of(shard, state_of(shard))


def _listed_ahead(shards: Iterable[bytes]) -> Generator[tuple[bytes, _Listing | OSError], None, None]:
    """List shards in their order; of those in a bucket, the next is listed while one is used."""
    ahead: deque[tuple[bytes, Future[_Listing] | None]] = deque()

    def first() -> tuple[bytes, _Listing | OSError]:
        shard, future = ahead.popleft()
        try:
            return shard, _listed(shard) if future is None else future.result()
        except OSError as exc:
            return shard, exc

    with ExitStack() as stack:
        thread: ThreadPoolExecutor | None = None
        for shard in shards:
            if thread is None and is_object(shard):
                thread = ThreadPoolExecutor(1, thread_name_prefix="clipdex-tar")
                stack.callback(thread.shutdown, wait=False, cancel_futures=True)
            ahead.append((shard, thread.submit(_listed, shard) if thread and is_object(shard) else None))
            while len(ahead) > 1 or (ahead and ahead[0][1] is None):
                yield first()
        while ahead:
            yield first()


@functools.lru_cache(maxsize=4)
def _listing_as_of(shard: bytes, state: FileState) -> _Listing:
    """List a shard, cached for the passes of a run, and for a page of thumbnails, which asks member by member."""
    return _Listing.read(shard, state)


@dataclass(frozen=True)
class _Held:
    """The names of a shard's pictures as hashes: 8 bytes per name, since there may be millions."""

    state: FileState
    broken: bool
    names: npt.NDArray[np.int64]

    @classmethod
    def of(cls, listing: _Listing) -> _Held:
        wanted = [hash(name) for name in listing.entries if name.lower().endswith(SUFFIXES)]
        return cls(listing.state, bool(listing.broken), np.array(wanted, dtype=np.int64))

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
                fields = {name: _value(note.name, _span(file, note)) for name, note in _short(self.notes).items()}
        except OSError:
            return NO_METADATA  # gone since it was listed
        return metadata_json(fields)


class _RemotePicture(ObjectMember):
    """A member of a tar in a bucket: its bytes and its texts are fetched together."""

    def __init__(
        self, bucket: Bucket, listed: Listed, entry: TarEntry, notes: Mapping[str, TarEntry], at_once: int
    ) -> None:
        super().__init__(bucket, listed, entry.length, at_once)
        self._entry = entry
        self._notes = notes

    def read(self, limit: int) -> bytes:
        """Return the member's bytes. Raises as `Bucket.read`."""
        e = self._entry
        require_within(limit, e.length)
        notes = _short(self._notes)
        try:
            data, *texts = read_spans(
                self._bucket, self._listed, [(each.offset, each.length) for each in (e, *notes.values())]
            )
        except ImageError as exc:
            if str(exc) == CHANGED:
                raise ImageError(REWRITTEN, reason="vanished") from exc
            raise
        if notes:
            self._metadata = metadata_json(
                {field: _value(note.name, text) for (field, note), text in zip(notes.items(), texts, strict=True)}
            )
        return data


def _short(notes: Mapping[str, TarEntry]) -> dict[str, TarEntry]:
    """Leave out texts that are too long for metadata, or cannot be read in place."""
    return {field: each for field, each in notes.items() if not each.refused and each.length <= LONGEST_FIELD}


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
