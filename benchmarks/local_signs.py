"""Signs that might tell pictures that share icons from true copies, beside those that the decision has.

    nice python benchmarks/local_signs.py --desktops 1500 --seed 4026 --cache /tmp/desktops --absent 500
    nice python benchmarks/local_signs.py --seed 2026 --cache /tmp/matching-pool --present 24

Absent: pictures of a pool, or desktops with icons of one set, each searched with its own row left out: the fits
whose overlap is large enough. Present: each transform of some pictures, compared with its original. Both print
how many each rule accepts. Turned: by how much the points that agree are turned on the median otherwise than the
transform says, in radians; scaled: the same of the logarithm of their scale.
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
from clipdex.features.candidates import NEIGHBOURS, likely, votes
from clipdex.features.decision import DEFAULT_MIN_INLIERS, SAME, Fit, Rule
from clipdex.features.geometry import fit
from clipdex.features.matching import CANDIDATES, mirrored, sides_of
from clipdex.features.pairs import MOST_COMPARED, pairs_of, unit_of
from clipdex.features.transforms import jacobians, log_zooms, turns
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

    @property
    def agreement(self) -> float:
        return self.fit.agreement


RULES: dict[str, Callable[[Signs], bool]] = {
    "√n × 1.2, spread 0.7": lambda s: s.roots >= 1.2 and s.fit.spread >= 0.7,
    "√n × 0.8, spread 0.7": lambda s: s.roots >= 0.8 and s.fit.spread >= 0.7,
    "√n × spread × 1.1, spread 0.5": lambda s: s.roots * s.fit.spread >= 1.1 and s.fit.spread >= 0.5,
    "√n × 1.2, inlier ratio 0.5": lambda s: s.roots >= 1.2 and s.fit.inlier_ratio >= 0.5,
    **{
        f"√n × {roots}, agreement {agreement}": lambda s, roots=roots, agreement=agreement: (  # type: ignore[misc]
            s.roots >= roots and s.fit.agreement >= agreement
        )
        for roots in (0.8, 1.0, 1.2)
        for agreement in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55)
    },
}
_LAX = Rule(0.0, 0.8, SAME.min_contained)
BOUNDS = {"": (9.0, 9.0), "turned ≤ 0.1": (0.1, 9.0), "turned ≤ 0.1, scaled ≤ 0.1": (0.1, 0.1)}


def signs(name: str, query: LocalFeatures, found: LocalFeatures, how: Fit) -> Signs | None:
    """Compute the signs of a fit; None of fewer than four points that agree."""
    pairs = pairs_of(query, found)
    p, q, zoom, turn = geometry._placed(query, found, pairs)
    middle = jacobians(how.transform, p.mean(axis=0)[None])[0]
    larger = np.sqrt(abs(np.linalg.det(middle))) * unit_of(query)
    tolerance = geometry._PIXELS * max(unit_of(found), float(larger))
    agree = geometry._agreeing(how.transform, p, q, zoom, turn, tolerance)
    if agree.sum() < 4:
        return None
    there = jacobians(how.transform, p[agree])
    scaled = zoom[agree] - log_zooms(there)
    turned = geometry._turned(turn[agree] - turns(there))
    return Signs(name, how, abs(float(np.median(turned))), abs(float(np.median(scaled))))


def absent(pool: Pool, numbers: list[int], seed: int, count: int) -> Iterator[Signs]:
    for row in np.random.default_rng(seed).permutation(len(numbers))[:count].tolist():
        live = np.ones(len(numbers), np.bool_)
        live[row] = False
        for query, _ in sides_of(pool.of(row)):
            near = pool.search(query.descriptors[:MOST_COMPARED], NEIGHBOURS)
            rows = votes(near, live)[:CANDIDATES].tolist()
            for other, features in likely(query, near[1], rows, pool):
                how = fit(query, features, rule=_LAX, least=DEFAULT_MIN_INLIERS)
                found = signs(f"{numbers[row]} as {numbers[other]}", query, features, how) if how else None
                if found is not None:
                    yield found


def present(held: list[LocalFeatures], numbers: list[int], seed: int, count: int) -> Iterator[Signs]:
    for row in np.random.default_rng(seed + 7).permutation(len(numbers))[:count].tolist():
        image, rng = drawn(seed, numbers[row]), np.random.default_rng([seed, row, 5])
        for name, change in TRANSFORMS.items():
            query = extract(change(image, rng), most=MOST)
            query = mirrored(query) if "mirrored" in name else query
            how = fit(query, held[row], rule=_LAX, least=DEFAULT_MIN_INLIERS)
            found = None if how is None else signs(name, query, held[row], how)
            if found is not None:
                yield found


def report(what: str, found: list[Signs]) -> None:
    """Print how many each rule accepts, and the largest signs."""
    print(f"{what}: {len(found):,} fits")
    for name, rule in RULES.items():
        kept = [s for s in found if rule(s)]
        counts = (sum(s.turned <= t and s.scaled <= z for s in kept) for t, z in BOUNDS.values())
        print(f"  {name:32}" + "".join(f"{of or 'alone'}: {n:,}   " for of, n in zip(BOUNDS, counts, strict=True)))
    for sign in ("turned", "scaled", "agreement"):
        values = sorted((getattr(s, sign) for s in found), reverse=True)
        shares = (
            ", ".join(f"{q:.3f}: {np.quantile(values, q):.3f}" for q in (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1))
            if values
            else ""
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
