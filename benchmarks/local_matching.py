"""What local features find of crops, photos of prints and other copies, beside CLIP, the signature and pHash.

In the spirit of the published protocols for copy detection: a pool of drawn pictures that are hard to tell apart
(matching_pictures.py), and scikit-image's photographs; of some of them, queries by each transform; and queries of
pictures that are not there: those of the pool, each searched with its own row left out.

    nice python benchmarks/local_matching_pool.py --count 20000 --cache /tmp/matching-pool
    nice python benchmarks/local_matching.py --cache /tmp/matching-pool --absent 10000

CLIP is the demo model of this repository, which was trained on drawings: it says what a small one does, not a
large one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matching_pictures
from local_matching_pool import SEED, Described, describe, unpacked
from PIL import Image

from clipdex.features.build_neighbours import write_lists
from clipdex.features.geometry import DEFAULT_MIN_INLIERS, MOST_COMPARED, PARTS, SAME, Rule, numbers
from clipdex.features.matching import CANDIDATES, NEIGHBOURS, Verified, matches, mirrored, verify_rows, votes
from clipdex.features.neighbours import POINTS_A_ROW, PROBES, import_faiss
from clipdex.looks.compare import MIN_SIMILARITY, similarities
from clipdex.looks.frequencies import Looks
from clipdex.looks.local_features import LocalFeatures
from clipdex.looks.signature import PHASH_BYTES

METHODS = ("local", "CLIP", "signature", "pHash")
AIMED = (
    "none",
    "crop 80 %",
    "crop 50 %",
    "crop 20 %",
    "crop 50 %, turned ≤ 30°",
    "crop 20 %, turned ≤ 30°",
    "turned 30°",
)
_AT_ONCE = 500

# What may decide on a match, with the least number of points. The first is `clipdex match --parts`.
RULES = {
    "8 % of the points": (8, PARTS),
    "the same, 12 points": (12, PARTS),
    "the same, 20 points": (20, PARTS),
    "20 % of the points": (8, Rule(0.2)),
    "8 %, contained": (8, Rule(0.08, 0, SAME.min_contained)),
    "8 %, spread": (8, Rule(0.08, 0, 0, SAME.min_spread)),
    "8 %, contained, spread": (8, Rule(0.08, 0, SAME.min_contained, SAME.min_spread)),
    "3 %, contained, spread": (8, Rule(0.03, 0, SAME.min_contained, SAME.min_spread)),
    "the default: √n × 1.2, contained, spread": (DEFAULT_MIN_INLIERS, SAME),
    "the default, 10 points": (10, SAME),
    "the default, 12 points": (12, SAME),
    "the default, 15 points": (15, SAME),
    "the default, √n × 1.5": (8, replace(SAME, min_roots=1.5)),
    "the default, √n × 1": (8, replace(SAME, min_roots=1.0)),
    "the default, √n × 0.8": (8, replace(SAME, min_roots=0.8)),
    "the default, spread 0.8": (8, replace(SAME, min_spread=0.8)),
    "the default, spread 0.6": (8, replace(SAME, min_spread=0.6)),
}
DEFAULT = "the default: √n × 1.2, contained, spread"

Fits = tuple[list[Verified], list[Verified]]


class Pool:
    """The features of all pictures in one mapped file, and what the other methods know of them in memory."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.numbers_drawn: list[int] = []
        counts: list[int] = []
        sizes: list[tuple[int, int]] = []
        signatures: list[bytes] = []
        vectors: list[np.ndarray] = []
        points, descriptors = open(place / "points", "wb"), open(place / "descriptors", "wb")  # noqa: SIM115
        with points, descriptors:
            for some, drawn in self._parts(folder):
                self.numbers_drawn += drawn
                for each in some:
                    f = each.features
                    counts.append(len(f))
                    sizes.append(f.size)
                    signatures.append(each.signature)
                    vectors.append(each.vector)
                    points.write(np.column_stack([f.points, f.scales, f.angles]).astype("<f4").tobytes())
                    descriptors.write(f.descriptors.tobytes())
        self.counts, self.sizes = np.array(counts), sizes
        self.ends = np.cumsum(counts)
        self.points = np.memmap(place / "points", "<f4", "r").reshape(-1, 4)
        self.descriptors = np.memmap(place / "descriptors", np.uint8, "r").reshape(-1, 128)
        self.signatures = b"".join(signatures)
        self.vectors = np.array(vectors)

    def _parts(self, folder: Path) -> Iterator[tuple[list[Described], list[int]]]:
        """The photographs, as number -1, -2, ..., then the drawn ones."""
        photographs = describe(matching_pictures.photographs())
        yield photographs, [-1 - k for k in range(len(photographs))]
        for path in sorted(folder.glob(f"{SEED}-*.npz")):
            with np.load(path) as held:
                some = unpacked(held)
            first = int(path.stem.rsplit("-", 1)[1]) * len(some)
            yield some, list(range(first, first + len(some)))

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, row: int) -> LocalFeatures:
        part = slice(self.ends[row] - self.counts[row], self.ends[row])
        table = np.array(self.points[part])
        return LocalFeatures(
            table[:, :2], table[:, 2], table[:, 3], np.array(self.descriptors[part]), self.sizes[row]
        )

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(self)))
            ids = np.concatenate([np.arange(self.counts[row]) + row * POINTS_A_ROW for row in rows])
            yield ids, np.asarray(self.descriptors[self.ends[start] - self.counts[start] : self.ends[rows[-1]]])


