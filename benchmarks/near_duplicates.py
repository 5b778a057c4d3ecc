"""What `clipdex duplicates` finds of the copies among 100,000 drawn pictures, what it makes up, and its time.

One in twenty pictures is a copy of another: resized, recompressed, cropped by 5 % of its width and height, or all
three. Half of the others come in families of four that share a place, a light, or a layout (drawn_pictures.py).

    python benchmarks/near_duplicates.py --cache /tmp/signatures.npz
    python benchmarks/near_duplicates.py --hashes      # needs the package ImageHash
    python benchmarks/near_duplicates.py --semantic 50000 200000 1000000
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_pictures import COPIES, copy_of, picture
from text_like import TextLike

import clipdex
from clipdex.apps.bench.measure_index import draw_photo
from clipdex.apps.duplicates import groups
from clipdex.apps.duplicates.candidate_pairs import candidate_pairs
from clipdex.apps.duplicates.groups import close_pairs
from clipdex.looks.compare import similarities
from clipdex.looks.frequencies import Looks
from clipdex.looks.signature import SIGNATURE_BYTES, perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, open_image, resized

SEED = 2026
ONE_COPY_IN = 20
PIECE = 50_000  # vectors
MOST_BY_BOUNDS, MOST_ALL_BY_ALL = 200_000, 50_000  # vectors; more take too long


def original_of(copy: int) -> int:
    return copy * (ONE_COPY_IN - 1)


def draw_original(n: int) -> tuple[bytes, int, int]:
    drawn = picture(SEED, n)
    return perceptual_signature(drawn), drawn.width, drawn.height


def draw_copy(n: int) -> tuple[bytes, int, int]:
    made = copy_of(picture(SEED, original_of(n)), COPIES[n % len(COPIES)], np.random.default_rng([SEED, n]))
    return perceptual_signature(made), made.width, made.height


def drawn(count: int, cache: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signatures uint8 (n, 158) and sizes (n, 2) of the originals, then of the copies."""
    if cache is not None and cache.exists():
        held = np.load(cache)
        return held["originals"], held["sizes"], held["copies"], held["copy_sizes"]
    copies = count // ONE_COPY_IN
    began = time.monotonic()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(2, os.nice, (15,)) as pool:
        made = [*pool.imap(draw_original, range(count - copies), 256), *pool.imap(draw_copy, range(copies), 64)]
    print(f"drawn and signed in {time.monotonic() - began:,.0f} s")
    signatures = np.frombuffer(b"".join(one for one, *_ in made), dtype=np.uint8).reshape(-1, SIGNATURE_BYTES)
    sizes = np.array([size for _, *size in made], dtype=np.int64)
    parts = (signatures[:-copies], sizes[:-copies], signatures[-copies:], sizes[-copies:])
    if cache is not None:
        np.savez(cache, originals=parts[0], sizes=parts[1], copies=parts[2], copy_sizes=parts[3])
    return parts


def write_index(path: Path, signatures: np.ndarray, sizes: np.ndarray) -> None:
    """An index of pictures that are nowhere; their vectors are not looked at."""
    vectors = np.eye(4, dtype=np.float32)
    rows = zip(signatures, sizes.tolist(), strict=True)
    made = (
        clipdex.Picture(b"/%08d.jpg" % n, 1, n, n.to_bytes(16, "big"), size[0], size[1], None, signature.tobytes())
        for n, (signature, size) in enumerate(rows)
    )
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest("f" * 64, "drawn", 4)) as writer:
        while batch := list(itertools.islice(made, 50_000)):
            writer.append(batch, vectors[np.arange(len(batch)) % 4])
            writer.commit()


def measure(parts: tuple[np.ndarray, ...], count: int, place: Path) -> None:
    """How many copies are listed with their originals, and how much of what is listed is true."""
    copies = count // ONE_COPY_IN
    originals = count - copies
    path = place / f"{count}.clipdex"
    write_index(
        path,
        np.concatenate([parts[0][:originals], parts[2][:copies]]),
        np.concatenate([parts[1][:originals], parts[3][:copies]]),
    )
    times = []
    for _ in range(3):
        began = time.perf_counter()
        found = clipdex.find_duplicates(path)
        times.append(time.perf_counter() - began)

    def source(row: int) -> int:
        return original_of(row - originals) if row >= originals else row

    hits = dict.fromkeys(COPIES, 0)
    listed = true = 0
    for group in found.groups:
        rows = [group.keeper.row, *(other.row for other in group.others)]
        listed += len(group.others)
        true += sum(source(other.row) == source(group.keeper.row) for other in group.others)
        for row in rows:
            if row >= originals and source(row) in rows:
                hits[COPIES[(row - originals) % len(COPIES)]] += 1
    each = ", ".join(f"{kind} {hit / (copies / len(COPIES)):.3f}" for kind, hit in hits.items())
    print(
        f"{count:8,} pictures, {copies:,} copies: {statistics.median(times):6.1f} s, recall "
        f"{sum(hits.values()) / copies:.4f} ({each}), precision {true / max(1, listed):.4f} of {listed:,} listed",
        flush=True,
    )


