"""Sidecars: texts in a tar, assigned to pictures by their names.

`22.05.txt` belongs to `22.05.png`: the whole name except its suffix counts. Webdataset uses what is before the
first dot as the key of a sample, which may have several pictures: so `0.txt` also belongs to `0.left.png`, if that
has no text of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clipdex.sources.tar_headers import TarEntry

__all__ = ["Sidecars", "is_sidecar", "stem_of"]

# The texts that webdataset's writers put beside a picture, under the same key.
_KINDS = ("txt", "caption", "cls", "json")
_SUFFIXES = tuple(kind.encode() for kind in _KINDS)

# `0.a.b.json` may belong to `0.a` or `0`; but a name may be a mebibyte of dots.
_MOST_DOTS = 8


def is_sidecar(name: bytes) -> bool:
    """Return whether a member's name is that of a text beside a picture."""
    return _split(name)[1].lower() in _SUFFIXES


def stem_of(name: bytes) -> bytes:
    """Return a member's name without its suffix: `dir/22.05.png` -> `dir/22.05`."""
    return _split(name)[0]


@dataclass(frozen=True)
class Sidecars:
    """The texts beside the pictures of one tar, each stored once.

    owned: the whole stem of a member -> fields and texts that belong to it.
    loose: stem -> the same for texts that belong to no member.
    """

    owned: Mapping[bytes, Mapping[str, TarEntry]] = field(default_factory=dict)
    loose: Mapping[bytes, Mapping[str, TarEntry]] = field(default_factory=dict)

    @classmethod
    def among(cls, entries: Iterable[TarEntry], stems: Collection[bytes]) -> Sidecars:
        """Assign each text to the longest stem that its name begins with; else, at most to a sample.

        stems: the stems of all members that are not sidecars.
        """
        owned: dict[bytes, dict[str, TarEntry]] = {}
        loose: dict[bytes, dict[str, TarEntry]] = {}
        for entry in entries:
            if not is_sidecar(entry.name):
                continue
            whole = stem_of(entry.name)
            owner = _owner(whole, stems)
            of_it, stem = (loose, whole) if owner is None else (owned, owner)
            name = entry.name[len(stem) + 1 :].lower().decode("utf-8", "replace")
            of_it.setdefault(stem, {})[name] = entry
        return cls(owned, loose)

    def of(self, picture: bytes) -> Mapping[str, TarEntry]:
        """Return field -> text for a picture, given its name."""
        stem = stem_of(picture)
        own = self.owned.get(stem)
        if own is not None:
            return own
        key = _sample_key(stem)
        if key in (b"", stem):
            return {}
        shared = self.owned.get(key) or self.loose.get(key) or {}
        # `0.seg.json` beside `0.png` belongs to that picture only, but `0.txt` to the sample.
        return {kind: shared[kind] for kind in _KINDS if kind in shared}


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Split a name into the name without its suffix, and the suffix, which may be empty."""
    folder, slash, base = name.rpartition(b"/")
    stem, dot, suffix = base.rpartition(b".")
    return (folder + slash + stem, suffix) if dot else (name, b"")


def _sample_key(stem: bytes) -> bytes:
    """Return webdataset's key: up to the first dot of the last part; b"" if that begins with the dot."""
    folder, slash, base = stem.rpartition(b"/")
    first = base.partition(b".")[0]
    return folder + slash + first if first else b""


def _owner(stem: bytes, stems: Collection[bytes]) -> bytes | None:
    for _ in range(_MOST_DOTS):
        if stem in stems:
            return stem
        stem, suffix = _split(stem)
        if not suffix:
            return None
    return None
