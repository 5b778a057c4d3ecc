"""Changes below a folder, as the system reports them through watchdog; what is still being written waits."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from clipdex.base.extras import needs
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES
from clipdex.sources.scan import SUFFIXES, folder_at

__all__ = ["Changed", "FolderChanges"]

# Texts that programs put beside a picture.
_BESIDE = (b".xmp", b".json", b".txt", b".caption", b".cls")
_TELLING = (*SUFFIXES, *TAR_SUFFIXES, *TABLE_SUFFIXES, *_BESIDE)

# More paths than this, and a scan of the whole folder is as quick.
_MOST = 100_000

# While other files keep coming, those that are complete do not wait longer than this.
_LONGEST_S = 30.0


@dataclass(frozen=True)
class Changed:
    """What has changed below a folder: paths from it, which need not exist any more.

    files: pictures, texts beside them, tars and tables. folders: any file at or below them may have changed.
    everything: any file of the whole folder may have.
    """

    files: frozenset[bytes] = field(default_factory=frozenset)
    folders: frozenset[bytes] = field(default_factory=frozenset)
    everything: bool = False

    def __or__(self, other: Changed) -> Changed:
        return Changed(self.files | other.files, self.folders | other.folders, self.everything or other.everything)

    def __bool__(self) -> bool:
        return bool(self.everything or self.files or self.folders)


@dataclass
class _Waiting:
    at: float  # of the last event, or of the last change of `state` that was seen
    since: float  # of the first event
    state: tuple[int, int] | None
    is_folder: bool


class FolderChanges:
    """Watches a folder from its construction on; a context manager.

    blind: a sentence on what cannot be watched, as the system's limit on watches is reached; else "".
    """

    def __init__(
        self,
        folder: Path,
        *,
        exclusion: Exclusion | None = None,
        apart: Sequence[Path] = (),
        still_s: float = 2.0,
        polling_s: float | None = None,
    ) -> None:
        """Start to watch.

        Args:
            exclusion: what is left out of the folder; hidden files and junk if not given.
            apart: folders whose changes do not count, such as an index inside the folder.
            still_s: a path counts as changed once nothing has happened to it for so many seconds.
            polling_s: list the folder every so many seconds, as for a network's, which reports no changes.

        Raises:
            MissingExtra: watchdog is not installed.
            OSError: the folder is gone or cannot be read.
        """
        with needs("watchdog", "watchdog", "watch", "watching a folder"):
            import watchdog.observers  # noqa: F401
        self.blind = ""
        self._folder = folder
        self._exclusion = exclusion or Exclusion()
        self._still_s = still_s
        self._polling_s = polling_s
        # A link itself has no events for what is in its folder.
        self._real = os.fsencode(os.path.realpath(folder))
        self._apart = [os.path.join(os.fsencode(os.path.realpath(each)), b"") for each in apart]
        self._changed = threading.Condition()
        # Guarded by it:
        self._waiting: dict[bytes, _Waiting] = {}
        self._all_since: float | None = None  # everything may have changed
        self._last = 0.0
        self._at = folder_at(folder)
        if self._at is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        self._lost = _Lost(self.note_everything)
        logging.getLogger("watchdog").addHandler(self._lost)
        self._observer: Any = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        try:
            self._observer = self._observed(recursive=True)
            if self._polling_s is None:
                # Of subfolders, watchdog does not say that a limit is reached; then this one more fails, too.
                _end(self._observed(recursive=False))
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENFILE):
                raise
            few = "watches" if exc.errno == errno.ENOSPC else "instances"
            self.blind = (
                f"{self._folder}: the system's limit on inotify {few} is reached, so changes in some folders are "
                f"only found by rescans: raise it with  sysctl fs.inotify.max_user_{few}=N, or use --polling"
            )

    def _observed(self, *, recursive: bool) -> Any:
        from watchdog.observers import Observer
        from watchdog.observers.polling import PollingObserver

        observer: Any = Observer() if self._polling_s is None else PollingObserver(timeout=self._polling_s)
        try:
            observer.schedule(
                _Handler(self), os.fsdecode(self._real), recursive=recursive, event_filter=_event_kinds()
            )
            observer.start()
        except BaseException:
            _end(observer)
            raise
        return observer

    def is_current(self) -> bool:
        """Return whether the folder at the path is still the one that is watched."""
        if folder_at(self._folder) != self._at:
            return False
        watching = self._observer
        return watching is None or (watching.is_alive() and all(each.is_alive() for each in watching.emitters))

    def note(self, path: bytes, *, is_folder: bool, is_gone: bool) -> None:
        """Note that something happened to a path; from any thread."""
        if not path.startswith(os.path.join(self._real, b"")):
            if path == self._real:
                self.note_everything()
            return
        if os.path.join(path, b"").startswith(tuple(self._apart)):
            return
        below = path[len(os.path.join(self._real, b"")) :]
        name = os.path.basename(below)
        if not is_folder and not name.lower().endswith(_TELLING):
            # To the system, a link to a folder is a file; of one that is gone, only the name is left.
            is_folder = b"." not in name if is_gone else os.path.islink(path) and os.path.isdir(path)
            if not is_folder:
                return
        if self._exclusion.leaves_out_any(below, is_folder=is_folder):
            return
        now, state = time.monotonic(), _state(path)
        with self._changed:
            found = self._waiting.get(below)
            self._waiting[below] = _Waiting(
                now, found.since if found else now, state, is_folder or bool(found and found.is_folder)
            )
            self._last = now
            if len(self._waiting) > _MOST:
                self._waiting.clear()
                self._all_since = self._all_since or now
            self._changed.notify_all()

    def note_everything(self) -> None:
        """Note that anything may have changed, as when events were lost; from any thread."""
        with self._changed:
            self._last = time.monotonic()
            self._all_since = self._all_since or self._last
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until something more has happened, or for so many seconds."""
        with self._changed:
            last = self._last
            self._changed.wait_for(lambda: self._last != last, timeout_s)

    def due_s(self) -> float | None:
        """Return in how many seconds `take` may return something; None if nothing has happened."""
        now = time.monotonic()
        with self._changed:
            if not self._waiting and self._all_since is None:
                return None
            return max(0.0, self._last + self._still_s - now)

    def take(self) -> Changed:
        """Return what has changed and is complete, each once; nothing while more keeps happening, up to 30 s."""
        now = time.monotonic()
        with self._changed:
            first = min((each.since for each in self._waiting.values()), default=self._all_since)
            if first is None or (now - self._last < self._still_s and now - first < _LONGEST_S):
                return Changed()
            files: set[bytes] = set()
            folders: set[bytes] = set()
            everything = self._all_since is not None
            for path, each in list(self._waiting.items()):
                state = None if each.is_folder else _state(os.path.join(self._real, path))
                if not each.is_folder and state != each.state:
                    each.state, each.at = state, now
                    self._last = now
                if now - each.at < self._still_s:
                    each.since = max(each.since, now - _LONGEST_S / 2)
                    continue
                del self._waiting[path]
                (folders if each.is_folder else files).add(path)
            self._all_since = None
        everything = everything or any(_has_links(os.path.join(self._real, folder)) for folder in folders)
        return Changed(frozenset(files), frozenset(folders), everything)

    def close(self) -> None:
        """Stop watching."""
        logging.getLogger("watchdog").removeHandler(self._lost)
        if self._observer is not None:
            _end(self._observer)

    def __enter__(self) -> FolderChanges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler:
    """What watchdog calls with each event; a `FileSystemEventHandler` by its one method."""

    def __init__(self, changes: FolderChanges) -> None:
        self._changes = changes

    def dispatch(self, event: Any) -> None:
        for place, is_gone in (
            (event.src_path, event.event_type in ("deleted", "moved")),
            (event.dest_path, False),
        ):
            if place:
                self._changes.note(os.fsencode(place), is_folder=event.is_directory, is_gone=is_gone)


