"""The assets of a model: its card and its tokenizer, in one zip that a client fetches once.

The zip is content-addressed: the server's configuration of `NAME_assets` states its sha256, so a client that has
it on disk does not fetch it again, and never trusts a copy whose bytes have changed.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdex.base.arguments import as_path
from clipdex.base.arrays import Array
from clipdex.base.errors import CardError
from clipdex.model.card import ModelCard

__all__ = [
    "LARGEST_ZIP",
    "SHA256_PARAMETER",
    "Assets",
    "as_cache_dir",
    "cached_assets",
    "default_cache_dir",
    "fetch_zip",
    "pack_assets",
    "unpack_assets",
]

# The key under which `NAME_assets/config.pbtxt` states the sha256 of its zip.
SHA256_PARAMETER = "clipdex_assets_sha256"

_CARD, _TOKENIZER = "card.json", "tokenizer.json"
_LARGEST_FILE = 256 << 20  # bytes, unpacked; the largest tokenizer met so far is 34 MB
_MOST_ENTRIES = 16
LARGEST_ZIP = 128 << 20  # bytes
_PIECE = 32 << 20  # bytes per request: so far, every model's assets fit in one
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date in a zip, fixed so that the same content gives the same bytes


@dataclass(frozen=True)
class Assets:
    """A model's card and tokenizer: all that a client needs to prepare its inputs."""

    card: ModelCard
    tokenizer_json: bytes


def pack_assets(card: ModelCard, tokenizer_json: bytes) -> bytes:
    """Pack the assets -> the zip's bytes; equal contents give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in ((_CARD, card.to_json().encode()), (_TOKENIZER, tokenizer_json)):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def unpack_assets(data: bytes) -> Assets:
    """Read the zip back, entirely in memory.

    Raises:
        CardError: the bytes are not such a zip, or its card is invalid.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > _MOST_ENTRIES:
                raise CardError(
                    f"the model's assets hold {len(archive.infolist()):,} files; expected {_CARD} and {_TOKENIZER}"
                )
            files = {name: _read_entry(archive, name) for name in (_CARD, _TOKENIZER)}
    except CardError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, KeyError, EOFError, OSError) as exc:
        raise CardError(f"the model's assets are not a zip of {_CARD} and {_TOKENIZER}: {exc}") from exc
    except (RuntimeError, ValueError, IndexError, OverflowError) as exc:
        # RuntimeError: an encrypted entry, or (as NotImplementedError) an unknown compression.
        raise CardError(f"the model's assets are not a zip of {_CARD} and {_TOKENIZER}: {exc}") from exc
    return Assets(ModelCard.from_json(files[_CARD]), files[_TOKENIZER])


def fetch_zip(ask: Callable[[Mapping[str, Array]], Array]) -> bytes:
    """Fetch the bytes that `NAME_assets` holds, one piece at a time, so that no answer is unbounded.

    ask: sends one request, `start` and `end` -> the bytes between, uint8 (N,).

    Raises:
        CardError: an answer is not bytes, is longer than requested, or all exceed LARGEST_ZIP.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        piece = ask({"start": np.full(1, size, np.int64), "end": np.full(1, size + _PIECE, np.int64)})
        if piece.dtype != np.uint8 or piece.ndim != 1 or len(piece) > _PIECE:
            raise CardError(
                f"the model's assets came as {piece.dtype} {piece.shape}; expected {_PIECE:,} bytes at most"
            )
        parts.append(piece.tobytes())
        size += len(piece)
        if len(piece) < _PIECE:
            return b"".join(parts)
        if size > LARGEST_ZIP:
            raise CardError(f"the model's assets are larger than {LARGEST_ZIP >> 20} MiB")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise CardError(f"the model's assets hold a {name} of more than {_LARGEST_FILE >> 20} MiB")
    return data


def as_cache_dir(given: str | os.PathLike[str] | None) -> Path:
    """Return the cache folder given by the caller, or the default. Raises InvalidArgument if it is not a path."""
    if given is None:
        return default_cache_dir()
    return as_path(given, "cache_dir")


def default_cache_dir() -> Path:
    """Return $CLIPDEX_CACHE, else $XDG_CACHE_HOME/clipdex, else ~/.cache/clipdex."""
    if own := os.environ.get("CLIPDEX_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "clipdex"


def cached_assets(sha256: str | None, fetch: Callable[[], bytes], cache_dir: Path) -> Assets:
    """Return the assets with this sha256: from the cache if its copy is intact, else fetched and cached.

    If the server states no sha256, they are fetched every time. A cache that cannot be written is no error.

    Raises:
        CardError: the fetched zip does not have the sha256 that the server states.
    """
    if sha256 is None:
        return unpack_assets(fetch())
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        # It becomes a file name below, and a server is not trusted to choose paths.
        raise CardError(
            f"the server states {sha256[:80]!r} as the sha256 of the model's assets; expected 64 hex digits"
        )
    kept = cache_dir / "assets" / f"{sha256}.zip"
    with suppress(OSError), kept.open("rb") as file:
        data = file.read(LARGEST_ZIP + 1)
        if hashlib.sha256(data).hexdigest() == sha256:
            return unpack_assets(data)
    data = fetch()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CardError(f"the model's assets have the sha256 {found[:12]}, but the server states {sha256[:12]}")
    assets = unpack_assets(data)
    with suppress(OSError):
        _write_atomically(kept, data)
    return assets


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
