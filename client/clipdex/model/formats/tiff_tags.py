"""Tags of a TIFF structure, as EXIF has it: only the wanted ones, within bounds, whatever its lengths say."""

from __future__ import annotations

import struct
from collections.abc import Container

__all__ = ["Tags"]

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 13: 4}  # bytes, by type
_ASCII, _SHORT, _LONG, _RATIONAL, _IFD = 2, 3, 4, 5, 13
_ENTRY = 12  # bytes


class Tags:
    """The tags of a TIFF structure, read from its bytes; what is cut off or of another type is None."""

    def __init__(self, data: bytes) -> None:
        """data: the structure, or any other bytes, which have no tags."""
        self._data = data
        self._order = _ORDERS.get(data[:4], "")

    @property
    def are_there(self) -> bool:
        """Whether the bytes begin as a TIFF structure does."""
        return bool(self._order)

    def first(self, wanted: Container[int], longest: int) -> dict[int, tuple[int, bytes]]:
        """Read the first directory; arguments and result as of `directory`."""
        return self.directory(self._number(4, "I"), wanted, longest) if self._order else {}

    def directory(self, at: int | None, wanted: Container[int], longest: int) -> dict[int, tuple[int, bytes]]:
        """Read a directory at an offset -> (type, bytes) of the wanted tags, each of at most `longest` bytes."""
        count = None if at is None else self._number(at, "H")
        found: dict[int, tuple[int, bytes]] = {}
        if at is None or count is None:
            return found
        most = (len(self._data) - at - 2) // _ENTRY
        for entry in range(at + 2, at + 2 + _ENTRY * min(count, most), _ENTRY):
            tag, kind, values = struct.unpack_from(self._order + "HHI", self._data, entry)
            if tag not in wanted or tag in found or kind not in _SIZES:
                continue
            size = values * _SIZES[kind]
            start = entry + 8 if size <= 4 else self._number(entry + 8, "I")
            if start is not None and start + size <= len(self._data):
                found[tag] = (kind, self._data[start : start + min(size, longest)])
        return found

    def text(self, value: tuple[int, bytes] | None) -> str | None:
        """Decode a text: UTF-8, as some programs write it, or else Latin-1."""
        if value is None or value[0] not in (_ASCII, 1, 7):
            return None
        raw = value[1].partition(b"\0")[0]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def whole(self, value: tuple[int, bytes] | None) -> int | None:
        """Decode a single whole number."""
        sizes = {_SHORT: "H", _LONG: "I", _IFD: "I"}
        if value is None or value[0] not in sizes:
            return None
        form = self._order + sizes[value[0]]
        return int(struct.unpack(form, value[1])[0]) if len(value[1]) == struct.calcsize(form) else None

    def rationals(self, value: tuple[int, bytes] | None, count: int) -> list[float] | None:
        """Decode so many fractions; None if there is another number of them, or one is divided by 0."""
        if value is None or value[0] != _RATIONAL or len(value[1]) != 8 * count:
            return None
        numbers = struct.unpack(f"{self._order}{2 * count}I", value[1])
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        return [above / below for above, below in pairs] if all(below for _, below in pairs) else None

    def _number(self, at: int, form: str) -> int | None:
        size = struct.calcsize(self._order + form)
        if not 0 <= at <= len(self._data) - size:
            return None
        return int(struct.unpack_from(self._order + form, self._data, at)[0])
