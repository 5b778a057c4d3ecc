"""JPEG files to a committed index, beside what others do with the same files and weights.

    .venv-dev/bin/python benchmarks/peers_index.py [--pictures 96] [--rounds 5] [--only hf_one,hf_batched]

The Hugging Face processor and model one by one and in batches of 32, sentence-transformers'
`encode(batch_size=32)`, and Pillow with onnxruntime in batches of 32: each in a process of its own that keeps its
model, in an environment that the script makes (.venv-peers). clipdex's side is `index_pictures` through Triton on
the same cores, its workers' start and the commit included; the others only make vectors. That all make the same
vectors is checked. clipdex's other precisions and runtime are the same run with other exports, and a line each,
as is Hugging Face in bfloat16 (`--only hf_bf16`); how near their vectors are to float32's is printed (random
weights say little about what int8 costs: docs/export.md does). 640 × 480 JPEGs, drawn. Figures:
docs/performance.md, docs/cpu.md.
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
from clipdex.base.processor import this_processor
from clipdex_server import LocalTriton

PEERS = {
    "hf_one": "Hugging Face, one by one",
    "hf_batched": "Hugging Face, batches of 32",
    "hf_bf16": "Hugging Face in bfloat16, batches of 32",
    "sentence_transformers": "sentence-transformers, encode(batch_size=32)",
    "onnxruntime": "Pillow + onnxruntime, batches of 32",
}
OURS = "clipdex"
# what clipdex's other sides are called -> the precision and the target of the export
EXPORTS = {
    OURS: ("fp32", "auto"),
    "clipdex, int8": ("int8", "auto"),
    "clipdex, bf16 export by OpenVINO": ("bf16", "openvino"),
    "clipdex, int8 by OpenVINO": ("int8", "openvino"),
}
EXACT_PEERS = {name for name in PEERS if name != "hf_bf16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32, help="the served model's max_batch_size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(sorted(EXACT_PEERS)), help="of " + ", ".join(PEERS))
    parser.add_argument("--openvino", action="store_true", help="clipdex by OpenVINO too, in bf16 and int8")
    options = parser.parse_args()
    names = options.only.split(",")
    checkpoint, repository = random_clip(options.shape)
    repositories = {
        side: random_clip(options.shape, *export)[1]
        for side, export in EXPORTS.items()
        if options.openvino or export[1] == "auto"
    }
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
            report = clipdex.index_pictures(
                clients[side], directory / "photos", directory / f"{side} {made}.clipdex"
            )
            assert report.indexed == len(paths)
            return Sample(len(paths) / (time.perf_counter() - began), len(paths))

        def theirs(name: str) -> Sample:
            return Sample(len(paths) / peers[name].seconds(paths), len(paths))

        sides = {side: lambda side=side: ours(side) for side in clients}
        sides |= {name: lambda name=name: theirs(name) for name in names}
        found = alternate(sides, rounds=options.rounds)
        vectors = {side: vectors_of(next(directory.glob(f"{side} [0-9]*.clipdex"))) for side in clients}
        vectors |= {name: np.load(peer.vectors) for name, peer in peers.items()}
    units = {side: each / np.linalg.norm(each, axis=1, keepdims=True) for side, each in vectors.items()}
    cosines = {side: (each * units[OURS]).sum(axis=1) for side, each in units.items()}
    wrong = {name: low for name in EXACT_PEERS & set(names) if (low := cosines[name].min()) <= 0.999}
    assert not wrong, f"they do not make the same vectors: {wrong}"
    print(f"{options.shape}, {len(paths)} JPEGs of 640 × 480; {where()}; {this_processor()}\n{found.remark()}\n")
    ratios = " | ".join(f"{side} is faster by" for side in clients)
    print(f"| | images/s | core ms an image | smallest cosine to clipdex's float32 | mean | {ratios} |")
    print("|---|---|---|---|---|" + "---|" * len(clients))
    for side in sides:
        faster = " | ".join("" if each == side else found.ratio(each, side) for each in clients)
        near = f"{cosines[side].min():.5f} | {cosines[side].mean():.5f}"
        print(
            f"| {PEERS.get(side, side)} | {found.rate(side):.1f} | {found.core_ms(side):.1f} | {near} | {faster} |"
        )


def vectors_of(index: Path) -> np.ndarray:
    with clipdex.Index.open(index) as opened:
        return np.array(opened.vectors, dtype=np.float32)


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
