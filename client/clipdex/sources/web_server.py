"""Folders of a web server, read like a bucket: listed by the links of its index pages."""

from __future__ import annotations

import functools
import http.client
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from clipdex.base.errors import ImageError, SourceError
from clipdex.base.extras import needs
from clipdex.sources.index_page import links_of
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES
from clipdex.sources.object_store import CONNECT_TIMEOUT, RETRIES, Listed, OnlyRead
from clipdex.sources.scan import SUFFIXES

__all__ = ["WebServer", "open_web"]

_OPEN = 16
_TIMEOUT_S = 30.0
_TRIES, _PAUSE_S = 4, 0.5
_MOST_OF_A_PAGE = 64 << 20  # bytes
_DEEPEST = 64  # folders: links may lead in circles
_HEADS = 16  # requests in flight
_EXAMINED = (*SUFFIXES, *TAR_SUFFIXES, *TABLE_SUFFIXES)


class WebServer(OnlyRead):
    """What a web server has below a folder: all that the folder's page links to, and the pages of its folders.

    Each file is asked for with HEAD, for its size, time and ETag: a page does not say them in any standard way.
    """

    what = "a web server"

    def __init__(self, url: str, store: Any) -> None:
        """url: `https://HOST`. store: obstore's, for the files."""
        super().__init__(url, store)
        self._refusals: dict[str, str] = {}  # of files that cannot be read, by key

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Yield the files below a folder, by their names' bytes.

        Raises:
            SourceError: a page cannot be read, or its folders do not end.
        """
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        ahead: deque[Future[Listed | None]] = deque()
        threads = ThreadPoolExecutor(_HEADS, thread_name_prefix="clipdex-head")
        try:
            for key in self._keys(folder, 0):
                ahead.append(threads.submit(self._examined, key))
                if len(ahead) > 4 * _HEADS and (found := ahead.popleft().result()) is not None:
                    yield found
            while ahead:
                if (found := ahead.popleft().result()) is not None:
                    yield found
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, listed: Listed, span: tuple[int, int] | None) -> bytes:
        if listed.key in self._refusals:
            raise ImageError(self._refusals[listed.key], reason="unreadable")
        return super()._read(listed, span)

    def _probe(self, key: str) -> None:
        self._page("")

    def _examined(self, key: str) -> Listed | None:
        """Ask for a file's size, time and ETag; None if there is none. One of no use is not asked for."""
        if not key.encode("utf-8", "surrogateescape").lower().endswith(_EXAMINED):
            return Listed(key, 0, 0, None, None)
        self._refusals.pop(key, None)
        try:
            return self.head(key)
        except UnicodeEncodeError:  # obstore's names are text
            self._refusals[key] = "its name is not UTF-8, so that it cannot be asked for; rename it on the server"
        except SourceError as exc:
            self._refusals[key] = str(exc).removeprefix(f"{self.url}: ")
        return Listed(key, 0, 0, None, None)

    def _keys(self, folder: str, depth: int) -> Iterator[str]:
        if depth > _DEEPEST:
            raise SourceError(
                f"{self.url}/{folder}: is the {depth}th folder within a folder; its links may lead in circles; "
                "index a folder above it that ends"
            )
        for name in sorted(self._names(folder), key=lambda name: name.encode("utf-8", "surrogateescape")):
            if name.endswith("/"):
                yield from self._keys(folder + name, depth + 1)
            else:
                yield folder + name

    def _names(self, folder: str) -> set[str]:
        """Return what a folder's page links to that lies in it: files, and folders, which end in a slash."""
        page, found = self._page(folder)
        if page is None:
            return set()
        here = urlsplit(found)
        names = set()
        for link in links_of(page):
            try:
                to = urlsplit(urljoin(found, link))
            except ValueError:
                continue
            # A query sorts the page, or shows it otherwise.
            if (to.scheme, to.netloc) != (here.scheme, here.netloc) or to.query:
                continue
            inside = to.path.startswith(here.path)
            name = unquote(to.path[len(here.path) :], errors="surrogateescape") if inside else ""
            within, _, below = name.partition("/")
            if within not in ("", ".", "..") and not below and "\0" not in name:
                names.add(name)
        return names

    def _page(self, folder: str) -> tuple[str | None, str]:
        """Read the page of a folder -> (its HTML, or None if it is none; its address).

        Raises:
            SourceError: it cannot be read, or is another's.
        """
        address = f"{self.url}/{quote(folder, errors='surrogateescape')}"
        for left in reversed(range(_TRIES)):
            try:
                with _opener().open(address, timeout=_TIMEOUT_S) as answer:
                    if answer.headers.get_content_type() not in ("text/html", "application/xhtml+xml"):
                        return None, address
                    page = answer.read(_MOST_OF_A_PAGE + 1)
                    if len(page) > _MOST_OF_A_PAGE:
                        raise SourceError(f"{address}: the page has more than {_MOST_OF_A_PAGE >> 20} MiB")
                    # What a page lacks is forgotten, and `read` says nothing of a connection that broke.
                    if answer.length:
                        raise http.client.IncompleteRead(page, answer.length)
                    charset = answer.headers.get_content_charset("utf-8")
                    return _decoded(page, charset), address
            except urllib.error.HTTPError as exc:
                exc.close()
                if exc.code in (404, 410):
                    return None, address
                if left and (exc.code == 429 or exc.code >= 500):
                    time.sleep(_PAUSE_S)
                    continue
                if 300 <= exc.code < 400:
                    other = exc.headers.get("Location", "")[:200]
                    raise SourceError(f"{address}: the server sends on to {other}; give that address") from exc
                raise SourceError(f"{address}: the server refuses the page (status {exc.code})") from exc
            except (OSError, http.client.HTTPException) as exc:
                if left:
                    time.sleep(_PAUSE_S)
                    continue
                raise SourceError(
                    f"{self.url}: the server cannot be reached; check the network and the address; what was "
                    "committed is kept"
                ) from exc
        raise AssertionError("unreachable")

    def _refused(self, exc: BaseException, done: str = "list or read") -> SourceError:
        refused = super()._refused(exc, done)
        return SourceError(str(refused).replace("the store", "the server"))


