"""manifest.json: the identity of an index, written at its creation, and once more if a forced model adds to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import google_crc32c
import numpy as np

from clipdex.base.errors import (
    FingerprintMismatch,
    IndexDamaged,
    IndexFormatError,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
)
from clipdex.base.json_text import parse_plain_json
from clipdex.index.files import create, fault, open_to_read, rename, sync_directory
from clipdex.model.card import ModelCard
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse, PictureRules

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "PLAN",
    "Manifest",
    "json_crc32c",
    "read_description",
    "require_json_crc32c",
]

MANIFEST = "manifest.json"
PLAN = "plan.json"  # of an index of parts, in place of a manifest
FORMAT = "clipdex-index"
FORMAT_VERSION = 1
# A clipdex that cannot decode pictures as those of an index were must not add to it:
_WITH_ICC = 2  # they were converted
_WITH_DECODE = 3  # JPEGs were reduced

# The vectors' dtype, and the suffix of the file they are in. Little-endian, whatever wrote them.
_SUFFIX = {"float16": "f16", "float32": "f32"}
_LARGEST = 1 << 20  # bytes; such a file has a few hundred


@dataclass(frozen=True)
class Manifest:
    """The identity of an index: the model, width and dtype of its vectors.

    below_floor: what the export gate found wrong with a model that made rows, if it was installed anyway; else "".
    icc: "srgb" if pictures were converted by their colour profiles before they were embedded, else "off".
    decode: "fast" if large JPEGs were decoded at a reduced size, else "exact".
    """

    fingerprint: str
    model: str
    embedding_dim: int
    dtype: str = "float16"
    below_floor: str = ""
    icc: IccUse = "off"
    decode: DecodeUse = "exact"

    def __post_init__(self) -> None:
        if self.dtype not in _SUFFIX:
            raise IndexFormatError(f"an index holds float16 or float32 vectors, not {self.dtype!r}")

    @classmethod
    def of(
        cls, card: ModelCard, dtype: str = "float16", icc: IccUse = "off", decode: DecodeUse = "exact"
    ) -> Manifest:
        """Make the manifest of a new index for a model's vectors."""
        return cls(card.fingerprint, card.name, card.embedding_dim, dtype, card.below_floor or "", icc, decode)

    @property
    def rules(self) -> PictureRules:
        """How the pictures of the index are decoded."""
        return PictureRules(self.icc, self.decode)

    @property
    def vectors_file(self) -> str:
        """vectors.f16 or vectors.f32."""
        return f"vectors.{_SUFFIX[self.dtype]}"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The little-endian dtype of the vectors on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """The number of bytes of one row."""
        return self.embedding_dim * self.numpy_dtype.itemsize

    def require(self, card: ModelCard, where: Path | str) -> None:
        """Raise FingerprintMismatch unless the index holds vectors of this card's embedding space."""
        if card.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"{where} was built with the model {self.model} (fingerprint {self.fingerprint[:12]}), "
                f"the model in use is {card.name} (fingerprint {card.fingerprint[:12]}): "
                "their vectors cannot be compared; use the same model, or build another index"
            )

    def require_same(self, other: Manifest, where: Path) -> None:
        """Raise FingerprintMismatch unless both are of one embedding space, and of pictures decoded alike."""
        if (self.fingerprint, self.rules) != (other.fingerprint, other.rules):
            theirs, ours = (
                f"{m.model} (fingerprint {m.fingerprint[:12]}, icc {m.icc}, decode {m.decode})"
                for m in (self, other)
            )
            raise FingerprintMismatch(
                f"{where} holds vectors of {theirs}, expected those of {ours}: they cannot be compared"
            )

    def require_rules(self, icc: str | None, decode: str | None, where: Path) -> None:
        """Raise InvalidArgument if the index was created with another `icc` or `decode`; None is as it is."""
        for name, given, own in (("icc", icc, self.icc), ("decode", decode, self.decode)):
            if given is not None and given != own:
                raise InvalidArgument(
                    f"{where} was created with {name} {own}, but {given} is given: its rows could not be "
                    f"compared with the new ones; leave {name} out, or build another index"
                )

    def noting(self, card: ModelCard, directory: Path) -> Manifest:
        """Record in the manifest, if necessary, that rows of this model will be added -> the manifest.

        For the holder of the writer's lock. Readers find the old manifest or the new one, even after a power cut.

        Raises:
            IndexWriteError: the manifest cannot be written.
        """
        if self.below_floor or not card.below_floor:
            return self
        noted = replace(self, below_floor=card.below_floor)
        new = directory / f"{MANIFEST}.new"
        try:
            create(new, noted.to_json().encode())
            rename(new, directory / MANIFEST)
            sync_directory(directory)
        except OSError as exc:
            raise IndexWriteError(f"{directory / MANIFEST}: cannot be written: {exc.strerror}") from exc
        return noted

    def _version(self) -> int:
        """The least format version that forbids other ways of decoding."""
        if self.decode != "exact":
            return _WITH_DECODE
        return FORMAT_VERSION if self.icc == "off" else _WITH_ICC

    def to_json(self) -> str:
        """The text of manifest.json."""
        data = {
            "format": FORMAT,
            "format_version": self._version(),
            "fingerprint": self.fingerprint,
            "model": self.model,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype,
        }
        if self.below_floor:
            data["below_floor"] = self.below_floor
        if self.icc != "off":
            data["icc"] = self.icc
        if self.decode != "exact":
            data["decode"] = self.decode
        return json.dumps(data | {"crc32c": json_crc32c(data)}, indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read the manifest of an index directory.

        Raises:
            IndexNotFound: there is no such directory.
            IndexFormatError: it is not an index, or has a newer format.
            IndexDamaged: its checksum does not match, or the disk cannot read it.
            IndexFault: the system refuses to read it.
        """
        path = directory / MANIFEST

        def absent() -> IndexFormatError:
            if os.path.lexists(directory / PLAN):
                return IndexFormatError(
                    f"{directory} is an index of parts, and this works on an index in one piece; make one with  "
                    f"clipdex merge {directory} --out ONE.clipdex"
                )
            return IndexFormatError(f"{directory} is not a clipdex index: it has no {MANIFEST}")

        data = read_description(path, FORMAT, "the manifest of a clipdex index", absent)
        version = data.get("format_version")
        if type(version) is not int or not FORMAT_VERSION <= version <= _WITH_DECODE:  # True is not 1
            raise IndexFormatError(
                f"{directory} has the format version {version!r}, this clipdex reads {FORMAT_VERSION} "
                f"to {_WITH_DECODE}: install the clipdex that wrote it, or build the index again"
            )
        fingerprint, model, dim, dtype = (
            data.get(key) for key in ("fingerprint", "model", "embedding_dim", "dtype")
        )
        if (
            not isinstance(fingerprint, str)
            or not isinstance(model, str)
            or type(dim) is not int
            or not 0 < dim <= 1 << 20
            or not isinstance(dtype, str)
            or dtype not in _SUFFIX
            or not isinstance(data.get("below_floor", ""), str)
            or data.get("icc", "off") not in get_args(IccUse)
            or data.get("decode", "exact") not in get_args(DecodeUse)
        ):
            raise IndexFormatError(f"{path}: a field is missing or out of range (docs/index-format.md lists them)")
        require_json_crc32c(path, data)
        icc, decode = data.get("icc", "off"), data.get("decode", "exact")
        return cls(fingerprint, model, dim, dtype, data.get("below_floor", ""), icc, decode)


def read_description(path: Path, form: str, what: str, absent: Callable[[], IndexFormatError]) -> dict[str, Any]:
    """Read the JSON file that says what a directory is; its checksum is left to `require_json_crc32c`.

    Args:
        form: the value of its field `format`.
        what: what it is, in errors.
        absent: makes the error where the directory has no such file.

    Raises:
        IndexNotFound: there is no such directory.
        IndexFormatError: it is a file, has no such file, or another one by that name.
        IndexFault: the disk or the system refuses to read it.
    """
    directory = path.parent
    try:
        with open_to_read(path) as file:
            raw = file.read(_LARGEST)
    except FileNotFoundError as exc:
        if not os.path.lexists(directory):
            raise IndexNotFound(f"{directory}: there is no such index; create it with  clipdex index") from exc
        raise absent() from exc
    except NotADirectoryError as exc:
        raise IndexFormatError(f"{directory} is a file; a clipdex index is a directory") from exc
    except OSError as exc:
        raise fault(path, exc) from exc
    try:
        data = parse_plain_json(raw)
    except ValueError as exc:
        raise IndexFormatError(f"{path}: is not JSON: {exc}") from exc
    if not isinstance(data, dict) or data.get("format") != form:
        raise IndexFormatError(f'{path}: is not {what} ("format": "{form}")')
    return data


def require_json_crc32c(path: Path, data: dict[str, Any]) -> None:
    """Remove the checksum from a description. Raises IndexDamaged if it is not that of the other fields."""
    if data.pop("crc32c", None) != json_crc32c(data):
        raise IndexDamaged(f"{path}: its checksum does not match its content: it was changed or is damaged")


def json_crc32c(data: Mapping[str, object]) -> int:
    """Compute the CRC-32C of JSON: ASCII, names sorted, no blanks."""
    return int(google_crc32c.value(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()))
