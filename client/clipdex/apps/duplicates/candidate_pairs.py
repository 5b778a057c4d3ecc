"""Choice of the pairs of pictures to compare, among n²: those that share a band of frequency signs.

The signs of a picture's 63 lowest frequencies are cut into three bands of 21 bits. Two pictures are a candidate
pair if one of them, whole or trimmed in one of nine ways, has a band in common with the other, but for signs of
its four weakest frequencies there; if few of all signs differ; and if their shapes and colours do not rule it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipdex.base.cpus import usable_cpus
from clipdex.looks.frequencies import TRIM, Looks, expanded, trimmed
from clipdex.looks.signature import FREQUENCIES

__all__ = ["candidate_pairs", "in_threads"]

_BITS, _BANDS = 21, 3
_WEAK = 4
_MAX_DIFFERENT = 14  # signs, of 63

# Of thousands that look the same, each is compared only with this many in a bucket; these connect the rest.
_MOST_IN_A_BUCKET = 256

_ROWS_AT_ONCE = 512
_HITS_AT_ONCE = 1 << 21

_ONE = np.uint64(1)

Bits = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def candidate_pairs(looks: Looks, progress: Callable[[int, int], None] | None = None) -> Pairs:
    """Find the pairs to compare: int64 (m, 2), each once, the smaller number first; plain pictures are in none.

    progress: called with the number of pictures done and of all.
    """
    rows = np.flatnonzero(~looks.plain)
    rated = looks.take(rows)
    signs = _packed(rated.frequencies[:, _low()] > 0)
    bands = [_Band.of(signs, band) for band in range(_BANDS)]
    blocks = [np.arange(s, min(s + _ROWS_AT_ONCE, len(rows))) for s in range(0, len(rows), _ROWS_AT_ONCE)]

    def of_block(block: Pairs) -> Pairs:
        return _of_block(rated, block, bands)

    found, done = [np.empty(0, dtype=np.int64)], 0
    for pairs, block in zip(in_threads(of_block, blocks), blocks, strict=True):
        found.append(pairs)
        done += len(block)
        if progress is not None:
            progress(done, len(rows))
    keys = np.unique(np.concatenate(found))
    if not len(rows):
        return np.empty((0, 2), dtype=np.int64)
    return np.stack([rows[keys // len(rows)], rows[keys % len(rows)]], axis=1)


@dataclass(frozen=True)
class _Band:
    """The pictures by the bits of one band. starts: (2**21 + 1,) into rows and signs, which are sorted by them."""

    shift: int
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    signs: Bits

    @classmethod
    def of(cls, signs: Bits, band: int) -> _Band:
        shift = band * _BITS
        keys = _bits_of(signs, shift)
        rows = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << _BITS))])
        return cls(shift, starts, rows, signs[rows])


def _of_block(looks: Looks, block: Pairs, bands: list[_Band]) -> Pairs:
    """Find the pairs of some pictures with all, each as first × number of pictures + second."""
    views = (expanded(looks.frequencies[block]) @ _views()).reshape(-1, _BANDS * _BITS)  # (pictures × views, 63)
    owners = np.repeat(block, len(views) // len(block))
    signs = _packed(views > 0)
    strength = np.abs(views)
    found = []
    for number, band in enumerate(bands):
        # Bit i of the packed signs is frequency i, and band b has the bits b × 21 onwards.
        own = strength[:, number * _BITS : (number + 1) * _BITS]
        weakest = np.argpartition(own, _WEAK, axis=1)[:, :_WEAK]
        probes = _bits_of(signs, band.shift)[:, None] ^ _flips(weakest)  # (pictures × views, 16)
        for query, place in _hits(band, probes):
            near = _popcount(signs[query] ^ band.signs[place]) <= _MAX_DIFFERENT
            first, second = owners[query[near]], band.rows[place[near]]
            kept = (first != second) & looks.may_be_copies(first, second)
            low, high = np.minimum(first, second)[kept], np.maximum(first, second)[kept]
            found.append(np.unique(low * len(looks) + high))
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def _hits(band: _Band, probes: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """Yield (query, place in the band) for everything in the probed buckets, a bounded number at once."""
    asked = probes.ravel()
    starts = band.starts[asked]
    counts = np.minimum(band.starts[asked + 1] - starts, _MOST_IN_A_BUCKET)
    filled = np.flatnonzero(counts)
    starts, counts, queries = starts[filled], counts[filled], filled // probes.shape[1]
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _HITS_AT_ONCE, side="right")))
        many = counts[first:last]
        offsets = np.arange(int(ends[last - 1]) - before) - np.repeat(ends[first:last] - many - before, many)
        yield np.repeat(queries[first:last], many), np.repeat(starts[first:last], many) + offsets
        first = last


def _flips(weakest: Pairs) -> Pairs:
    """Turn bit numbers (m, 4) into masks (m, 16), one for every subset."""
    sets = (np.arange(1 << _WEAK)[:, None] >> np.arange(_WEAK)) & 1  # (16, 4)
    return np.asarray((np.int64(1) << weakest.astype(np.int64)) @ sets.T, dtype=np.int64)


@cache
def _views() -> npt.NDArray[np.float32]:
    """Return float32 (144, 10 × 63): frequencies -> low ones of the picture, whole and trimmed in nine ways."""
    parts = [(0.0, 1 - TRIM), (TRIM / 2, 1 - TRIM / 2), (TRIM, 1.0)]
    ways = [((0.0, 1.0), (0.0, 1.0)), *((down, across) for down in parts for across in parts)]
    return np.concatenate([np.kron(trimmed(*d), trimmed(*a))[_low()].T for d, a in ways], axis=1)


def _low() -> Pairs:
    """Return the places of the 63 lowest frequencies among the 144, dealt out evenly to the bands."""
    order = sorted(
        (down + across, down, down * FREQUENCIES + across)
        for down in range(FREQUENCIES)
        for across in range(FREQUENCIES)
        if down + across
    )
    lowest = np.array([place for *_, place in order[: _BITS * _BANDS]])
    return lowest.reshape(_BITS, _BANDS).T.ravel()


def _packed(bits: npt.NDArray[np.bool_]) -> Bits:
    """Pack bool (m, 63) into uint64 (m,), the first in the lowest bit."""
    padded = np.zeros((len(bits), 64), dtype=np.bool_)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").ravel()


def _bits_of(signs: Bits, shift: int) -> Pairs:
    return ((signs >> np.uint64(shift)) & np.uint64((1 << _BITS) - 1)).astype(np.int64)


def _popcount(x: Bits) -> npt.NDArray[np.uint64]:
    """Count the bits set in each; numpy has a function for it only since version 2."""
    x = x - ((x >> _ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def in_threads(work: Callable[[_Part], _Result], parts: Iterable[_Part]) -> Iterator[_Result]:
    """Map in threads, with the results in order and few of them pending."""
    threads = usable_cpus()
    with ThreadPoolExecutor(threads, thread_name_prefix="clipdex-duplicates") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(work, part))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