@functools.lru_cache(maxsize=_OPEN)
def open_web(url: str) -> WebServer:
    """Open `https://HOST` or `http://HOST`. Nothing is sent yet.

    Raises:
        MissingExtra: obstore is not installed.
        SourceError: it is no address of a web server, or has a name or password in it.
    """
    with needs("obstore", "obstore", "buckets", "reading web servers"):
        from obstore.store import HTTPStore
    try:
        parts = urlsplit(url)
        well = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well = False
    if not well:
        raise SourceError(f"{url}: is no address of a web server; expected https://HOST/FOLDER/")
    if "@" in parts.netloc:
        raise SourceError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}: has a name or password in it, which every path "
            "of the index would contain; give an address that needs none"
        )
    options: Any = {"timeout": f"{_TIMEOUT_S:g}s", "connect_timeout": CONNECT_TIMEOUT, "allow_http": True}
    try:
        return WebServer(url, HTTPStore.from_url(f"{url}/", client_options=options, retry_config=RETRIES))
    except Exception as exc:  # obstore's, and ValueError
        raise SourceError(f"{url}: cannot be opened: {str(exc).partition(chr(10))[0]:.200}") from exc


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent on: another address has other links."""

    def redirect_request(self, *given: Any) -> None:
        return None


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.build_opener(_NoRedirect())
    opener.addheaders = [("Accept", "text/html"), ("User-Agent", "clipdex")]
    return opener


def _decoded(page: bytes, charset: str) -> str:
    try:
        return page.decode(charset, "replace")
    except LookupError:
        return page.decode("utf-8", "replace")