def measure_many(signatures: np.ndarray, count: int, place: Path) -> None:
    """Only time and memory: each frequency is that of some picture, so that pictures are alike as by chance."""
    rng = np.random.default_rng(SEED)
    drawn_ones = np.empty((count, SIGNATURE_BYTES), dtype=np.uint8)
    for column in range(SIGNATURE_BYTES):
        drawn_ones[:, column] = signatures[rng.integers(len(signatures), size=count), column]
    write_index(place / "many.clipdex", drawn_ones, rng.choice([[640, 480], [480, 640], [640, 427]], count))
    del drawn_ones
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = clipdex.find_duplicates(place / "many.clipdex")
    took = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{count:8,} drawn signatures: {took:6.1f} s, {len(found.groups):,} groups by chance, "
        f"{grown / 1024:,.0f} MB more"
    )


def measure_cost() -> None:
    """What a signature costs a run, beside reading the picture."""
    spec = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3)
    read_s, sign_s = [], []
    for seed in range(100):
        buffer = io.BytesIO()
        draw_photo(seed).save(buffer, "JPEG", quality=85)
        began = time.perf_counter()
        small = resized(open_image(buffer.getvalue()), spec)
        center_crop(small, spec)
        middle = time.perf_counter()
        perceptual_signature(small)
        sign_s.append(time.perf_counter() - middle)
        read_s.append(middle - began)
    read, sign = (1e6 * statistics.median(times) for times in (read_s, sign_s))
    print(f"a JPEG of 640 × 480: {read:,.0f} µs to decode and resize, {sign:,.0f} µs to sign")


def semantic_vectors(count: int, kind: str) -> np.ndarray:
    """Vectors of 512 numbers, float16, drawn piece by piece; the last twentieth are near copies of the first."""
    found = np.empty((count, 512), np.float16)
    copies = count // 20
    for start in range(0, count, PIECE):
        size = min(PIECE, count - start)
        if kind == "like a model's":
            some = TextLike(512).pictures(size, SEED + start)
        else:
            some = np.random.default_rng([SEED, start]).standard_normal((size, 512), dtype=np.float32)
        found[start : start + size] = some / np.linalg.norm(some, axis=1, keepdims=True)
    for start in range(0, copies, PIECE):
        size = min(PIECE, copies - start)
        noise = np.random.default_rng([SEED, start]).standard_normal((size, 512), dtype=np.float32)
        some = found[start : start + size].astype(np.float32) + np.float32(0.008) * noise
        at = count - copies + start
        found[at : at + size] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return found


