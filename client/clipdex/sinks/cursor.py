"""What a collection remembers of the index that was pushed into it, as JSON."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import is_count
from clipdex.base.errors import FingerprintMismatch, SinkError
from clipdex.base.json_text import parse_plain_json
from clipdex.index.manifest import Manifest
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse
from clipdex.sinks.sink import Field

__all__ = ["Cursor", "Described"]

_FORMAT, _VERSION = "clipdex-collection", 1
_WITH_DECODE = 2  # a clipdex that cannot decode so must not push there, nor ask with pictures
_MOST_DEAD = 16 << 10  # characters
_MOST_ROWS = 1 << 48


@dataclass(frozen=True)
class Cursor:
    """How far an index was pushed: everything that is live below `rows` is there, as of that moment.

    sum: of the digests of the live pictures' points below `rows`, modulo 2**64: it tells whether rows were changed
    in place, renumbered, or belong to another index. dead: the rows below `rows` that were dead, compressed; None
    if there are too many to keep. complete: False while a push is running, or was interrupted: rows behind may be
    there, too.
    """

    rows: int
    sum: int
    dead: str | None
    complete: bool

    def require_sound(self) -> None:
        """Raise ValueError or zlib.error unless it is one that a push may have written."""
        if not is_count(self.rows, 0) or self.rows >= _MOST_ROWS or type(self.sum) is not int:
            raise ValueError("its cursor counts no rows")
        if type(self.complete) is not bool or not (self.dead is None or isinstance(self.dead, str)):
            raise ValueError("its cursor has values of other kinds")
        if self.dead is not None and len(self.dead) > _MOST_DEAD:
            raise ValueError("its cursor is too long")
        self.dead_rows()

    def dead_rows(self) -> npt.NDArray[np.int64] | None:
        """Return the dead rows, ascending int64, or None if they were not kept."""
        if self.dead is None:
            return None
        packed = zlib.decompressobj().decompress(base64.b64decode(self.dead, validate=True), 8 * (self.rows + 1))
        rows: npt.NDArray[np.int64] = np.cumsum(np.frombuffer(packed, "<i8"), dtype=np.int64)
        return rows

    @staticmethod
    def packed(dead: npt.NDArray[np.int64]) -> str | None:
        """Compress dead rows, ascending; None if they take too much room."""
        steps = np.diff(dead, prepend=0).astype("<i8")
        text = base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()
        return text if len(text) <= _MOST_DEAD else None


@dataclass(frozen=True)
class Described:
    """The description of a collection: the embedding space of its vectors, its fields, and the cursor."""

    fingerprint: str
    model: str
    embedding_dim: int
    icc: str
    fields: tuple[Field, ...]
    cursor: Cursor
    decode: str = "exact"

    @classmethod
    def of(cls, manifest: Manifest, fields: Sequence[Field], cursor: Cursor) -> Described:
        """Describe a new collection for an index."""
        m = manifest
        return cls(m.fingerprint, m.model, m.embedding_dim, m.icc, tuple(fields), cursor, m.decode)

    def text(self) -> str:
        """Write it as JSON in ASCII."""
        said, version = asdict(self), _WITH_DECODE
        if self.decode == "exact":
            del said["decode"]
            version = _VERSION
        return json.dumps({"format": _FORMAT, "format_version": version} | said, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str, place: str) -> Described:
        """Read what `text` wrote.

        Raises:
            SinkError: it is not that, or of a newer version.
        """
        try:
            said: dict[str, Any] = parse_plain_json(text)
            if said.pop("format") != _FORMAT:
                raise ValueError("of another format")
            if (version := said.pop("format_version")) not in (_VERSION, _WITH_DECODE):
                raise SinkError(
                    f"{place} was made by a newer version of clipdex (format {version}); update clipdex"
                )
            fields = tuple(Field(**each) for each in said.pop("fields"))
            found = cls(fields=fields, cursor=Cursor(**said.pop("cursor")), **said)
            found.cursor.require_sound()
            if found.icc not in get_args(IccUse) or found.decode not in get_args(DecodeUse):
                raise ValueError(f"icc {found.icc!r:.20}, decode {found.decode!r:.20}")
            return found
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as exc:
            raise SinkError(
                f"{place} has a description that clipdex did not write ({exc}); choose another collection"
            ) from exc

    def require(self, manifest: Manifest, place: str) -> None:
        """Raise FingerprintMismatch unless the collection has vectors of the index's embedding space."""
        m = manifest
        if (self.fingerprint, self.icc, self.decode) != (m.fingerprint, m.icc, m.decode):
            raise FingerprintMismatch(
                f"{place} has vectors of {self.model} ({self.fingerprint[:12]}, icc {self.icc}, decode "
                f"{self.decode}), not of {m.model} ({m.fingerprint[:12]}, icc {m.icc}, decode {m.decode}) as the "
                "index does: push into another collection"
            )
