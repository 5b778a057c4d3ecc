"""plan.json: what an index of parts is divided by. Written once, by whoever comes first, and never changed.

    plan = PartPlan.read(Path("photos.parts"))
    plan.part_of(b"/photos/cat.jpg")        # 3: its row, or its line in the ledger, is in part-00003.clipdex

docs/parts.md describes the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from clipdex.base.errors import (
    FingerprintMismatch,
    IndexFormatError,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
)
from clipdex.base.replacing import NOREPLACE, renameat2
from clipdex.index.create import require_outside_indexes
from clipdex.index.files import create, sync_directory
from clipdex.index.manifest import (
    MANIFEST,
    PLAN,
    Manifest,
    json_crc32c,
    read_description,
    require_json_crc32c,
)
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse
from clipdex.sources.locations import TAR_SUFFIXES, containers

__all__ = [
    "MOST_PARTS",
    "PLAN",
    "PartPlan",
    "is_parted",
    "manifest_of",
    "missing_parts",
    "part_name",
    "require_count",
    "require_for_parts",
    "require_parts",
    "whole_parts",
]

FORMAT = "clipdex-parts"
FORMAT_VERSION = 1
_WITH_DECODE = 2  # as in a manifest: a clipdex that cannot decode so must not make parts
HASH = "blake2b-64"
MOST_PARTS = 10_000

_LONGEST_SOURCE = 2000  # characters


@dataclass(frozen=True)
class PartPlan:
    """How an index is divided into parts, and what all parts have in common.

    parts: their number, N. source: what the first run indexed, as text, for people.
    """

    parts: int
    fingerprint: str
    model: str
    embedding_dim: int
    dtype: str = "float16"
    icc: IccUse = "off"
    source: str = ""
    decode: DecodeUse = "exact"

    @classmethod
    def of(cls, parts: int, manifest: Manifest, source: str) -> PartPlan:
        """Make the plan for parts with this manifest.

        Raises:
            InvalidArgument: the number of parts is out of range.
        """
        require_count(parts)
        text = source.encode("utf-8", "backslashreplace").decode()
        m = manifest
        return cls(
            parts, m.fingerprint, m.model, m.embedding_dim, m.dtype, m.icc, text[:_LONGEST_SOURCE], m.decode
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest of a new part."""
        return Manifest(
            self.fingerprint, self.model, self.embedding_dim, self.dtype, icc=self.icc, decode=self.decode
        )

    def part_of(self, path: bytes) -> int:
        """Return the part that a picture, or a line of the ledger, belongs to. It depends on the path alone.

        Members of one tar are in one part.
        """
        whole = next((tar for tar, _ in containers(path) if tar.lower().endswith(TAR_SUFFIXES)), path)
        return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "big") % self.parts

    def names(self) -> list[str]:
        """List the names of the parts' directories, in order."""
        return [part_name(number) for number in range(self.parts)]

    def to_json(self) -> str:
        """The text of plan.json."""
        data = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION if self.decode == "exact" else _WITH_DECODE,
            "parts": self.parts,
            "hash": HASH,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype,
            "icc": self.icc,
            "source": self.source,
        }
        if self.decode != "exact":
            data["decode"] = self.decode
        return json.dumps(data | {"crc32c": json_crc32c(data)}, indent=2) + "\n"

    @classmethod
    def read(cls, directory: Path) -> PartPlan:
        """Read the plan of an index of parts.

        Raises:
            IndexNotFound: there is no such directory.
            IndexFormatError: it is not an index of parts, or has a newer format.
            IndexDamaged: its checksum does not match, or the disk cannot read it.
            IndexFault: the system refuses to read it.
        """
        path = directory / PLAN
        no_plan = IndexFormatError(f"{directory} is not an index of parts: it has no {PLAN}")
        data = read_description(path, FORMAT, "the plan of an index of parts", lambda: no_plan)
        version = data.get("format_version")
        known = type(version) is int and FORMAT_VERSION <= version <= _WITH_DECODE
        if not known or data.get("hash") != HASH:
            raise IndexFormatError(
                f"{path} has the format version {version!r} and the hash {data.get('hash')!r}, this clipdex reads "
                f"{FORMAT_VERSION} to {_WITH_DECODE} and {HASH!r}: install the clipdex that wrote it, or build "
                "the index again"
            )
        if not _is_plausible(data):
            raise IndexFormatError(f"{path}: a field is missing or out of range (docs/index-format.md lists them)")
        require_json_crc32c(path, data)
        keys = ("parts", "fingerprint", "model", "embedding_dim", "dtype", "icc", "source")
        return cls(**{key: data[key] for key in keys}, decode=data.get("decode", "exact"))

    def require_same(self, wanted: PartPlan, directory: Path) -> None:
        """Raise an error unless a run that wants the other plan may write to the parts of this one.

        Raises:
            InvalidArgument: it wants another number of parts, or another `icc` or `decode`.
            FingerprintMismatch: it is of another model.
        """
        if wanted.parts != self.parts:
            raise InvalidArgument(
                f"{directory} has {self.parts} parts, and {wanted.parts} are asked for: their number never "
                f"changes; leave it out, or divide the index anew with  clipdex split {directory} --parts "
                f"{wanted.parts} --out ANOTHER"
            )
        if wanted.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"{directory} is planned for the model {self.model} (fingerprint {self.fingerprint[:12]}), "
                f"the model in use is {wanted.model} (fingerprint {wanted.fingerprint[:12]}): "
                "their vectors cannot be compared; use the same model, or build another index"
            )
        self.manifest.require_rules(wanted.icc, wanted.decode, directory)

    def write(self, directory: Path) -> PartPlan:
        """Write the plan, unless there is one already -> the plan that counts now.

        Raises:
            InvalidArgument, FingerprintMismatch: there is one, and it is not for the same; see `require_same`.
            IndexFormatError: there is something else at the path.
            IndexWriteError: the directory cannot be written.
        """
        if not is_parted(directory):
            require_for_parts(directory)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                sync_directory(directory.parent)
                fd, name = tempfile.mkstemp(prefix=f".{PLAN}.", dir=directory)
                os.close(fd)
                made = Path(name)
                try:
                    create(made, self.to_json().encode())
                    with suppress(FileExistsError):  # another process was faster
                        if not renameat2(os.fsencode(made), os.fsencode(directory / PLAN), NOREPLACE):
                            os.link(made, directory / PLAN)
                finally:
                    made.unlink(missing_ok=True)
                sync_directory(directory)
            except OSError as exc:
                raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
        found = PartPlan.read(directory)
        found.require_same(self, directory)
        return found


