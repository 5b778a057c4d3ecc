"""The footer of features.neighbours: its bytes, of each version, and that no other is taken."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path

import pytest

import clipdex
from clipdex.index.manifest import json_crc32c
from clipdex.index.side.neighbour_footer import FOOTER_BYTES, NeighbourFooter

pytestmark = pytest.mark.thin

HERE = Path("features.neighbours")
NEW = NeighbourFooter(7, "ab", "cd", 128, 300, 2, 500, 41_300, 17, 4_294_967_295)
OLD = dataclasses.replace(NEW, lists_crc32c=None)

BYTES = {
    NEW: b'{"format": "clipdex-neighbours", "format_version": 2, "rows": 7, "extents": "ab", "stamp": "cd", '
    b'"width": 128, "descriptors": 300, "lists": 2, "lists_at": 500, "faiss_bytes": 41300, "head_crc32c": 17, '
    b'"lists_crc32c": 4294967295, "crc32c": ',
    OLD: b'{"format": "clipdex-neighbours", "format_version": 1, "rows": 7, "extents": "ab", "stamp": "cd", '
    b'"width": 128, "descriptors": 300, "lists": 2, "lists_at": 500, "faiss_bytes": 41300, "head_crc32c": 17, '
    b'"crc32c": ',
}


@pytest.mark.parametrize(("footer", "crc32c"), [(NEW, 1173715394), (OLD, 255162590)], ids=["new", "old"])
def test_the_bytes_of_a_footer_are_those_of_the_format(footer: NeighbourFooter, crc32c: int) -> None:
    raw = footer.to_bytes()
    assert raw == (BYTES[footer] + b"%d}" % crc32c).ljust(FOOTER_BYTES - 1) + b"\n"
    assert NeighbourFooter.from_bytes(raw, HERE) == footer


def forged(version: object, **fields: object) -> bytes:
    """A footer with a right checksum and whatever else."""
    own = {name: value for name, value in dataclasses.asdict(OLD).items() if name != "lists_crc32c"}
    data = {"format": "clipdex-neighbours", "format_version": version} | own | fields
    return json.dumps(data | {"crc32c": json_crc32c(data)}).encode().ljust(FOOTER_BYTES)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (forged(3), "a format that this clipdex does not know"),
        (forged(2), "its footer cannot be read"),
        (forged(1, lists_crc32c=5), "its footer cannot be read"),
        (forged(2, lists_crc32c=None), "its footer is not what was written"),
        (forged(2, lists_crc32c="5"), "its footer is not what was written"),
        (forged(2, lists_crc32c=-1), "its footer is not what was written"),
        (forged([]), "a format that this clipdex does not know"),
    ],
)
def test_a_footer_of_another_form_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(clipdex.IndexFault, match=says):
        NeighbourFooter.from_bytes(raw, HERE)


def test_a_flipped_bit_of_a_footer_is_found() -> None:
    for at in range(len(NEW.to_bytes().rstrip())):
        raw = bytearray(NEW.to_bytes())
        raw[at] ^= 1
        with suppress(clipdex.IndexFault):
            assert NeighbourFooter.from_bytes(bytes(raw), HERE) == NEW  # what JSON takes for the same