class Lists:
    """The pool's descriptors in an inverted file on disk, as an index has it."""

    def __init__(self, pool: Pool, path: Path) -> None:
        faiss = import_faiss()
        began, worked = time.perf_counter(), time.process_time()
        with open(path, "w+b") as file:
            _, self.bytes, self.count, self.lists = write_lists(
                faiss, file.fileno(), pool.blocks, int(pool.counts.sum())
            )
        self.seconds, self.cpu = time.perf_counter() - began, time.process_time() - worked
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        self._parameters = faiss.SearchParametersIVF(nprobe=PROBES)

    def search(self, descriptors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._index.search(numbers(descriptors), k, params=self._parameters)
        return found


class Others:
    """CLIP, the signature and pHash: the first row of each, and how sure it is."""

    def __init__(self, pool: Pool) -> None:
        self.vectors = pool.vectors
        self.looks = Looks.of(pool.signatures, np.array(pool.sizes))
        table = np.frombuffer(pool.signatures, np.uint8).reshape(len(pool), -1)
        self.hashes = np.unpackbits(table[:, :PHASH_BYTES], axis=1)
        self.pool = pool

    def first(self, query: Described) -> dict[str, tuple[int, bool]]:
        """The first row of each method, and whether its own threshold accepts it."""
        cosines = self.vectors @ query.vector
        both = Looks.of(self.pool.signatures + query.signature, np.array([*self.pool.sizes, query.features.size]))
        n = len(self.pool)
        alike = similarities(both, np.arange(n), np.full(n, n), 2.0)
        bits = np.unpackbits(np.frombuffer(query.signature[:PHASH_BYTES], np.uint8))
        far = (self.hashes != bits).sum(axis=1)
        return {
            "CLIP": (int(cosines.argmax()), bool(cosines.max() >= 0.95)),
            "signature": (int(alike.argmax()), bool(alike.max() >= MIN_SIMILARITY)),
            "pHash": (int(far.argmin()), bool(far.min() <= 10)),
        }


def queries_of(pool: Pool, wanted: int) -> list[int]:
    """The rows that queries are made of: all photographs, and drawn ones evenly."""
    photographs = [row for row, n in enumerate(pool.numbers_drawn) if n < 0]
    drawn = [row for row, n in enumerate(pool.numbers_drawn) if n >= 0]
    step = max(1, len(drawn) // max(1, wanted - len(photographs)))
    return photographs + drawn[::step][: wanted - len(photographs)]


def picture_of(pool: Pool, row: int, photographs: list[Image.Image]) -> Image.Image:
    n = pool.numbers_drawn[row]
    return photographs[-1 - n] if n < 0 else matching_pictures.drawn(SEED, n)


def fits(lists: Lists, pool: Pool, query: LocalFeatures, live: np.ndarray | None = None) -> Fits:
    """All that some rule may accept, for the query as it is and mirrored: `matches` without a rule."""
    found = []
    for flipped, asked in enumerate((query, mirrored(query))):
        rows = votes(lists.search(asked.descriptors[:MOST_COMPARED], NEIGHBOURS), live)[:CANDIDATES].tolist()
        found.append(verify_rows(asked, rows, pool, min_inliers=8, rule=Rule(0.0), flipped=bool(flipped)))
    return found[0], found[1]


def answer_by(found: Fits, name: str) -> list[Verified]:
    """What a rule accepts, as `matches` does: the mirrored query only if nothing else is found."""
    least, rule = RULES[name]
    kept = ([e for e in side if e.fit.inliers >= least and rule.accepts(e.fit)] for side in found)
    return next((side for side in kept if side), [])


def say(*words: object) -> None:
    print(*words, flush=True)


def recall(pool: Pool, lists: Lists, count: int, only: str | None, seconds: float) -> None:
    """Print recall@1 of each method by transform, and what is accepted: right and wrong."""
    others, photographs = Others(pool), matching_pictures.photographs()
    rows = np.random.default_rng(SEED).permutation(queries_of(pool, count)).tolist()
    chosen = {name: change for name, change in matching_pictures.TRANSFORMS.items() if not only or only in name}
    right, good, bad = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    by_rule, aimed_by_rule, wrong_by_rule = Counter[str](), Counter[str](), Counter[str]()
    times: list[float] = []
    cpu: list[float] = []
    end, done = time.monotonic() + seconds, 0
    for row in rows:
        if done and time.monotonic() > end:
            break
        rng = np.random.default_rng([SEED, row])
        made = [change(picture_of(pool, row, photographs), rng) for change in chosen.values()]
        for name, query in zip(chosen, describe(made), strict=True):
            began, worked = time.perf_counter(), time.process_time()
            found = matches(lists, pool, query.features, 1)
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - worked)
            all_of_it = fits(lists, pool, query.features)
            for rule in RULES:
                first_by_rule = [each.row for each in answer_by(all_of_it, rule)[:1]]
                by_rule[rule] += first_by_rule == [row]
                aimed_by_rule[rule] += name in AIMED and first_by_rule == [row]
                wrong_by_rule[rule] += bool(first_by_rule) and first_by_rule != [row]
            firsts = others.first(query) | {"local": (found[0].row if found else -1, bool(found))}
            for method, (first, accepted) in firsts.items():
                right[name, method] += first == row
                good[name, method] += accepted and first == row
                bad[name, method] += accepted and first != row
        done += 1
    say(f"\nrecall@1 of {done} queries a transform; right/wrong answers that a method accepts itself")
    say(f"{'transform':42}" + "".join(f"{method:>18}" for method in METHODS))
    for name in chosen:
        cells = (f"{right[name, m] / done:8.3f} {good[name, m]:4}/{bad[name, m]:<4}" for m in METHODS)
        say(f"{name:42}" + "".join(cells))
    aimed = [name for name in chosen if name in AIMED]
    if aimed:
        share = sum(right[name, "local"] for name in aimed) / (done * len(aimed))
        say(f"crops of 20 % and more, turned by up to 30°: recall@1 {share:.4f} of {done * len(aimed):,}")
    say(f"a query: p50 {1e3 * statistics.median(times):.0f} ms, {1e3 * statistics.median(cpu):.0f} ms of a core")
    say("\nrecall@1 by the rule that decides: of all transforms, of the aimed ones; wrong answers")
    for rule in RULES:
        share = by_rule[rule] / (done * len(chosen))
        of_aimed = aimed_by_rule[rule] / max(1, done * len(aimed))
        say(f"  {rule:42} {share:.4f}  {of_aimed:.4f}  {wrong_by_rule[rule]:4}")


def collages(pool: Pool, lists: Lists, count: int) -> None:
    """Four pictures in one: which of them are found."""
    photographs = matching_pictures.photographs()
    rows = queries_of(pool, 4 * count)
    found_all = first = 0
    for k in range(count):
        four = rows[k::count][:4]
        (query,) = describe([matching_pictures.collage([picture_of(pool, row, photographs) for row in four])])
        found = [each.row for each in matches(lists, pool, query.features, 8)]
        found_all += len(set(found) & set(four))
        first += bool(found) and found[0] in four
    say(f"collages of four: {first} of {count} have one of them first; {found_all} of {4 * count} are found")


_searched: tuple[Pool, Lists]  # in each process


def look_for(row: int) -> tuple[list[str], list[str], float]:
    """Search one picture with its own row left out -> rules that answer, the default's answers, CPU seconds."""
    pool, lists = _searched
    live = np.ones(len(pool), np.bool_)
    live[row] = False
    worked = time.process_time()
    found = fits(lists, pool, pool.of(row), live)
    words = []
    for each in answer_by(found, DEFAULT):
        how = each.fit
        words.append(
            f"{how.inliers:4} points, share {how.share:.2f}, contained {how.contained:.2f}, "
            f"spread {how.spread:.2f}: {pool.numbers_drawn[row]} as {pool.numbers_drawn[each.row]}"
        )
    return [rule for rule in RULES if answer_by(found, rule)], words, time.process_time() - worked


def absent(pool: Pool, lists: Lists, count: int, seconds: float) -> None:
    """Search pictures with their own rows left out, and print what is found all the same, by the rule."""
    global _searched
    _searched = pool, lists
    answered = Counter[str]()
    wrong: list[str] = []
    asked, cpu = 0, 0.0
    end = time.monotonic() + seconds
    rows = np.random.default_rng(SEED).permutation(len(pool))[:count].tolist()
    with multiprocessing.get_context("fork").Pool(2) as workers:
        for rules, words, worked in workers.imap(look_for, rows):
            asked, cpu = asked + 1, cpu + worked
            answered.update(rules)
            wrong += words
            if asked % 250 == 0:
                say(f"  {asked:,} queries of pictures that are not there: {answered[DEFAULT]} answered")
            if time.monotonic() > end:
                break
    each_cpu = 1e3 * cpu / asked
    say(f"\n{asked:,} queries of pictures that are not there; {each_cpu:.0f} ms of a core each; answered:")
    for rule in RULES:
        many = answered[rule]
        # Of none in n, the rule of three; else the upper end of the 95 % interval of Wilson, n being large.
        middle, half = many + 1.92, 1.96 * (many * (1 - many / asked) + 0.96) ** 0.5
        most = 3 / asked if not many else (middle + half) / (asked + 3.84)
        say(f"  {rule:42} {many:5}  {many / asked:.5f}, at most {most:.5f}")
    say("of the default rule, with the most points:")
    for line in sorted(wrong, reverse=True)[:20]:
        say(f"  {line}")


def own_memory() -> float:
    """Megabytes of memory that are not mapped files."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of local_matching_pool.py")
    parser.add_argument("--queries", type=int, default=100, help="for each transform")
    parser.add_argument("--absent", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop the queries of a step after so many")
    parser.add_argument("--only", help="transforms with this in their name")
    asked = parser.parse_args()
    steps: list[Callable[[Pool, Lists], None]] = []
    if asked.queries:
        steps.append(lambda pool, lists: recall(pool, lists, asked.queries, asked.only, asked.seconds))
        steps.append(lambda pool, lists: collages(pool, lists, max(4, asked.queries // 4)))
    with tempfile.TemporaryDirectory() as place:
        pool = Pool(asked.cache, Path(place))
        before = own_memory()
        lists = Lists(pool, Path(place) / "lists")
        say(
            f"{len(pool):,} pictures, {lists.count:,} descriptors ({lists.count / len(pool):.0f} each), "
            f"{lists.lists:,} lists; built in {lists.seconds:.0f} s ({lists.cpu:.0f} s of a core), "
            f"{lists.bytes / 1e6:,.0f} MB, {own_memory() - before:,.0f} MB of memory; "
            f"load {os.getloadavg()[0]:.0f}"
        )
        # The pictures that are not there in processes of their own: these need no model, which no fork survives.
        searching = multiprocessing.get_context("fork").Process(
            target=absent, args=(pool, lists, asked.absent, asked.seconds)
        )
        if asked.absent:
            searching.start()
        for step in steps:
            step(pool, lists)
        if asked.absent:
            searching.join()
        say(f"\nmemory that is not mapped files: {own_memory():,.0f} MB; load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