def part_name(number: int) -> str:
    """The name of a part's directory."""
    return f"part-{number:05}.clipdex"


def require_count(parts: object) -> None:
    """Raise InvalidArgument unless it is a number of parts."""
    if type(parts) is not int or not 1 <= parts <= MOST_PARTS:
        raise InvalidArgument(f"the number of parts is {parts!r}; expected 1 to {MOST_PARTS:,}")


def is_parted(directory: Path) -> bool:
    """Return whether a directory is an index of parts, by its plan; it may have no part yet."""
    return os.path.lexists(directory / PLAN) and not os.path.lexists(directory / MANIFEST)


def missing_parts(directory: Path, plan: PartPlan) -> list[str]:
    """List the names of the parts that are not there."""
    return [name for name in plan.names() if not (directory / name).is_dir()]


def require_parts(directory: Path, plan: PartPlan) -> list[Path]:
    """List the paths of all parts, in order. Raises IndexNotFound, which names a missing one."""
    if missing := missing_parts(directory, plan):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise IndexNotFound(
            f"{directory}: {missing[0]}{more} of {plan.parts} parts is missing; build it with  clipdex index "
            f"SOURCE --out {directory} --part {int(missing[0][5:10])},  or search the others with --allow-missing"
        )
    return [directory / name for name in plan.names()]


def manifest_of(directory: Path) -> Manifest:
    """Read the manifest of an index, or of the plan of an index of parts. Raises as reading either does."""
    return PartPlan.read(directory).manifest if is_parted(directory) else Manifest.read(directory)


def whole_parts(directory: Path) -> Sequence[Path]:
    """List what an index consists of: the paths of all its parts, or its own path if it has none.

    Raises:
        IndexNotFound: a part is missing.
        IndexFault: the plan cannot be read.
    """
    return require_parts(directory, PartPlan.read(directory)) if is_parted(directory) else [directory]


def require_for_parts(directory: Path) -> None:
    """Raise an error if an index of parts cannot be made at a path.

    Raises:
        IndexFormatError: there is something else at it.
        InvalidArgument: it is inside an index.
    """
    if not os.path.lexists(directory):
        require_outside_indexes(directory)
        return
    if (directory / MANIFEST).exists():
        raise IndexFormatError(
            f"{directory} is an index in one piece; make parts of it with  clipdex split {directory} --parts N "
            "--out DIR,  or give another path"
        )
    if not directory.is_dir():
        raise IndexFormatError(f"{directory} is a file; an index of parts is a directory")
    others = [each.name for each in directory.iterdir() if not each.name.startswith(f".{PLAN}.")]
    if others and not is_parted(directory):  # another process may be faster
        raise IndexFormatError(f"{directory} is a directory with other things in it; give another path")


def _is_plausible(data: dict[str, Any]) -> bool:
    texts = ("fingerprint", "model", "source")
    return (
        all(isinstance(data.get(key), str) for key in texts)
        and type(data.get("parts")) is int
        and 1 <= data["parts"] <= MOST_PARTS
        and type(data.get("embedding_dim")) is int
        and 0 < data["embedding_dim"] <= 1 << 20
        and data.get("dtype") in ("float16", "float32")
        and data.get("icc") in get_args(IccUse)
        and data.get("decode", "exact") in get_args(DecodeUse)
    )
