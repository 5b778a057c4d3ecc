"""Print what `make coverage` measured: statements, those not run, and per cent, by package and in total.

python tests/coverage_table.py            # after `coverage combine`; with --files, the ten least covered files too
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import PurePath

from coverage import Coverage

FEWEST = 30  # statements of a file worth a line among the least covered


def package(path: str) -> str:
    """`clipdex/index`, of client/clipdex/index/side/int8.py."""
    parts = PurePath(path).parent.parts
    top = next(place for place, part in enumerate(parts) if part.startswith("clipdex"))
    return "/".join(parts[top : top + 2])


def table(counts: dict[str, tuple[int, int]]) -> list[str]:
    """One line for each name, and one for all of them, from (statements, not run)."""
    total = (sum(all_ for all_, _ in counts.values()), sum(missed for _, missed in counts.values()))
    return [
        f"{name:<50} {all_:>7} {missed:>7} {100 * (all_ - missed) / max(all_, 1):>6.1f}%"
        for name, (all_, missed) in [*counts.items(), ("total", total)]
    ]


def main() -> None:
    """Read the data file that the configuration names, and print."""
    coverage = Coverage()
    coverage.load()
    files: dict[str, tuple[int, int]] = {}
    packages: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for path in sorted(coverage.get_data().measured_files()):
        _, statements, _, missed, _ = coverage.analysis2(path)
        file = os.path.relpath(path)
        files[file] = (len(statements), len(missed))
        packages[package(file)].append(files[file])
    print(f"{'package':<50} {'lines':>7} {'not run':>7} {'covered':>7}")
    summed = {name: (sum(a for a, _ in each), sum(m for _, m in each)) for name, each in sorted(packages.items())}
    print("\n".join(table(summed)))
    if "--files" in sys.argv:
        large = {path: counts for path, counts in files.items() if counts[0] >= FEWEST}
        worst = sorted(large, key=lambda path: 1 - large[path][1] / large[path][0])[:10]
        print("\n".join(table({path: large[path] for path in worst})[:-1]))


if __name__ == "__main__":
    main()
