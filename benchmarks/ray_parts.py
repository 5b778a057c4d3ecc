"""Parts made by Ray on raylets of this machine, beside one index made by one process: the answers, and the cost.

    .venv-ray/bin/python benchmarks/ray_parts.py [--pictures 20000] [--parts 8] [--raylets 2] [--rounds 1]
    .venv-ray/bin/python benchmarks/ray_parts.py --same [--pictures 4000]

Draws pictures of the demo's kind, starts a Triton with the demo model and a cluster whose raylets have a CPU each,
and runs `clipdex index` in turns: plainly with as many decoding processes as there are raylets, and with --engine
ray. Core time is that of both servers, the cluster and all processes of the run. What a run over 64 pictures takes
is start-up, and subtracted. --same makes the parts without Ray too, compares vectors bit by bit, and asks 1,000
queries of each index. Figures: docs/ray.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from rounds import where as machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.ray_kills import cluster

import clipdex
from clipdex.index import Index
from clipdex_export.demo.draw import draw
from clipdex_export.demo.sampling import sample_scene
from clipdex_server import LocalTriton

REPOSITORY = Path(__file__).resolve().parent.parent / "model_repository"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_DRAWN = 400
_TOP = 20


def draw_many(folder: Path, count: int) -> None:
    """Some hundred drawings, each shifted by a few pixels again and again: all are different pictures."""
    folder.mkdir()
    drawn = [
        np.asarray(draw(sample_scene(Random(i)), i, size=224, oversample=1)) for i in range(min(_DRAWN, count))
    ]
    for i in range(count):
        kind, shift = i % len(drawn), i // len(drawn)
        pixels = np.roll(drawn[kind], (shift, 2 * shift), (0, 1))
        Image.fromarray(pixels).save(folder / f"{i:06}.jpg", quality=90)


class CoreTime:
    """Adds up the core seconds of this process and all below it, those that end on the way too."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, str], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        self._look()
        return sum(self._used.values()) * _TICK_S

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self._look()

    def _look(self) -> None:
        parents, found = {}, {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as file:
                        fields = file.read().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry)] = int(fields[1])
                found[int(entry)] = (fields[19], int(fields[11]) + int(fields[12]))
        ours = {os.getpid()}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours |= more
            grown = bool(more)
        for pid in ours & found.keys():
            began, used = found[pid]
            self._used[pid, began] = used


def index(folder: Path, out: Path, server: str, *words: object) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "clipdex",
        "index",
        folder,
        "--out",
        out,
        "--server",
        server,
        "--json",
        *words,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {"indexed": found["indexed"], "busy": found["indexed"] / found["images_per_s"]}


def vectors(place: Path) -> dict[bytes, bytes]:
    with Index.open(place) as opened:
        return {path: opened.vectors[row].tobytes() for row, path in opened.live_paths()}


def compare(name: str, ours: Path, other: Path, queries: np.ndarray) -> None:
    a, b = vectors(ours), vectors(other)
    assert a.keys() == b.keys(), "not the same pictures"
    unequal = [path for path in a if a[path] != b[path]]
    worst = max(
        (
            float(
                np.abs(np.frombuffer(a[p], "<f2").astype(float) - np.frombuffer(b[p], "<f2").astype(float)).max()
            )
            for p in unequal
        ),
        default=0.0,
    )
    same_paths = same_scores = 0
    furthest = 0.0
    with Index.open(ours) as mine, Index.open(other) as theirs:
        for at in range(0, len(queries), 50):
            pairs = zip(
                mine.search(queries[at : at + 50], _TOP), theirs.search(queries[at : at + 50], _TOP), strict=True
            )
            for x, y in pairs:
                # Equal scores may be in another order: rows are numbered part after part.
                same_paths += {h.path for h in x} == {h.path for h in y}
                same_scores += [h.score for h in x] == [h.score for h in y]
                furthest = max(furthest, *(abs(h.score - g.score) for h, g in zip(x, y, strict=True)))
    print(
        f"{name}: {len(a):,} pictures in both; {len(unequal):,} vectors differ in a bit, by {worst:.2g} at most; "
        f"of {len(queries):,} queries {same_paths:,} have the same {_TOP} pictures and {same_scores:,} the same "
        f"scores to the last bit (at most {furthest:.2g} apart)",
        flush=True,
    )


def asked(server: str, folder: Path) -> np.ndarray:
    """1,000 queries, float32 (1000, D): 500 pictures of the folder, and 500 random directions."""
    with clipdex.connect(server) as client:
        pictures = client.embed_images(sorted(folder.iterdir())[:500])
    drawn = np.random.default_rng(3).standard_normal((1000 - len(pictures), pictures.shape[1])).astype(np.float32)
    return np.concatenate([np.asarray(pictures), drawn / np.linalg.norm(drawn, axis=1, keepdims=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--raylets", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--same", action="store_true")
    given = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}", flush=True)
    with (
        tempfile.TemporaryDirectory() as made,
        LocalTriton(REPOSITORY) as triton,
        cluster(given.raylets) as raylets,
    ):
        place = Path(made)
        draw_many(place / "pictures", given.pictures)
        draw_many(place / "few", 64)
        plain = ("--workers", given.raylets)
        ray = ("--parts", given.parts, "--engine", "ray", "--ray-address", raylets.address)
        if given.same:
            folder = place / "pictures"
            index(folder, place / "one", triton.address, *plain)
            index(folder, place / "parts", triton.address, "--parts", given.parts, "--workers", 1)
            index(folder, place / "ray", triton.address, *ray)
            queries = asked(triton.address, folder)
            compare("parts by Ray, beside the same parts without it", place / "ray", place / "parts", queries)
            compare("parts by Ray, beside one index by one process", place / "ray", place / "one", queries)
            return
        measure(place, triton.address, {"plain": plain, "ray": ray}, given.rounds)


def measure(place: Path, server: str, sides: dict[str, tuple[object, ...]], rounds: int) -> None:
    core = CoreTime()
    for number in range(rounds):
        took: dict[str, tuple[float, float]] = {}
        for name in sorted(sides, reverse=number % 2 == 1):
            cores, clock = [], []
            for folder in ("few", "pictures"):
                before = core.seconds()
                found = index(place / folder, place / f"{folder}-{name}-{number}", server, *sides[name])
                cores.append(core.seconds() - before)
                clock.append(found["busy"])
            took[name] = clock[1], cores[1] - cores[0]
            print(
                f"round {number + 1}, {name}: {clock[1]:.1f} s by the clock from the first picture to the last "
                f"commit, {cores[1]:.1f} s of the cores, of which start-up {cores[0]:.1f} s; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        clocks, works = (took["ray"][kind] / took["plain"][kind] for kind in (0, 1))
        print(
            f"round {number + 1}: parts by Ray {clocks:.2f} × by the clock, {works:.2f} × of the cores", flush=True
        )
    core.stop()


if __name__ == "__main__":
    main()
