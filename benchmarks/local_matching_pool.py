"""The pool of drawn pictures that benchmarks/local_matching.py searches: their features, signatures and vectors.

    nice python benchmarks/local_matching_pool.py --count 20000 --cache /tmp/matching-pool

Chunks of 250 pictures that are in the folder already are kept, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

import clipdex
from clipdex.looks.local_features import LocalFeatures, extract, opencv
from clipdex.looks.signature import perceptual_signature

ROOT = Path(__file__).resolve().parents[1]
SEED = 2026
CHUNK = 250
MOST = 300  # points of a picture: they have a tenth of the pixels that the default of 500 is for

_client: Any = None
_connected_in = 0  # the process: a client does not survive a fork


@dataclass(frozen=True, eq=False)
class Described:
    """All that the methods compared know of one picture. vector: float32 (D,) of the demo model."""

    features: LocalFeatures
    signature: bytes
    vector: np.ndarray


def describe(images: list[Image.Image]) -> list[Described]:
    """Describe pictures by all methods."""
    global _client, _connected_in
    if _connected_in != os.getpid():
        _connected_in = os.getpid()
        opencv().setNumThreads(1)
        _client = clipdex.connect(f"inproc:{ROOT / 'model_repository'}", model="demo")
    vectors = np.asarray(_client.embed_images(images))
    return [
        Described(extract(image, most=MOST), perceptual_signature(image), vector)
        for image, vector in zip(images, vectors, strict=True)
    ]


def packed(some: list[Described]) -> dict[str, np.ndarray]:
    """Pack descriptions for `np.savez`."""
    found = [each.features for each in some]
    return {
        "counts": np.array([len(each) for each in found]),
        "sizes": np.array([each.size for each in found]),
        "keypoints": np.concatenate([np.column_stack([e.points, e.scales, e.angles]) for e in found]),
        "descriptors": np.concatenate([each.descriptors for each in found]),
        "signatures": np.frombuffer(b"".join(each.signature for each in some), np.uint8),
        "vectors": np.array([each.vector for each in some], np.float32),
    }


def unpacked(held: Any) -> list[Described]:
    """Undo `packed`."""
    ends = np.cumsum(held["counts"])
    keypoints, descriptors = held["keypoints"].astype(np.float32), held["descriptors"]
    signatures = held["signatures"].reshape(len(ends), -1)
    vectors = held["vectors"]
    made = []
    for k, (start, end) in enumerate(zip(ends - held["counts"], ends, strict=True)):
        table = keypoints[start:end]
        size = (int(held["sizes"][k, 0]), int(held["sizes"][k, 1]))
        features = LocalFeatures(table[:, :2], table[:, 2], table[:, 3], descriptors[start:end], size)
        made.append(Described(features, signatures[k].tobytes(), vectors[k]))
    return made


def make_chunk(job: tuple[int, int, str]) -> None:
    """Draw and describe a chunk, unless it is there. job: seed, number of the chunk, folder."""
    from matching_pictures import drawn

    seed, chunk, folder = job
    path = Path(folder) / f"{seed}-{chunk:05d}.npz"
    if path.exists():
        return
    some = describe([drawn(seed, n) for n in range(chunk * CHUNK, (chunk + 1) * CHUNK)])
    with open(path.with_suffix(".part"), "wb") as file:
        np.savez(file, **packed(some))
    path.with_suffix(".part").rename(path)


def make_pool(folder: Path, count: int, seed: int = SEED, workers: int = 2) -> None:
    """Make all chunks of a pool."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        jobs = [(seed, chunk, str(folder)) for chunk in range(-(-count // CHUNK))]
        for done, _ in enumerate(pool.imap_unordered(make_chunk, jobs), 1):
            print(f"{done * CHUNK:,} pictures in {time.monotonic() - began:,.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    make_pool(asked.cache, asked.count, asked.seed, asked.workers)
