"""Sides that take turns, so that a busy machine is as busy for each; and what else ran meanwhile.

A round runs every side once, in an order that is turned about from round to round. On a shared machine others
spoil some samples. So each sample waits a while for a calm moment, and is taken again if others (or the
hypervisor, as "steal") then took more than a twentieth of the cores after all. What could not be had calm is said
with the result.

Beside the rate stands the core time of this process and all below it (a server, workers): on a busy machine it
tells more surely than any clock how much work each side does for a row.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CALM = 0.05
_WAIT_S = 20.0
_TRIES = 2
_FEWEST = 3
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Sample:
    """rate: rows a second, or another figure to compare. rows: all that were worked on, for the core time."""

    rate: float
    rows: int


@dataclass(frozen=True)
class Measured:
    """One sample, the core seconds that a row took, and the share of the cores that others took meanwhile."""

    rate: float
    core_s: float
    others: float


@dataclass(frozen=True)
class Rounds:
    """What all sides gave, round by round."""

    rounds: list[Mapping[str, Measured]]

    def calm(self, *sides: str) -> list[Mapping[str, Measured]]:
        """The rounds in which others left these sides alone; all, if that was so in fewer than three."""
        calm = self._quiet(sides)
        return calm if len(calm) >= _FEWEST else self.rounds

    def _quiet(self, sides: Iterable[str]) -> list[Mapping[str, Measured]]:
        return [each for each in self.rounds if all(each[side].others <= CALM for side in sides)]

    def _ratio(self, of: Callable[[Measured], float], side: str, other: str) -> str:
        said = spread([of(each[side]) / of(each[other]) for each in self.calm(side, other)])
        return said if len(self._quiet([side, other])) >= _FEWEST else f"{said} not calm"

    def rate(self, side: str) -> float:
        return statistics.median(each[side].rate for each in self.calm(side))

    def core_ms(self, side: str) -> float:
        """Core time a row, in milliseconds."""
        return 1e3 * statistics.median(each[side].core_s for each in self.calm(side))

    def ratio(self, side: str, other: str) -> str:
        """The rounds' ratios, as `spread` says it; with `not calm` where too few rounds were."""
        return self._ratio(lambda measured: measured.rate, side, other)

    def core_ratio(self, side: str, other: str) -> str:
        """Likewise of the core time."""
        return self._ratio(lambda measured: measured.core_s, side, other)

    def remark(self) -> str:
        sides = list(self.rounds[0])
        restless = [side for side in sides if len(self._quiet([side])) < _FEWEST]
        said = (
            f"{len(self.rounds)} rounds, {len(self._quiet(sides))} of them calm for all sides; medians "
            "(least–most, of how many) of those that were calm for the sides compared"
        )
        if restless:
            said += f"; of all rounds, calm or not, for {', '.join(restless)}: fewer than {_FEWEST} were calm"
        return f"{said}; a ratio of all rounds says `not calm`"


def spread(values: list[float]) -> str:
    """`0.973 (0.95–0.99, 5)`: median, smallest and largest, how many."""
    return f"{statistics.median(values):.3f} ({min(values):.2f}–{max(values):.2f}, {len(values)})"


def alternate(sides: Mapping[str, Callable[[], Sample]], *, rounds: int = 5) -> Rounds:
    """Run all sides in turn, until `rounds` rounds were calm or twice as many have been run."""
    for side in sides.values():  # warm-up
        side()
    found: list[Mapping[str, Measured]] = []
    calm = 0
    while calm < rounds and len(found) < 2 * rounds:
        order = list(sides) if len(found) % 2 == 0 else list(sides)[::-1]
        measured = {name: _calm(sides[name]) for name in order}
        found.append(measured)
        calm += all(each.others <= CALM for each in measured.values())
        line = ", ".join(f"{name} {measured[name].rate:.4g} ({measured[name].others:.0%})" for name in sides)
        print(f"round {len(found)}, and others' share: {line}", file=sys.stderr, flush=True)
    return Rounds(found)


def _calm(side: Callable[[], Sample]) -> Measured:
    """The first calm sample, or the calmest of a few."""
    tries: list[Measured] = []
    while len(tries) < _TRIES:
        _wait_for_calm()
        began, before = time.monotonic(), _busy_s()
        sample = side()
        machine, ours = (b - a for a, b in zip(before, _busy_s(), strict=True))
        others = max(0.0, machine - ours) / (time.monotonic() - began) / _CORES
        tries.append(Measured(sample.rate, ours / sample.rows, others))
        if others <= CALM:
            break
    return min(tries, key=lambda each: each.others)


def _wait_for_calm() -> None:
    """Until others have left the cores alone for half a second, or for some seconds in vain."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        before = _busy_s()
        time.sleep(0.5)
        machine, ours = (b - a for a, b in zip(before, _busy_s(), strict=True))
        if (machine - ours) / 0.5 / _CORES <= CALM:
            return


def _busy_s() -> tuple[float, float]:
    """Core seconds that the machine has been busy, and that this process and all below it have used."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    children: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with suppress(OSError):  # it has ended
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(directory.name))
                used[int(directory.name)] = sum(map(int, fields[11:15]))  # with the ended children's
    ours, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        ours += used.get(pid, 0)
        waiting += children.get(pid, [])
    return (user + nice + system + irq + soft + steal) * _TICK_S, ours * _TICK_S


def where() -> str:
    """The machine and the date, for a table."""
    from clipdex.apps.bench.machine import this_machine

    machine = this_machine()
    return f"{machine.cores} cores of {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.date}"
