"""Keep an index up to date with a folder: one run over all of it, then one for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from clipdex.base.arguments import is_number
from clipdex.base.errors import (
    Cancelled,
    DeadlineExceeded,
    IndexLocked,
    IndexWriteError,
    InvalidArgument,
    ServerFault,
    ServerUnreachable,
    SourceError,
)
from clipdex.base.mounts import mounted_below
from clipdex.pipeline.report import RunReport
from clipdex.sources.changes import Changed, FolderChanges
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.opening import open_source
from clipdex.sources.source import Folder, Keeping, Source
from clipdex.sources.touched import Touched

__all__ = ["RESCAN_S", "STILL_S", "SYNC_DEADLINE_S", "Cause", "Held", "Synced", "Watch"]

RESCAN_S = 3600.0
STILL_S = 2.0

# A server that is gone longer than this ends a sync, which releases the index; the next goes on where it ended.
SYNC_DEADLINE_S = 60.0

# How often to look whether the folder is still the same; and the waits before a sync is tried again.
_LOOK_S = 2.0
_AGAIN_S = (2.0, 2.0, 5.0, 10.0, 30.0, 60.0)

# These may pass without anybody doing something about this process. All others end it.
_PASSING = (
    Cancelled,
    DeadlineExceeded,
    IndexLocked,
    IndexWriteError,
    ServerFault,
    ServerUnreachable,
    SourceError,
)

Cause: TypeAlias = Literal["start", "changes", "rescan"]

_EVERYTHING = Changed(everything=True)


@dataclass(frozen=True)
class Synced:
    """A completed sync. cause: the first one, a reported change, or a scheduled scan of the whole folder."""

    cause: Cause
    report: RunReport


@dataclass(frozen=True)
class Held:
    """The reason why syncs wait, or miss changes: an error that may pass, or a limit of the system."""

    why: str


class Watch:
    """Watches a folder from construction until `close`; a context manager.

    with Watch(folder, index, lambda source: index_pictures(client, source, index)) as watch:
        for done in watch.events():
            print(done)
    """

    def __init__(
        self,
        folder: Path,
        index: Path,
        sync: Callable[[Source], RunReport],
        *,
        exclusion: Exclusion | None = None,
        tar: bool = False,
        rescan_s: float = RESCAN_S,
        still_s: float = STILL_S,
        polling_s: float | None = None,
    ) -> None:
        """Start to watch.

        Args:
            index: the index's path, whose own changes do not count if it is inside the folder.
            sync: brings the index up to date with a source, as `index_pictures` does.
            exclusion, tar: as for `open_source`.
            rescan_s: seconds between two runs over the whole folder, which find changes that no event reported; 0
                for none.
            still_s: seconds without a change to a file before it is read.
            polling_s: seconds between two listings of the folder, instead of the system's events.

        Raises:
            InvalidArgument: a number is out of range.
            SourceError: the folder does not exist, is a file, or cannot be read.
            MissingExtra: watchdog is not installed.
        """
        for name, number, least in (
            ("rescan_s", rescan_s, 0),
            ("still_s", still_s, 0),
            ("polling_s", polling_s, 0.1),
        ):
            if number is not None and not (is_number(number) and least <= number < float("inf")):
                raise InvalidArgument(
                    f"{name} is {number!r}; expected {least} or more seconds, and a finite number"
                )
        if not folder.is_dir():
            what = "it is a file; expected a folder" if folder.exists() else "there is no such folder"
            raise SourceError(f"{folder}: {what}")
        self._folder = folder
        self._index = index
        self._sync = sync
        self._exclusion = exclusion or Exclusion()
        self._tar = tar
        self._rescan_s = rescan_s
        self._still_s = still_s
        self._polling_s = polling_s
        self._mounts = mounted_below(folder)  # all that were there at some time
        self._now_mounted = self._mounts
        self._plain = False  # the folder itself has the pictures, and not its tars or tables
        try:
            self._changes: FolderChanges | None = self._watched()
        except OSError as exc:
            raise SourceError(f"{folder}: cannot be watched: {exc.strerror or exc}") from exc

    def events(self) -> Iterator[Synced | Held]:
        """Sync now and whenever the folder changes, without end -> each completed sync, and each reason to wait.

        A folder that is gone or empty may only be unmounted: nothing is removed, and the sync waits. It also waits
        for a server that is away, an index that is being written to, and a full disk. Each reason is yielded once.

        Raises:
            ClipdexError: what `sync` raises, unless it may pass.
        """
        cause: Cause = "start"
        pending = _EVERYTHING
        told, tries, again_at, waits_for_pictures = "", 0, 0.0, False
        rescanned = time.monotonic()
        if self._changes is not None and self._changes.blind:
            yield Held(self._changes.blind)
        while True:
            now = time.monotonic()
            mounts = mounted_below(self._folder)
            if self._changes is not None and not (self._changes.is_current() and mounts == self._now_mounted):
                self._changes.close()
                self._changes = None
            gone = sorted((self._mounts & self._now_mounted) - mounts)
            self._mounts, self._now_mounted = self._mounts | mounts, mounts
            for place in gone:
                yield Held(f"{self._folder / place} is no longer mounted: its pictures stay in {self._index}")
            if self._changes is None and now >= again_at:
                # Watched before it is scanned, so that nothing can happen in between.
                pending = pending | _EVERYTHING
                try:
                    self._changes = self._watched()
                except OSError as exc:
                    why = f"{self._folder}: cannot be watched: {exc.strerror or exc}"
                    if why != told:
                        yield Held(self._waiting(why))
                    told, tries, again_at = why, tries + 1, now + _pause(tries)
                else:
                    if self._changes.blind:
                        yield Held(self._changes.blind)
            if self._rescan_s and now - rescanned >= self._rescan_s:
                pending, rescanned, cause = pending | _EVERYTHING, now, "rescan"
            if self._changes is not None and (new := self._changes.take()):
                pending = pending | new
                again_at = 0.0 if waits_for_pictures else again_at
            if not pending or self._changes is None or now < again_at:
                self._pause(again_at - now if pending else 0.0)
                continue
            try:
                report = self._sync(self._source(pending))
            except _PASSING as exc:
                why, waits_for_pictures = str(exc), isinstance(exc, SourceError)
                if why != told:
                    yield Held(self._waiting(why) if waits_for_pictures else f"{why}; trying again until it works")
                # A lock lasts as long as a run, and nobody should wait longer for it than that.
                tries = 0 if isinstance(exc, IndexLocked) else tries + 1
                told, again_at = why, time.monotonic() + _pause(tries)
                continue
            if pending.everything:
                rescanned = time.monotonic()
            pending, told, tries, waits_for_pictures = Changed(), "", 0, False
            yield Synced(cause, report)
            cause = "changes"

    def _source(self, pending: Changed) -> Source:
        """Return the source to sync with: all of the folder, or the part that may have changed."""
        source: Source
        if self._plain and not pending.everything:
            source = Touched(self._folder, pending.files, pending.folders, self._exclusion)
        else:
            source = open_source(self._folder, tar=self._tar, exclusion=self._exclusion)
            self._plain = type(source) is Folder
        away = self._mounts - mounted_below(self._folder)
        return Keeping(source, [self._folder / place for place in away]) if away else source

    def _watched(self) -> FolderChanges:
        return FolderChanges(
            self._folder,
            exclusion=self._exclusion,
            apart=[self._index],
            still_s=self._still_s,
            polling_s=self._polling_s,
        )

    def _waiting(self, why: str) -> str:
        return f"{why}; waiting for pictures; nothing is removed from {self._index}"

    def _pause(self, retry_s: float) -> None:
        """Wait until there is something to do, at most two seconds, after which the folder is checked."""
        due = None if self._changes is None else self._changes.due_s()
        if retry_s > 0:
            time.sleep(min(retry_s, _LOOK_S))
        elif due is not None:
            time.sleep(min(max(due, 0.02), _LOOK_S))
        elif self._changes is not None:
            self._changes.wait(_LOOK_S)
        else:
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Stop watching."""
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pause(tries: int) -> float:
    return _AGAIN_S[min(tries, len(_AGAIN_S) - 1)]