class _Lost(logging.Handler):
    """What watchdog warns of, such as a full queue of the kernel's, has cost events."""

    def __init__(self, note_everything: Any) -> None:
        super().__init__(logging.WARNING)
        self._note_everything = note_everything

    def emit(self, record: logging.LogRecord) -> None:
        self._note_everything()


def _event_kinds() -> list[Any]:
    """Return the events that may concern a picture. A folder's own time says nothing that its files do not."""
    from watchdog import events

    return [
        events.FileCreatedEvent,
        events.FileModifiedEvent,
        events.FileAttribEvent,
        events.FileClosedEvent,
        events.FileDeletedEvent,
        events.FileMovedEvent,
        events.DirCreatedEvent,
        events.DirAttribEvent,
        events.DirDeletedEvent,
        events.DirMovedEvent,
    ]


def _end(observer: Any) -> None:
    observer.stop()
    with suppress(RuntimeError):  # it was never started
        observer.join()


def _state(path: bytes) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return info.st_size, info.st_mtime_ns


def _has_links(folder: bytes) -> bool:
    """Return whether a path is a link to a folder, or there is one below it."""
    try:
        mode = os.lstat(folder).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISLNK(mode):
        return os.path.isdir(folder)
    return any(os.path.islink(os.path.join(at, each)) for at, folders, _ in os.walk(folder) for each in folders)
