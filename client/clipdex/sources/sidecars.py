"""Which members of a tar say something of which picture, by their names.

`22.05.txt` is what is said of `22.05.png`: the whole name but for its suffix counts. Webdataset takes what stands
before the first dot for the key of a sample, which may have several pictures: so `0.txt` is said of `0.left.png`,
too, if nothing of its own is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clipdex.sources.tar_headers import TarEntry

__all__ = ["Sidecars", "is_sidecar", "stem_of"]

# What webdataset's writers put beside a picture, under the same key.
_KINDS = ("txt", "caption", "cls", "json")
_SUFFIXES = tuple(kind.encode() for kind in _KINDS)

# `0.a.b.json` may belong to `0.a` or `0`. A name may be a mebibyte of dots.
_MOST_DOTS = 8


def is_sidecar(name: bytes) -> bool:
    """Whether a member's name is that of a text beside a picture."""
    return _split(name)[1].lower() in _SUFFIXES


def stem_of(name: bytes) -> bytes:
    """A member's name without its suffix: `dir/22.05.png` -> `dir/22.05`."""
    return _split(name)[0]


@dataclass(frozen=True)
class Sidecars:
    """The texts beside the pictures of one tar. Each stands once in it, so it is as large as they are many.

    owned: the whole stem of a member -> field and text of all that is said of it.
    loose: stem -> the same of texts that belong to no member.
    """

    owned: Mapping[bytes, Mapping[str, TarEntry]] = field(default_factory=dict)
    loose: Mapping[bytes, Mapping[str, TarEntry]] = field(default_factory=dict)

    @classmethod
    def among(cls, entries: Iterable[TarEntry], stems: Collection[bytes]) -> Sidecars:
        """Each text belongs to the longest of the stems that its name begins with; else to a sample at most.

        stems: those of all members that are no sidecars.
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
        """Field -> text of what is said of a picture, given its name."""
        stem = stem_of(picture)
        own = self.owned.get(stem)
        if own is not None:
            return own
        key = _sample_key(stem)
        if key in (b"", stem):
            return {}
        shared = self.owned.get(key) or self.loose.get(key) or {}
        # `0.seg.json` beside `0.png` is said of that picture alone, and `0.txt` of the sample.
        return {kind: shared[kind] for kind in _KINDS if kind in shared}


def _split(name: bytes) -> tuple[bytes, bytes]:
    """-> the name without its suffix, and the suffix; the name and nothing, if it has none."""
    folder, slash, base = name.rpartition(b"/")
    stem, dot, suffix = base.rpartition(b".")
    return (folder + slash + stem, suffix) if dot else (name, b"")


def _sample_key(stem: bytes) -> bytes:
    """Webdataset's key: up to the first dot of the last part; nothing where it begins with the dot."""
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
