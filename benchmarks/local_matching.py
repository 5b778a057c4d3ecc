"""What local features find of crops, photos of prints and other copies, beside CLIP, the signature and pHash.

In the spirit of the published protocols for copy detection: a pool of drawn pictures that are hard to tell apart
(matching_pictures.py), and scikit-image's photographs; of some of them, queries by each transform; and queries of
pictures that are not there: those of the pool, each searched with its own row left out, and those of another pool.

    nice python benchmarks/local_matching_pool.py --count 20000 --cache /tmp/matching-pool
    nice python benchmarks/local_matching_pool.py --count 10000 --cache /tmp/matching-pool --seed 3026
    nice python benchmarks/local_matching.py --cache /tmp/matching-pool --aimed 400 --absent 30000 --others 3026

CLIP is the demo model of this repository, which was trained on drawings: it says what a small one does, not a
large one.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import AsyncResult
from multiprocessing.pool import Pool as Workers
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matching_pictures
from local_matching_pool import MOST, SEED, describe
from local_matching_searched import Lists, Others, Pool, chunks
from PIL import Image

from clipdex.features.decision import DEFAULT_MIN_INLIERS, PARTS, SAME, Fit, Rule
from clipdex.features.matching import CANDIDATES, Verified, matches, matches_as_is, mirrored
from clipdex.features.neighbours import import_faiss
from clipdex.looks.local_features import LocalFeatures, extract, opencv

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
_TIMED = 5  # one query of so many
_AHEAD = 16  # jobs that are given to the processes before they are done


@dataclass(frozen=True)
class Spread(Rule):
    """What decided before the inlier ratio did: the points that agree must lie all over the overlap."""

    min_spread: float = 0.0

    def accepts(self, fit: Fit) -> bool:
        return super().accepts(fit) and fit.spread >= self.min_spread


# What may decide on a match, with the least number of points. The first is `clipdex match --parts`.
DEFAULT = "the default"
RULES = {
    "8 % of the points": (8, PARTS),
    "the same, 12 points": (12, PARTS),
    "the same, 20 points": (20, PARTS),
    "20 % of the points": (8, Rule(0.2)),
    "8 %, contained": (8, Rule(0.08, 0, SAME.min_contained)),
    "8 %, agreement": (8, Rule(0.08, 0, 0, SAME.min_agreement)),
    "8 %, contained, agreement": (8, Rule(0.08, 0, SAME.min_contained, SAME.min_agreement)),
    "√n × 1.2, contained, spread": (8, Spread(0.03, 1.2, SAME.min_contained, 0, 0.7)),
    "√n × 0.8, contained, spread": (8, Spread(0.03, 0.8, SAME.min_contained, 0, 0.7)),
    DEFAULT: (DEFAULT_MIN_INLIERS, SAME),
    "the default, 10 points": (10, SAME),
    "the default, 12 points": (12, SAME),
    "the default, 15 points": (15, SAME),
    "the default, √n × 1.2": (8, replace(SAME, min_roots=1.2)),
    "the default, √n × 1": (8, replace(SAME, min_roots=1.0)),
    "the default, √n × 0.8": (8, replace(SAME, min_roots=0.8)),
    "the default, √n × 0.6": (8, replace(SAME, min_roots=0.6)),
    "the default, contained 0.65": (8, replace(SAME, min_contained=0.65)),
    "the default, contained 0.8": (8, replace(SAME, min_contained=0.8)),
    "the default, contained 0.85": (8, replace(SAME, min_contained=0.85)),
    "the default, agreement 0.35": (8, replace(SAME, min_agreement=0.35)),
    "the default, agreement 0.4": (8, replace(SAME, min_agreement=0.4)),
    "the default, agreement 0.45": (8, replace(SAME, min_agreement=0.45)),
    "the default, agreement 0.5": (8, replace(SAME, min_agreement=0.5)),
    "the default, agreement 0.55": (8, replace(SAME, min_agreement=0.55)),
}

Fits = tuple[list[Verified], list[Verified]]
Made = TypeVar("Made")


def queries_of(pool: Pool, wanted: int) -> list[int]:
    """The rows that queries are made of: all photographs, and drawn ones evenly."""
    photographs = [row for row, n in enumerate(pool.numbers_drawn) if n < 0]
    drawn = [row for row, n in enumerate(pool.numbers_drawn) if n >= 0]
    step = max(1, len(drawn) // max(1, wanted - len(photographs)))
    return photographs + drawn[::step][: wanted - len(photographs)]


def picture_of(pool: Pool, row: int, photographs: list[Image.Image]) -> Image.Image:
    n = pool.numbers_drawn[row]
    return photographs[-1 - n] if n < 0 else matching_pictures.drawn(pool.seed, n)


def fits(lists: Lists, pool: Pool, query: LocalFeatures, live: np.ndarray | None = None) -> Fits:
    """All that some rule may accept, for the query as it is and mirrored: `matches` without a rule.

    Of the mirrored query there is nothing if every rule accepts something of the query as it is.
    """
    found: Fits = ([], [])
    for flipped, asked in enumerate((query, mirrored(query))):
        found[flipped].extend(matches_as_is(lists, pool, asked, CANDIDATES, 8, Rule(0.0), live, bool(flipped)))
        if all(answer_by(found, rule) for rule in RULES):
            break
    return found


def answer_by(found: Fits, name: str) -> list[Verified]:
    """What a rule accepts, as `matches` does: the mirrored query only if nothing else is found."""
    least, rule = RULES[name]
    kept = ([e for e in side if e.fit.inliers >= least and rule.accepts(e.fit)] for side in found)
    return next((side for side in kept if side), [])


def say(*words: object) -> None:
    print(*words, flush=True)


_searched: tuple[Pool, Lists, Others, list[Image.Image]]  # in each process


@dataclass(frozen=True)
class Answer:
    """What was found of one query. firsts: by method, its first row and whether it accepts it. by_rule: the first
    row that a rule accepts, or -1. seconds: of `matches`, by the clock and of a core, if they were taken.
    """

    row: int
    name: str
    firsts: dict[str, tuple[int, bool]]
    by_rule: dict[str, int]
    seconds: tuple[float, float] | None


def ask(job: tuple[int, list[str], bool]) -> list[Answer]:
    """Search what transforms make of a row. job: row, names of transforms, whether other methods search, too."""
    pool, lists, others, photographs = _searched
    row, names, compared = job
    rng = np.random.default_rng([pool.seed, row])
    image = picture_of(pool, row, photographs)
    made = {name: matching_pictures.TRANSFORMS[name](image, rng) for name in names}
    queries = describe(list(made.values())) if compared else []
    answers = []
    for k, (name, changed) in enumerate(made.items()):
        query = queries[k].features if compared else extract(changed, most=MOST)
        timed = compared and k % _TIMED == 0
        began, worked = time.perf_counter(), time.process_time()
        first = matches(lists, pool, query, 1) if timed else []
        wall, cpu = time.perf_counter() - began, time.process_time() - worked
        found = fits(lists, pool, query)
        by_rule = {rule: next((each.row for each in answer_by(found, rule)), -1) for rule in RULES}
        assert not timed or (first[0].row if first else -1) == by_rule[DEFAULT]
        firsts = {"local": (by_rule[DEFAULT], by_rule[DEFAULT] >= 0)}
        if compared:
            firsts |= others.first(queries[k])
        answers.append(Answer(row, name, firsts, by_rule, (wall, cpu) if timed else None))
    return answers


def recall(
    pool: Pool, workers: Workers, count: int, aimed: int, only: str | None, seconds: float
) -> Iterator[Answer]:
    """Make queries of rows, and search them.

    count: queries of each transform. aimed: of each of those that the aim is about; the other methods are asked
    for `count`.
    """
    rows = np.random.default_rng(pool.seed).permutation(queries_of(pool, max(count, aimed))).tolist()
    every = [name for name in matching_pictures.TRANSFORMS if not only or only in name]
    few = [name for name in every if name in AIMED]
    jobs = [(row, every if k < count else few, k < count) for k, row in enumerate(rows)]
    for answers in until(time.monotonic() + seconds, workers, ask, jobs):
        yield from answers


def until(end: float, workers: Workers, do: Callable[[Any], Made], jobs: Iterable[Any]) -> Iterator[Made]:
    """Do jobs in order until `end`, of `time.monotonic`; few wait ahead, so that none is left to the next step."""
    begun: deque[AsyncResult[Made]] = deque()
    for job in jobs:
        if time.monotonic() > end:
            break
        begun.append(workers.apply_async(do, (job,)))
        if len(begun) >= _AHEAD:
            yield begun.popleft().get()
    while begun:
        yield begun.popleft().get()


def report_recall(pool: Pool, answers: Iterable[Answer]) -> None:
    """Print recall@1 of each method by transform, and what is accepted: right and wrong."""
    right, good, bad = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    by_rule, aimed_by_rule, wrong_by_rule = Counter[str](), Counter[str](), Counter[str]()
    missed, asked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    timed: list[tuple[float, float]] = []
    for each in answers:
        for method, (first, accepted) in each.firsts.items():
            asked[each.name, method] += 1
            right[each.name, method] += first == each.row
            good[each.name, method] += accepted and first == each.row
            bad[each.name, method] += accepted and first != each.row
        for rule, first in each.by_rule.items():
            by_rule[rule] += first == each.row
            aimed_by_rule[rule] += each.name in AIMED and first == each.row
            wrong_by_rule[rule] += first not in (each.row, -1)
        if each.seconds is not None:
            timed.append(each.seconds)
        if each.by_rule[DEFAULT] != each.row:
            missed[each.name, kind_of(pool, each.row)] += 1
        if asked.total() % 500 == 0:
            say(f"  {asked.total():,} searches")
    done = {name: n for (name, method), n in asked.items() if method == "local"}
    load = os.getloadavg()[0]
    say(f"\nrecall@1 of n queries; right/wrong answers that a method accepts itself; load {load:.0f}")
    say(f"{'transform':38}{'n':>5}{'others':>7}" + "".join(f"{method:>18}" for method in METHODS))
    for name, n in done.items():
        cells = (
            f"{right[name, m] / max(1, asked[name, m]):8.3f} {good[name, m]:4}/{bad[name, m]:<4}" for m in METHODS
        )
        say(f"{name:38}{n:5}{asked[name, METHODS[-1]]:7}" + "".join(cells))
    total, of_aimed = sum(done.values()), sum(done.get(name, 0) for name in AIMED)
    if of_aimed:
        share, low, high = interval(sum(right[name, "local"] for name in AIMED), of_aimed)
        said = f"recall@1 {share:.4f} ({low:.4f}-{high:.4f}) of {of_aimed:,}"
        say(f"crops of 20 % and more, turned by up to 30°: {said}")
    if timed:
        wall, cpu = (1e3 * statistics.median(each) for each in zip(*timed, strict=True))
        say(f"a query: p50 {wall:.0f} ms, {cpu:.0f} ms of a core")
    say("not found first, by what was drawn: " + ", ".join(f"{a}, {b}: {n}" for (a, b), n in missed.most_common()))
    say("\nrecall@1 by the rule that decides: of all queries, of the aimed ones; wrong answers")
    for rule in RULES:
        say(
            f"  {rule:42} {by_rule[rule] / max(1, total):.4f}  {aimed_by_rule[rule] / max(1, of_aimed):.4f}  "
            f"{wrong_by_rule[rule]:4}"
        )


def kind_of(pool: Pool, row: int) -> str:
    """What a picture of the pool shows."""
    number = pool.numbers_drawn[row]
    return "photograph" if number < 0 else matching_pictures.kind_drawn(pool.seed, number)


def interval(many: int, of: int) -> tuple[float, float, float]:
    """A share, and the ends of its 95 % interval (Wilson); the upper end of none is by the rule of three."""
    share = many / of
    middle, half = many + 1.92, 1.96 * (many * (1 - share) + 0.96) ** 0.5
    return share, (middle - half) / (of + 3.84), (middle + half) / (of + 3.84) if many else 3 / of


def collages(pool: Pool, lists: Lists, count: int) -> None:
    """Four pictures in one: which of them are found."""
    photographs = matching_pictures.photographs()
    rows = queries_of(pool, 4 * count)
    found_all = first = 0
    for k in range(count):
        four = rows[k::count][:4]
        query = extract(matching_pictures.collage([picture_of(pool, row, photographs) for row in four]), most=MOST)
        found = [each.row for each in matches(lists, pool, query, 8)]
        found_all += len(set(found) & set(four))
        first += bool(found) and found[0] in four
    say(f"collages of four: {first} of {count} have one of them first; {found_all} of {4 * count} are found")


def look_for(asked: int | tuple[str, LocalFeatures]) -> tuple[list[str], list[str], float]:
    """Search a picture that is not there: one of the pool with its own row left out, or a named one.

    -> rules that answer, the default's answers, CPU seconds
    """
    pool, lists, *_ = _searched
    live = np.ones(len(pool), np.bool_)
    if isinstance(asked, int):
        live[asked] = False
        name, query = str(pool.numbers_drawn[asked]), pool.of(asked)
    else:
        name, query = asked
    worked = time.process_time()
    found = fits(lists, pool, query, live)
    words = []
    for each in answer_by(found, DEFAULT):
        how = each.fit
        words.append(
            f"{how.inliers:4} points, share {how.share:.2f}, contained {how.contained:.2f}, "
            f"spread {how.spread:.2f}, inlier ratio {how.inlier_ratio:.2f}: "
            f"{name} as {pool.numbers_drawn[each.row]}"
        )
    return [rule for rule in RULES if answer_by(found, rule)], words, time.process_time() - worked


def absent(
    pool: Pool, workers: Workers, first: int, count: int, others: tuple[Path, int | None], seconds: float
) -> None:
    """Search pictures that are not there, and print what is found all the same, by the rule.

    first: how many of the own pictures an earlier run had. others: the folder of a pool and its seed, whose
    pictures are searched if the own ones are not enough.
    """
    end = time.monotonic() + seconds
    own = np.random.default_rng(pool.seed).permutation(len(pool))[first : first + count].tolist()
    asked = report("queries of the pool, each with its own row left out", workers, own, end)
    folder, seed = others
    if seed is not None and asked < count:
        drawn = ((f"{seed}:{k + n}", e.features) for k, some in chunks(folder, seed) for n, e in enumerate(some))
        report(f"queries of the seed {seed}", workers, itertools.islice(drawn, count - asked), end)


def report(title: str, workers: Workers, queries: Iterable[int | tuple[str, LocalFeatures]], end: float) -> int:
    """Search queries of pictures that are not there, until `end` -> how many. Prints what is found."""
    answered = Counter[str]()
    wrong: list[str] = []
    asked, cpu = 0, 0.0
    for rules, words, worked in until(end, workers, look_for, queries):
        asked, cpu = asked + 1, cpu + worked
        answered.update(rules)
        wrong += words
        if asked % 1000 == 0:
            say(f"  {asked:,} {title}: {answered[DEFAULT]} answered")
    say(f"\n{title}: {asked:,} searched, {1e3 * cpu / max(1, asked):.0f} ms of a core each; answered:")
    for rule in RULES:
        share, _, most = interval(answered[rule], max(1, asked))
        say(f"  {rule:42} {answered[rule]:5}  {share:.5f}, at most {most:.5f}")
    say("of the default rule, with the most points:")
    for line in sorted(wrong, reverse=True)[:20]:
        say(f"  {line}")
    return asked


def own_memory() -> float:
    """Megabytes of memory that are not mapped files."""
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of local_matching_pool.py")
    parser.add_argument("--queries", type=int, default=100, help="for each transform (100)")
    parser.add_argument("--aimed", type=int, default=0, help="for each crop of 20 %% and more, if that is more")
    parser.add_argument(
        "--absent", type=int, default=10_000, help="queries of pictures that are not there (10000)"
    )
    parser.add_argument("--skip", type=int, default=0, help="as many of these, which an earlier run had (0)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the pool: another one to choose a rule by")
    parser.add_argument("--others", type=int, help="seed of a second pool, for more of these than the pool has")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop the queries of a step after so many")
    parser.add_argument("--only", help="transforms with this in their name")
    asked = parser.parse_args()
    opencv().setNumThreads(1)
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        pool = Pool(asked.cache, Path(place), asked.seed)
        before = own_memory()
        lists = Lists(pool, Path(place) / "lists")
        say(
            f"{len(pool):,} pictures, {lists.count:,} descriptors ({lists.count / len(pool):.0f} each), "
            f"{lists.lists:,} lists; built in {lists.seconds:.0f} s ({lists.cpu:.0f} s of a core), "
            f"{lists.bytes / 1e6:,.0f} MB, {own_memory() - before:,.0f} MB of memory; "
            f"load {os.getloadavg()[0]:.0f}"
        )
        import_faiss().omp_set_num_threads(1)  # from here on there is a process for each core
        global _searched
        _searched = pool, lists, Others(pool), matching_pictures.photographs()
        with fork.Pool(asked.workers) as workers:  # once, before this process itself computes with threads
            if asked.queries:
                answers = recall(pool, workers, asked.queries, asked.aimed, asked.only, asked.seconds)
                report_recall(pool, answers)
            if asked.queries and not asked.only:
                collages(pool, lists, max(4, asked.queries // 4))
            if asked.absent:
                absent(pool, workers, asked.skip, asked.absent, (asked.cache, asked.others), asked.seconds)
        say(f"\nmemory that is not mapped files: {own_memory():,.0f} MB; load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
