"""Downloads from a model hub into the cache that the hub's own tools use.

Large files are fetched here rather than by the hub's client, which restarts a file if its process was ended. A
partial file stays beside the finished ones, and the next call resumes it; a file enters the cache only if its
sha256 is the one that the hub states. The client does the rest (lists, small files, the cache's layout), so
`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` work as usual.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from clipdex.base.errors import CheckpointError
from clipdex.base.extras import needs

__all__ = ["Download", "download", "downloads_reported", "megabytes", "network_errors", "require_space"]

_PIECE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM = "let HF_HOME name a folder on another disk"


@dataclass(frozen=True)
class Download:
    """Progress of the download of one repository: bytes done and in total, of all files to be fetched."""

    hub_id: str
    done: int
    total: int


Report = Callable[[Download], None]
_report: ContextVar[Report | None] = ContextVar("_report", default=None)


@contextmanager
def downloads_reported(report: Report) -> Iterator[None]:
    """Call `report` about once per megabyte downloaded within the block, in this thread."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


@dataclass(frozen=True)
class _Large:
    """A file that the hub stores outside git, with its sha256."""

    path: str
    size: int
    sha256: str


def download(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match, unless they are in the cache -> its snapshot directory.

    Without a network, or with HF_HUB_OFFLINE, only files in the cache are used.

    Raises:
        CheckpointError: the disk has no room or fills up, the connection was lost, a file does not have the sha256
            that the hub states, or what it states is no sha256. After a full disk or a lost connection, what was
            fetched is kept.
        Exception: whatever the hub's client raises if the repository is neither reachable nor in the cache.
    """
    with needs("huggingface_hub", "huggingface_hub", "export", "downloading a model"):
        from huggingface_hub import snapshot_download
    with _silent(), _full_disk_said(hub_id):
        commit, files = _listed(hub_id, revision, patterns)
        blobs = _blobs(hub_id)
        missing = [file for file in files if not (blobs / file.sha256).exists()]
        if missing:
            _fetch(hub_id, commit, missing, blobs)
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def _full_disk_said(hub_id: str) -> Iterator[None]:
    """Turn the error of a disk that fills up, which is an OSError as those of the network are, into a sentence."""
    from huggingface_hub import constants

    try:
        yield
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        raise CheckpointError(
            f"the download of {hub_id} stopped: there is no room for it in {constants.HF_HUB_CACHE} "
            f"({os.strerror(exc.errno)}): make room, and run the same command again to resume it, or {_ROOM}"
        ) from exc


def require_space(directory: Path, needed: int, what: str, advice: str) -> None:
    """Raise CheckpointError unless the disk of `directory`, which need not exist yet, has `needed` bytes free."""
    directory = directory.expanduser().absolute()
    place = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CheckpointError(
            f"{what} needs {megabytes(needed)}, but the disk of {directory} has {megabytes(free)} free: {advice}"
        )


def megabytes(size: int) -> str:
    """Format a size: `1,216 MB`."""
    return f"{size / 1e6:,.0f} MB" if size >= 10**6 else f"{size / 1e6:.2g} MB"


def network_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the hub's client, or its HTTP library, raises if the hub cannot be reached."""
    from huggingface_hub import errors

    loaded = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    http = [module.HTTPError for module in loaded if module is not None]
    return (OSError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, *http)


def _listed(hub_id: str, revision: str | None, patterns: Sequence[str]) -> tuple[str, list[_Large]]:
    """List the large files that match, and the commit -> ("", []) if the hub does not answer.

    The hub's client, which is asked for the same files right afterwards, says why it does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    large = _large_of.get((hub_id, str(revision)))  # a commit does not change
    commit = str(revision)
    if large is None:
        api = HfApi()
        try:
            commit = str(api.model_info(hub_id, revision=revision).sha)
            # Only after model_info: this call retries for half a minute if nothing answers.
            tree = list(api.list_repo_tree(hub_id, revision=commit, recursive=True))
        except Exception:
            return "", []
        lfs = {file.path: file.lfs for file in tree if isinstance(file, RepoFile) and file.lfs is not None}
        large = {path: (of.size, of.sha256) for path, of in lfs.items()}
        _large_of[hub_id, commit] = large
    wanted = filter_repo_objects(large, allow_patterns=list(patterns))
    return commit, [_checked(hub_id, path, *large[path]) for path in wanted]


def _checked(hub_id: str, path: str, size: object, sha256: object) -> _Large:
    """Check what the hub states of a file: the sha256 becomes the name of a file in the cache."""
    named = isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256)
    if not named or not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise CheckpointError(
            f"the hub states the sha256 {str(sha256)[:80]!r} and the size {str(size)[:80]!r} for {path[:200]!r} "
            f"of {hub_id}; expected 64 hexadecimal digits and a number of bytes: HF_ENDPOINT names another hub"
        )
    return _Large(path, size, str(sha256))


# What the hub states of a repository's large files (size and sha256 by path), by its id and commit: an export asks
# for one file after the other.
_large_of: dict[tuple[str, str], dict[str, tuple[object, object]]] = {}


def _blobs(hub_id: str) -> Path:
    """Return the directory of the hub's cache that holds a repository's files by checksum."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / ("models--" + hub_id.replace("/", "--")) / "blobs"


def _fetch(hub_id: str, commit: str, files: Sequence[_Large], blobs: Path) -> None:
    """Fetch the files, one after the other, into the cache."""
    from huggingface_hub import constants

    parts = {file: blobs / f"{file.sha256}.clipdex.incomplete" for file in files}
    kept = sum(min(_size(part), file.size) for file, part in parts.items())
    total = sum(file.size for file in files)
    require_space(
        Path(constants.HF_HUB_CACHE),
        total - kept,
        f"the download of {hub_id}",
        f"make room, or {_ROOM}",
    )
    blobs.mkdir(parents=True, exist_ok=True)
    report = _report.get() or (lambda progress: None)
    done = 0
    for file, part in parts.items():
        with _locked(part) as opened:
            if (blobs / file.sha256).exists():  # another process fetched it meanwhile
                part.unlink()
            else:
                _continue(hub_id, commit, file, opened, partial(_tell, report, hub_id, total, done))
                part.replace(blobs / file.sha256)
        done += file.size
    report(Download(hub_id, total, total))


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open a partial file for appending, locked; wait while another process fetches it.

    It is unbuffered: what a full disk did not take would be written again when the file is closed.
    """
    while True:
        with part.open("ab", buffering=0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            # Whoever held it may have moved or removed it: then this is no longer the file of that name.
            if _inode(part) == os.fstat(opened.fileno()).st_ino:
                yield opened
                return


def _tell(report: Report, hub_id: str, total: int, before: int, here: int) -> None:
    """Report the bytes of one file as part of the total. before: bytes of the files before it."""
    report(Download(hub_id, before + here, total))


def _continue(hub_id: str, commit: str, file: _Large, part: IO[bytes], report: Callable[[int], None]) -> None:
    """Append the rest of a file to its partial file, and check the whole."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    there = os.fstat(part.fileno()).st_size
    if there > file.size:
        part.truncate(0)
        there = 0
    part.seek(there)
    counted = _Counted(part, there, report)
    try:
        if there < file.size:
            headers = build_hf_headers()
            url = hf_hub_url(hub_id, file.path, revision=commit)
            metadata = get_hf_file_metadata(url, headers=headers)
            # As the client does: files in Xet are asked for at the hub, which redirects.
            location = url if getattr(metadata, "xet_file_data", None) else metadata.location
            if urlsplit(location).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # a signed address elsewhere: the token is not for it
            with _pieces_of(_PIECE):
                http_get(location, counted, resume_size=there, headers=headers, expected_size=file.size)  # type: ignore[arg-type]
    except network_errors() as exc:
        if getattr(exc, "errno", None) in _FULL:
            raise
        raise CheckpointError(
            f"the download of {file.path} from {hub_id} was interrupted after {megabytes(counted.at)} of "
            f"{megabytes(file.size)} ({_first_line(exc)}): run the same command again to resume it"
        ) from exc
    found = _sha256(Path(part.name))
    if found != file.sha256:
        Path(part.name).unlink()
        raise CheckpointError(
            f"{file.path} of {hub_id} has the sha256 {found[:12]}, but the hub states {file.sha256[:12]}: it was "
            "damaged in transit and has been deleted; run the same command again"
        )
    os.fsync(part.fileno())


@contextmanager
def _pieces_of(size: int) -> Iterator[None]:
    """Let the hub's client write `size` bytes at a time.

    With its default of 10 MB, the bar of a slow line would stand still for many seconds, and Ctrl-C would lose as
    much.
    """
    from huggingface_hub import constants

    before = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = size
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = before


class _Counted:
    """A partial file for the hub's client to write to; reports how many bytes of the file it holds."""

    def __init__(self, part: IO[bytes], at: int, report: Callable[[int], None]) -> None:
        self._part = part
        self._report = report
        self._told = at
        self.at = at
        report(at)

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:  # an unbuffered file may take a part
            written = self._part.write(rest)
            self.at += written
            rest = rest[written:]
        if self.at - self._told >= _PIECE:
            self._told = self.at
            self._report(self.at)
        return len(data)

    def tell(self) -> int:
        return self.at

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self.at = self._part.seek(place, whence)
        return self.at

    def truncate(self, size: int | None = None) -> int:
        return self._part.truncate(self.at if size is None else size)


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the progress bars, log lines and warnings of the hub's client: its errors say enough."""
    import logging

    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    muted, bars = logging.root.manager.disable, not are_progress_bars_disabled()
    logging.disable(max(logging.WARNING, muted))
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(muted)
        if bars:
            enable_progress_bars()


def _inode(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_ino
    return 0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
