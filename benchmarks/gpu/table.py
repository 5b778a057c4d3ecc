"""Rows that stand alone, and how they are shown and kept."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Row", "Table", "median_rate", "reason"]


@dataclass(frozen=True)
class Row:
    """What one way gives for one shape. share: of the measured peak, by the tower's arithmetic, if that is known.

    error: why there is no figure.
    """

    shape: str
    way: str
    images_per_s: float | None = None
    share: float | None = None
    note: str = ""
    error: str = ""


@dataclass
class Table:
    """All rows so far. Written to `file` after each, so that a run that ends early leaves what it had."""

    file: Path
    machine: dict[str, object]
    settings: dict[str, object]
    peak_flops: float | None = None
    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def row(self, shape: str, way: str, flops: float) -> Iterator[Callable[..., None]]:
        """Measure in the block and call what is given with images_per_s; whatever it raises becomes the row."""
        print(f"{shape}: {way} ...", file=sys.stderr, flush=True)
        found: list[Row] = []

        def measured(images_per_s: float, note: str = "") -> None:
            share = images_per_s * flops / self.peak_flops if self.peak_flops else None
            found.append(Row(shape, way, images_per_s, share, note))

        try:
            yield measured
        except Exception as exc:  # a row that fails must not take the others with it
            found = [Row(shape, way, error=reason(exc))]
        self.rows += found or [Row(shape, way, error="nothing was measured")]
        self.write()

    def write(self) -> None:
        """Everything as JSON."""
        content = {
            "machine": self.machine,
            "settings": self.settings,
            "peak_tflops": self.peak_flops and self.peak_flops / 1e12,
            "rows": [asdict(row) for row in self.rows],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(content, indent=2) + "\n")

    def markdown(self) -> str:
        """For docs/performance.md."""
        lines = [", ".join(f"{key} {value}" for key, value in self.machine.items() if value)]
        if self.peak_flops:
            lines += ["", f"The peak that a large matrix product reached: {self.peak_flops / 1e12:.1f} TFLOP/s."]
        lines += ["", "| shape | way | images/s | of the peak | |", "|---|---|---|---|---|"]
        for row in self.rows:
            rate = "" if row.images_per_s is None else f"{row.images_per_s:,.1f}"
            share = "" if row.share is None else f"{100 * row.share:.1f} %"
            told = (row.error or row.note).replace("|", "/")
            lines.append(f"| {row.shape} | {row.way} | {rate} | {share} | {told} |")
        return "\n".join(lines)


def reason(exc: BaseException) -> str:
    """An error on one line, short enough for a table."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300] or 'no reason given'}"


def median_rate(run: Callable[[], int], *, seconds: float, repeats: int, warm_up: int = 3) -> float:
    """Pictures a second: `run` computes some to the end and says how many. Median of windows."""
    for _ in range(warm_up):
        run()
    rates: Sequence[float] = [_window(run, seconds) for _ in range(repeats)]
    return statistics.median(rates)


def _window(run: Callable[[], int], seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += run()
    return count / elapsed
