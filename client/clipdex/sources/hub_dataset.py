"""A dataset of the Hugging Face hub, read like a bucket: listed by its tree, read in the commit of that."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from clipdex.base.errors import ImageError, SourceError
from clipdex.sources.object_store import Listed, OnlyRead

__all__ = ["HubDataset", "open_dataset"]

_T = TypeVar("_T")

_COMMIT_S = 10.0  # seconds for which the commit of a branch is not asked for again
_OPEN = 16
_TIMEOUT_S = 30.0


class HubDataset(OnlyRead):
    """The files of a dataset. Of a `Listed`, `etag` is the commit, and `mark` is made of the file's own hash."""

    what = "a dataset of the hub"

    def __init__(self, name: str) -> None:
        """name: `datasets/OWNER/NAME`, with `@REVISION` or not."""
        super().__init__(f"hf://{name}", None)
        self._repository, _, self._revision = name.removeprefix("datasets/").partition("@")
        self._lock = threading.Lock()
        self._commit = ""
        self._asked_at = 0.0

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Yield the files below a folder. Raises SourceError if the hub refuses it, or cannot be reached."""
        from huggingface_hub.errors import EntryNotFoundError

        commit = self._commit_now(fresh=True)
        try:
            for entry in _api().list_repo_tree(
                self._repository, prefix or None, recursive=True, revision=commit, repo_type="dataset"
            ):
                if (found := _listed(entry, commit)) is not None:
                    yield found
        except EntryNotFoundError:
            return
        except Exception as exc:
            self._fail(exc)

    def head(self, key: str) -> Listed | None:
        """Return one file as a listing would; None if there is none. Raises SourceError."""
        commit = self._commit_now()
        found = self._asked(
            lambda: _api().get_paths_info(self._repository, [key], revision=commit, repo_type="dataset")
        )
        return next((each for each in (_listed(entry, commit) for entry in found) if each is not None), None)

    def fetch(self, key: str, limit: int) -> bytes | None:
        """Read a file as it is now; None if there is none. Raises as `Bucket.fetch`."""
        listed = self.head(key)
        return None if listed is None else self.read(listed, limit)

    def _read(self, listed: Listed, span: tuple[int, int] | None) -> bytes:
        import huggingface_hub.utils
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError

        utils: Any = huggingface_hub.utils  # which does not say what it exports
        start, end = span or (0, listed.size)
        if start == end:
            return b""
        url = hf_hub_url(
            self._repository,
            listed.key,
            repo_type="dataset",
            revision=listed.etag,
            endpoint=_api().endpoint,
        )
        headers = utils.build_hf_headers() | {"range": f"bytes={start}-{end - 1}", "accept-encoding": "identity"}
        try:
            answer = utils.http_backoff("GET", url, headers=headers, timeout=_TIMEOUT_S)
            utils.hf_raise_for_status(answer)
            data = bytes(answer.content)
        except EntryNotFoundError as exc:
            raise ImageError("the file was deleted after it was listed", reason="vanished") from exc
        except Exception as exc:
            self._fail(exc)
        if len(data) != end - start:
            raise ImageError("the hub ended in the middle of the file", reason="truncated")
        return data

    def _commit_now(self, *, fresh: bool = False) -> str:
        with self._lock:
            if fresh or not self._commit or time.monotonic() - self._asked_at > _COMMIT_S:
                info: Any = self._asked(
                    lambda: _api().dataset_info(self._repository, revision=self._revision or None)
                )
                self._commit, self._asked_at = str(info.sha), time.monotonic()
            return self._commit

    def _asked(self, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> NoReturn:
        from huggingface_hub import errors

        if isinstance(exc, errors.GatedRepoError):
            why = "the dataset is gated; accept its terms on its page, and log in with  hf auth login"
        elif isinstance(exc, errors.RevisionNotFoundError):
            why = f"the dataset has no revision {self._revision or 'main'}"
        elif isinstance(exc, errors.RepositoryNotFoundError):
            why = "there is no such dataset, or it is private; log in with  hf auth login  or set HF_TOKEN"
        elif isinstance(exc, errors.HfHubHTTPError) and (status := _status(exc)):
            why = f"the hub refuses the request (status {status})"
        else:
            why = "the hub cannot be reached; check the network and HF_ENDPOINT; what was committed is kept"
        raise SourceError(f"{self.url}: {why}") from exc


@functools.lru_cache(maxsize=_OPEN)
def open_dataset(name: str) -> HubDataset:
    """Open `datasets/OWNER/NAME`, with `@REVISION` or not. Nothing is sent yet."""
    return HubDataset(name)


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


def _listed(entry: Any, commit: str) -> Listed | None:
    from huggingface_hub.hf_api import RepoFile

    if not isinstance(entry, RepoFile) or not isinstance(entry.size, int) or entry.size < 0:
        return None
    content = str(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
    mark = int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1
    return Listed(str(entry.path), entry.size, 0, commit, mark)


def _status(exc: Any) -> int:
    return int(getattr(exc.response, "status_code", 0) or 0)