def measure_semantic(counts: list[int], kind: str = "like a model's") -> None:
    """Close pairs of vectors, of which a twentieth are near copies: by cells, by bounds of all, and all by all."""
    before: dict[str, tuple[int, float]] = {}
    for count in counts:
        vectors = semantic_vectors(count, kind)

        def read(rows: np.ndarray, vectors: np.ndarray = vectors) -> np.ndarray:
            return groups._unit(vectors[rows])

        def by_cells(vectors: np.ndarray = vectors) -> np.ndarray:
            return close_pairs(vectors, np.arange(len(vectors)), 0.95)

        def by_bounds(vectors: np.ndarray = vectors) -> np.ndarray:
            with mock.patch.object(groups, "cells_of", lambda *_: None):
                return close_pairs(vectors, np.arange(len(vectors)), 0.95)

        def of_all(read=read, count: int = count) -> np.ndarray:
            return groups._pairs_of_all(read, count, 0.95, None)

        ways: dict[str, Callable[[], np.ndarray]] = {"by cells": by_cells}
        if count <= MOST_BY_BOUNDS:
            ways["by bounds"] = by_bounds
        if count <= MOST_ALL_BY_ALL:
            ways["all by all"] = of_all
        for name, work in ways.items():
            began, busy = time.perf_counter(), time.process_time()
            found = len(work())
            took, busy = time.perf_counter() - began, time.process_time() - busy
            grown = ""
            if name in before:
                fewer, less = before[name]
                grown = f"; as n to the {math.log(busy / less) / math.log(count / fewer):.2f}"
            before[name] = count, busy
            print(
                f"{count:9,} vectors {kind}, {name}: {took:.1f} s, of the processors {busy:.1f} s{grown}; "
                f"{found:,} pairs; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def compare_hashes(count: int = 2000) -> None:
    """Other hashes on the same pictures: recall where one in a hundred listed pairs is false, among all pairs."""
    import imagehash

    originals = [picture(SEED, n) for n in range(count)]
    copies = [copy_of(one, COPIES[n % 4], np.random.default_rng([SEED, n])) for n, one in enumerate(originals)]
    kinds = {
        "pHash, 64 bits": imagehash.phash,
        "dHash, 64 bits": imagehash.dhash,
        "wHash, 64 bits": imagehash.whash,
        "mean, 64 bits": imagehash.average_hash,
        "pHash, 256 bits": lambda image: imagehash.phash(image, hash_size=16),
        "mean, 256 bits": lambda image: imagehash.average_hash(image, hash_size=16),
    }
    same = np.eye(count, dtype=bool)
    for name, hashed in kinds.items():
        began = time.perf_counter()
        left = np.stack([hashed(one).hash.ravel() for one in originals]).astype(np.float32)
        took = (time.perf_counter() - began) / count
        right = np.stack([hashed(one).hash.ravel() for one in copies]).astype(np.float32)
        apart = left.sum(1)[:, None] + right.sum(1) - 2 * left @ right.T
        report(name, -apart, same, took)
    began = time.perf_counter()
    signatures = [perceptual_signature(one) for one in originals]
    took = (time.perf_counter() - began) / count
    signatures += [perceptual_signature(one) for one in copies]
    looks = Looks.of(b"".join(signatures), np.array([one.size for one in (*originals, *copies)]))
    pairs = candidate_pairs(looks)
    pairs = pairs[(pairs[:, 0] < count) & (pairs[:, 1] >= count)]
    alike = np.zeros((count, count), dtype=np.float32)
    alike[pairs[:, 0], pairs[:, 1] - count] = similarities(looks, pairs[:, 0], pairs[:, 1], 0.96)
    report("clipdex", alike, same, took)
    equal = sum(
        one[:8].hex() == str(imagehash.phash(image)) for one, image in zip(signatures, originals, strict=False)
    )
    print(f"the first 64 bits are those of imagehash.phash for {equal:,} of {count:,}")


def report(name: str, score: np.ndarray, same: np.ndarray, seconds: float) -> None:
    """The best recall at a precision of 0.99, where one pair in `len(same)` is true."""
    order = np.argsort(-score, axis=None, kind="stable")
    true = np.cumsum(same.ravel()[order])
    last = np.append(np.diff(score.ravel()[order]) != 0, True)  # of equal scores all or none are listed
    precise = last & (true >= 0.99 * np.arange(1, len(true) + 1))
    recall = true[precise].max() / len(same) if precise.any() else 0.0
    print(f"{name:16} recall {recall:.3f} at precision 0.99, {1e6 * seconds:,.0f} µs a picture")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--cache", type=Path, help="keep the signatures here")
    parser.add_argument("--many", type=int, default=1_000_000, help="signatures to measure only time with")
    parser.add_argument("--hashes", action="store_true", help="compare with the hashes of ImageHash instead")
    parser.add_argument("--semantic", type=int, nargs="+", metavar="N", help="compare only so many vectors")
    parser.add_argument("--isotropic", action="store_true", help="with --semantic: vectors of any direction")
    given = parser.parse_args()
    if given.hashes:
        compare_hashes()
    elif given.semantic:
        measure_semantic(given.semantic, "of any direction" if given.isotropic else "like a model's")
    else:
        measure_cost()
        measure_semantic([12_500, 25_000, 50_000])
        held = drawn(given.count, given.cache)
        with tempfile.TemporaryDirectory() as folder:
            for part in (4, 2, 1):
                measure(held, given.count // part, Path(folder))
            if given.many:
                measure_many(held[0], given.many, Path(folder))
