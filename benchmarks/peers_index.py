"""JPEG files to a committed index, beside what others do with the same files and weights.

    .venv-dev/bin/python benchmarks/peers_index.py [--pictures 96] [--rounds 5] [--only hf_one,hf_batched]

The Hugging Face processor and model one by one and in batches of 32, sentence-transformers'
`encode(batch_size=32)`, and Pillow with onnxruntime in batches of 32: each in a process of its own that keeps its
model, in an environment that the script makes (.venv-peers). clipdex's side is `index_pictures` through Triton on
the same cores, its workers' start and the commit included; the others only make vectors. That all make the same
vectors is checked. `clipdex, int8` is the same run with an int8 export: another precision, so a line of its own,
and its vectors are not compared (random weights say nothing about what int8 costs: docs/export.md does).
640 × 480 JPEGs, drawn. Figures: docs/performance.md.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from peers import Peer
from random_clip import edited, random_clip
from rounds import Sample, alternate, where

import clipdex
from clipdex.apps.bench.measure_index import draw_photos
from clipdex_server import LocalTriton

PEERS = {
    "hf_one": "Hugging Face, one by one",
    "hf_batched": "Hugging Face, batches of 32",
    "sentence_transformers": "sentence-transformers, encode(batch_size=32)",
    "onnxruntime": "Pillow + onnxruntime, batches of 32",
}
OURS, INT8 = "clipdex", "clipdex, int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="the served model's max_batch_size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PEERS), help="of " + ", ".join(PEERS))
    options = parser.parse_args()
    names = options.only.split(",")
    checkpoint, repository = random_clip(options.shape)
    repositories = {OURS: repository, INT8: random_clip(options.shape, "int8")[1]}
    onnx_file = repository / f"{options.shape}_image" / "1" / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        directory = Path(scratch)
        paths = draw_photos(directory / "photos", options.pictures)
        clients = {
            side: stack.enter_context(connected(repository, directory / f"{side} repository", options.batch))
            for side, repository in repositories.items()
        }
        peers = {
            name: stack.enter_context(Peer(name, checkpoint, onnx_file, directory / f"{name}.npy"))
            for name in names
        }
        made = 0

        def ours(side: str) -> Sample:
            nonlocal made
            made += 1
            began = time.perf_counter()
            index = directory / f"{side} {made}.clipdex"
            report = clipdex.index_pictures(clients[side], directory / "photos", index)
            assert report.indexed == len(paths)
            return Sample(len(paths) / (time.perf_counter() - began), len(paths))

        def theirs(name: str) -> Sample:
            return Sample(len(paths) / peers[name].seconds(paths), len(paths))

        sides = {side: lambda side=side: ours(side) for side in clients}
        sides |= {name: lambda name=name: theirs(name) for name in names}
        found = alternate(sides, rounds=options.rounds)
        with clipdex.Index.open(directory / f"{OURS} 1.clipdex") as index:
            vectors = np.array(index.vectors, dtype=np.float32)
        cosines = {name: (vectors * np.load(peer.vectors)).sum(axis=1).min() for name, peer in peers.items()}
    assert min(cosines.values()) > 0.999, f"they do not make the same vectors: {cosines}"
    print(f"{options.shape}, {len(paths)} JPEGs of 640 × 480; {where()}\n{found.remark()}")
    print(f"smallest cosine between clipdex's vectors (float16) and theirs: {min(cosines.values()):.6f}\n")
    print(
        "| | images/s | core ms an image | clipdex is faster by | its core time ÷ theirs | with int8 faster by |"
    )
    print("|---|---|---|---|---|---|")
    for side in sides:
        ratios = f"{found.ratio(OURS, side)} | {found.core_ratio(OURS, side)} | {found.ratio(INT8, side)}"
        ratios = ratios if side in names else " | | "
        print(f"| {PEERS.get(side, side)} | {found.rate(side):.1f} | {found.core_ms(side):.1f} | {ratios} |")


@contextmanager
def connected(repository: Path, copy: Path, batch: int) -> Iterator[clipdex.Client]:
    """A client of a Triton that serves a copy of a repository with that max_batch_size."""
    with (
        LocalTriton(edited(repository, copy, max_batch_size=batch)) as server,
        clipdex.connect(server.address) as client,
    ):
        yield client


if __name__ == "__main__":
    main()
