"""Signs that might tell pictures that share icons from true copies, beside those that the decision has.

    nice python benchmarks/local_signs.py --desktops 1500 --seed 4026 --cache /tmp/desktops --absent 500
    nice python benchmarks/local_signs.py --seed 2026 --cache /tmp/matching-pool --present 24

Absent: desktops with icons of one set, each searched with its own row left out; all candidates are compared whose
overlap is large enough. Present: each transform of some pictures, compared with its original. Both print how many
each rule accepts. Turned: by how much the points that agree are turned on the median otherwise than the transform
says, in radians; scaled: the same of the logarithm of their scale.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from local_candidates import Pool, parser_of, pool_of
from local_matching_pool import MOST
from matching_pictures import TRANSFORMS, drawn

from clipdex.features import geometry
from clipdex.features.candidates import NEIGHBOURS, votes
from clipdex.features.geometry import MOST_COMPARED, SAME, Fit, Rule, fit, pairs_of
from clipdex.features.matching import CANDIDATES, mirrored
from clipdex.looks.local_features import LocalFeatures, extract


@dataclass(frozen=True)
class Signs:
    """A fit, and its two signs. name: of what it was found."""

    name: str
    fit: Fit
    turned: float
    scaled: float

    @property
    def roots(self) -> float:
        """Its inliers, in square roots of the points where the two overlap."""
        return float((self.fit.inliers * self.fit.share) ** 0.5)


RULES: dict[str, Callable[[Signs], bool]] = {
    "the default": lambda s: s.roots >= 1.2 and s.fit.spread >= 0.7,
    "√n, spread 0.6": lambda s: s.roots >= 1 and s.fit.spread >= 0.6,
    "√n × 0.8, spread 0.6": lambda s: s.roots >= 0.8 and s.fit.spread >= 0.6,
    "√n × 0.8, spread 0.5": lambda s: s.roots >= 0.8 and s.fit.spread >= 0.5,
    "√n × spread × 0.9": lambda s: s.roots * s.fit.spread >= 0.9 and s.fit.spread >= 0.5,
    "√n × spread × 1.1": lambda s: s.roots * s.fit.spread >= 1.1 and s.fit.spread >= 0.5,
}
BOUNDS = {"": (9.0, 9.0), "turned ≤ 0.1": (0.1, 9.0), "turned ≤ 0.1, scaled ≤ 0.1": (0.1, 0.1)}


def signs(name: str, query: LocalFeatures, found: LocalFeatures, how: Fit) -> Signs | None:
    """Compute the signs of a fit; None of fewer than four points that agree."""
    pairs = pairs_of(query, found)
    p, q, zoom, turn = geometry._placed(query, found, pairs)
    middle = geometry._jacobians(how.transform, p.mean(axis=0)[None])[0]
    larger = np.sqrt(abs(np.linalg.det(middle))) * geometry._unit(query)
    tolerance = geometry._PIXELS * max(geometry._unit(found), float(larger))
    agree = geometry._agreeing(how.transform, p, q, zoom, turn, tolerance)
    if agree.sum() < 4:
        return None
    jacobians = geometry._jacobians(how.transform, p[agree])
    angles = np.arctan2(jacobians[:, 1, 0] - jacobians[:, 0, 1], jacobians[:, 0, 0] + jacobians[:, 1, 1])
    scaled = zoom[agree] - 0.5 * np.log(np.maximum(np.linalg.det(jacobians), 1e-12))
    turned = geometry._turned(turn[agree] - angles)
    return Signs(name, how, abs(float(np.median(turned))), abs(float(np.median(scaled))))


def absent(pool: Pool, numbers: list[int], seed: int, count: int) -> Iterator[Signs]:
    for row in np.random.default_rng(seed).permutation(len(numbers))[:count].tolist():
        live = np.ones(len(numbers), np.bool_)
        live[row] = False
        query = pool.of(row)
        rows = votes(pool.search(query.descriptors[:MOST_COMPARED], NEIGHBOURS), live)[:CANDIDATES].tolist()
        for other in rows:
            how = fit(query, pool.of(other), rule=Rule(0.0, 0.0, SAME.min_contained))
            if how is not None and how.inliers >= 8:
                found = signs(f"{numbers[row]} as {numbers[other]}", query, pool.of(other), how)
                if found is not None:
                    yield found


def present(held: list[LocalFeatures], numbers: list[int], seed: int, count: int) -> Iterator[Signs]:
    for row in np.random.default_rng(seed + 7).permutation(len(numbers))[:count].tolist():
        image, rng = drawn(seed, numbers[row]), np.random.default_rng([seed, row, 5])
        for name, change in TRANSFORMS.items():
            query = extract(change(image, rng), most=MOST)
            query = mirrored(query) if "mirrored" in name else query
            how = fit(query, held[row], least=8)
            found = None if how is None else signs(name, query, held[row], how)
            if found is not None:
                yield found


def report(what: str, found: list[Signs]) -> None:
    """Print how many each rule accepts, and the largest signs."""
    print(f"{what}: {len(found):,} fits")
    for name, rule in RULES.items():
        kept = [s for s in found if rule(s)]
        counts = (sum(s.turned <= t and s.scaled <= z for s in kept) for t, z in BOUNDS.values())
        print(f"  {name:24}" + "".join(f"{of or 'alone'}: {n:,}   " for of, n in zip(BOUNDS, counts, strict=True)))
    for sign in ("turned", "scaled"):
        values = sorted((getattr(s, sign) for s in found), reverse=True)
        shares = (
            ", ".join(f"{q:.3f}: {np.quantile(values, q):.3f}" for q in (0.5, 0.95, 0.99, 1)) if values else ""
        )
        largest = [(s.name, round(getattr(s, sign), 3)) for s in sorted(found, key=lambda s: -getattr(s, sign))]
        print(f"  {sign}: quantiles {shares}; largest {largest[:5]}", flush=True)


def main() -> None:
    asked = parser_of(__doc__).parse_args()
    features, numbers = pool_of(asked)
    if asked.present:
        report("present", list(present(features, numbers, asked.seed, asked.present)))
    if asked.absent:
        with tempfile.TemporaryDirectory() as place:
            pool = Pool(features, Path(place) / "lists")
            report("absent", list(absent(pool, numbers, asked.seed, asked.absent)))


if __name__ == "__main__":
    main()
