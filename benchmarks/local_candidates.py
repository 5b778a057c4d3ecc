"""Which of the pictures with the most votes `clipdex match` compares with a query: what that saves, what it loses.

    nice python benchmarks/local_matching_pool.py --count 1000 --cache /tmp/matching-pool
    nice python benchmarks/local_candidates.py --cache /tmp/matching-pool --present 40 --absent 200
    nice python benchmarks/local_candidates.py --desktops 2000 --cache /tmp/desktops --absent 2000

Absent queries are the pool's own pictures, each with its own row left out; every fifth is also searched with all
candidates compared and transforms fitted to any four pairs, and the time of both is printed. Present queries are
each transform of some pictures: of the originals that the geometry accepts, it prints how many were not compared.
The same is printed with only the nearest 4 and the nearest 1 of the 12 neighbours: so it is in a pool 3 or 12
times as large.

With --desktops, the pool has only the pictures that are taken for each other most often: desktops with icons of
one set (matching_pictures.py).
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from local_matching_pool import MOST, SEED, unpacked
from matching_pictures import TRANSFORMS, drawn, kind_drawn

from clipdex.features import candidates, matching
from clipdex.features.build_neighbours import write_lists
from clipdex.features.candidates import NEIGHBOURS, votes
from clipdex.features.decision import SAME
from clipdex.features.geometry import fit
from clipdex.features.matching import CANDIDATES, matches, sides_of
from clipdex.features.neighbours import PROBES, import_faiss, numbered
from clipdex.features.pairs import MOST_COMPARED, numbers
from clipdex.looks.local_features import LocalFeatures, extract, opencv

SHIPPED = candidates._LIKELY


class Pool:
    """Features of drawn pictures, and an inverted file of their descriptors."""

    def __init__(self, features: list[LocalFeatures], path: Path) -> None:
        self.features = features
        faiss = import_faiss()
        with open(path, "w+b") as file:
            write_lists(faiss, file.fileno(), self.blocks, sum(map(len, features)))
        self._lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        self._parameters = faiss.SearchParametersIVF(nprobe=PROBES)
        self.searched = 0.0  # seconds of a core

    def blocks(self) -> Any:
        for start in range(0, len(self.features), 500):
            some = self.features[start : start + 500]
            rows = np.concatenate([np.full(len(each), start + k) for k, each in enumerate(some)])
            yield numbered(rows, np.concatenate([each.descriptors for each in some]))

    def search(self, descriptors: np.ndarray, k: int) -> Any:
        began = time.process_time()
        found = self._lists.search(numbers(descriptors), k, params=self._parameters)
        self.searched += time.process_time() - began
        return found

    def of(self, row: int) -> LocalFeatures:
        return self.features[row]


def desktops(seed: int, count: int, cache: Path) -> tuple[list[LocalFeatures], list[int]]:
    """Draw desktops -> their features and numbers; the cache keeps them."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"desk-{seed}.pkl"
    if path.exists():
        features, drawn_numbers = pickle.loads(path.read_bytes())
        if len(features) >= count:
            return features[:count], drawn_numbers[:count]
    features, drawn_numbers, n = [], [], 0
    while len(features) < count:
        if kind_drawn(seed, n) == "desktop":
            features.append(extract(drawn(seed, n), most=MOST))
            drawn_numbers.append(n)
        n += 1
    path.write_bytes(pickle.dumps((features, drawn_numbers)))
    return features, drawn_numbers


def mixed(seed: int, cache: Path) -> tuple[list[LocalFeatures], list[int]]:
    """Read a pool of local_matching_pool.py -> features and numbers."""
    features = []
    for path in sorted(cache.glob(f"{seed}-*.npz")):
        with np.load(path) as held:
            features += [each.features for each in unpacked(held)]
    return features, list(range(len(features)))


def absent(pool: Pool, names: list[int], seed: int, count: int, seconds: float) -> None:
    """Search pictures of the pool without their own rows, and print what is found and what it takes."""
    compared, found = Counter[str](), []
    took: dict[str, list[float]] = {"as shipped": [], "all compared": []}
    nearest: list[float] = []
    plain, way = fit, "as shipped"

    def counting(*given: Any, least: int, **options: Any) -> Any:
        compared[way] += 1
        fitted = plain(*given, **options, least=least if way == "as shipped" else 4)
        return fitted if fitted is not None and fitted.inliers >= least else None

    setattr(matching, "fit", counting)  # noqa: B010
    asked, wrong, end = 0, Counter[str](), time.monotonic() + seconds
    for k, row in enumerate(np.random.default_rng(seed).permutation(len(names))[:count].tolist()):
        live = np.ones(len(names), np.bool_)
        live[row] = False
        asked += 1
        for way in ("as shipped", "all compared") if k % 5 == 0 else ("as shipped",):
            setattr(candidates, "_LIKELY", SHIPPED if way == "as shipped" else CANDIDATES)  # noqa: B010
            pool.searched, began = 0.0, time.process_time()
            answers = matches(pool, pool, pool.of(row), 1, live=live)
            if k % 5 == 0:
                took[way].append(time.process_time() - began)
                nearest.append(pool.searched)
            wrong[way] += bool(answers)
            for each in answers:
                how = each.fit
                found.append(
                    f"  {way}: {names[row]} as {names[each.row]}: {how.inliers} points, share {how.share:.2f}, "
                    f"contained {how.contained:.2f}, spread {how.spread:.2f}"
                )
        if time.monotonic() > end:
            break
    setattr(matching, "fit", plain)  # noqa: B010
    setattr(candidates, "_LIKELY", SHIPPED)  # noqa: B010
    timed = len(took["as shipped"])
    print(f"absent: {asked:,} as shipped, {timed:,} of them also with all compared; load {os.getloadavg()[0]:.0f}")
    for way, of in (("as shipped", asked), ("all compared", timed)):
        p50 = 1e3 * statistics.median(took[way])
        mean = 1e3 * statistics.mean(took[way])
        print(
            f"  {way:13} {p50:4.0f} ms of a core (mean {mean:.0f}), {compared[way] / of:.1f} comparisons, "
            f"{wrong[way]} of {of:,} have an answer, at most {rule_of_three(wrong[way], of)}"
        )
    print(f"  of that, neighbours {1e3 * statistics.median(nearest):.0f} ms")
    print("\n".join(found), flush=True)


def rule_of_three(many: int, of: int) -> str:
    """The end of the one-sided 95 % interval of a share that none of so many has."""
    return f"{min(1.0, 3 / of):.5f}" if not many else "unknown"


def present(pool: Pool, names: list[int], seed: int, count: int, seconds: float) -> None:
    """Search each transform of some pictures, and print which originals are accepted and not compared."""
    widths = (NEIGHBOURS, 4, 1)
    voted, lost, asked, accepted = Counter[int](), Counter[int](), 0, 0
    end = time.monotonic() + seconds
    for row in np.random.default_rng(seed + 1).permutation(len(names))[:count].tolist():
        image, rng = drawn(seed, names[row]), np.random.default_rng([seed, row])
        for name, change in TRANSFORMS.items():
            query = extract(change(image, rng), most=MOST)
            asked += 1
            for side, _ in sides_of(query):
                if not len(side) or fit(side, pool.of(row), rule=SAME, least=8) is None:
                    continue
                accepted += 1
                distances, ids = pool.search(side.descriptors[:MOST_COMPARED], NEIGHBOURS)
                for k in widths:
                    rows = votes((distances[:, :k], ids[:, :k]))[:CANDIDATES].tolist()
                    if row in rows:
                        voted[k] += 1
                        kept = [each for each, _ in candidates.likely(side, ids[:, :k], rows, pool)]
                        lost[k] += row not in kept
                        if row not in kept:
                            print(f"  of {k} neighbours, not compared: {name}, {names[row]}", flush=True)
                break
        if time.monotonic() > end:
            break
    print(f"present: {asked:,} queries, {accepted:,} originals accepted; load {os.getloadavg()[0]:.0f}")
    for k in widths:
        print(
            f"  of {k} neighbours: {voted[k]:,} have votes enough, {lost[k]} of them are not compared", flush=True
        )


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of the options by which a pool and its queries are chosen; `pool_of` reads the pool."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of the pool")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--desktops", type=int, default=0, help="a pool of so many desktops instead")
    parser.add_argument("--absent", type=int, default=0, help="queries of pictures that are not there (0)")
    parser.add_argument("--present", type=int, default=0, help="pictures, each by every transform (0)")
    return parser


def pool_of(asked: argparse.Namespace) -> tuple[list[LocalFeatures], list[int]]:
    """Read or draw the pool that was asked for -> features and numbers. OpenCV uses one thread from then on."""
    opencv().setNumThreads(1)
    if asked.desktops:
        return desktops(asked.seed, asked.desktops, asked.cache)
    return mixed(asked.seed, asked.cache)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop the queries of a step after so many")
    asked = parser.parse_args()
    import_faiss().omp_set_num_threads(1)
    features, names = pool_of(asked)
    with tempfile.TemporaryDirectory() as place:
        pool = Pool(features, Path(place) / "lists")
        print(f"{len(names):,} pictures, {sum(map(len, features)):,} descriptors, seed {asked.seed}", flush=True)
        if asked.present:
            present(pool, names, asked.seed, asked.present, asked.seconds)
        if asked.absent:
            absent(pool, names, asked.seed, asked.absent, asked.seconds)


if __name__ == "__main__":
    main()
