"""Parts as tasks of Ray: one task makes one part, in a process of a node, and tells an actor of its progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from clipdex.base.errors import InvalidArgument, PartFailed, PartLost
from clipdex.pipeline.engines.part_job import PartJob, PartOutcome, make_part
from clipdex.pipeline.report import Progress

__all__ = ["RayParts", "Resources", "require_room"]

_LOG = logging.getLogger("clipdex.pipeline")

# A task whose interrupt goes unheard, as in a library's call that hangs, is killed after so long.
STOP_S = 30.0
# A part speaks at most so often, and not before its last word has arrived. The more parts, the less often each.
_SPEAK_S = 0.5
_MOST_WORDS_A_SECOND = 500.0
_NEWS_S = 0.5


@dataclass(frozen=True)
class Resources:
    """What Ray sets aside for one part: CPUs and GPUs."""

    cpus: float = 1.0
    gpus: float = 0.0


class RayParts:
    """Runs parts on a cluster; a `Scheduler`. A handle is a task's reference.

    job: for all parts. at_once: the most that will run at a time. heard: whether anybody wants news.
    """

    def __init__(self, ray: Any, job: PartJob, resources: Resources, at_once: int, *, heard: bool) -> None:
        self._ray, self._resources = ray, resources
        self._name = job.directory.rpartition("/")[2]
        self._parts = job.plan.parts
        self._job = ray.put(job)
        # Trying again is the loop's: it knows what has failed, and must wait for the lock of a part.
        self._task = ray.remote(max_retries=0)(_make_part)
        self._between_s = max(_SPEAK_S, at_once / _MOST_WORDS_A_SECOND)
        self._board = self._news = None
        self._asked_at = 0.0
        if heard:
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            )
            board = ray.remote(num_cpus=0, max_restarts=-1)(Board)
            self._board = board.options(name=None, scheduling_strategy=here).remote()

    def start(self, number: int, attempt: int) -> Any:
        """Submit the task of a part, under a name that Ray's dashboard and  ray list tasks  show."""
        again = f", attempt {attempt + 1}" if attempt else ""
        task = self._task.options(
            name=f"{self._name} part {number} of {self._parts}{again}",
            num_cpus=self._resources.cpus,
            num_gpus=self._resources.gpus,
            scheduling_strategy="SPREAD",
        )
        return task.remote(self._job, number, self._board, self._between_s)

    def wait(self, running: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Wait until a task has ended."""
        done: list[Any] = self._ray.wait(list(running), num_returns=1, timeout=seconds)[0]
        return done

    def outcome(self, handle: Any) -> PartOutcome:
        """Return what a task has answered.

        Raises:
            PartLost: its process or node is gone.
            PartFailed: a node could not even begin: it has no clipdex, or another.
        """
        errors = self._ray.exceptions
        try:
            found: PartOutcome = self._ray.get(handle)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as exc:
            if isinstance(exc, errors.TaskCancelledError):
                raise PartLost("its task was cancelled") from exc
            raise PartFailed(
                f"a node could not run it ({_last_line(exc)}); every node must have the same Python, clipdex "
                "and Ray"
            ) from exc
        except errors.RayError as exc:
            raise PartLost(f"its process or node is gone ({type(exc).__name__})") from exc
        return found

    def news(self) -> Mapping[int, Progress]:
        """Return what parts have said since the last time; asks at most twice a second, and never waits."""
        if self._board is None:
            return {}
        found: Mapping[int, Progress] = {}
        if self._news is not None:
            if not self._ray.wait([self._news], timeout=0)[0]:
                return found
            with suppress(Exception):  # the actor is being restarted on another node
                found = self._ray.get(self._news)
            self._news = None
        if time.monotonic() - self._asked_at >= _NEWS_S:
            self._asked_at = time.monotonic()
            self._news = self._board.take.remote()
        return found

    def stop(self, running: Sequence[Any]) -> None:
        """Interrupt the tasks, and kill those that have not ended after half a minute."""
        for handle in running:
            with suppress(Exception):
                self._ray.cancel(handle, force=False)
        rest = list(running)
        if rest:
            rest = self._ray.wait(rest, num_returns=len(rest), timeout=STOP_S)[1]
        for handle in rest:
            with suppress(Exception):
                self._ray.cancel(handle, force=True)


class Board:
    """What parts have said and nobody has read yet. An actor."""

    def __init__(self) -> None:
        self._said: dict[int, Progress] = {}

    def put(self, number: int, progress: Progress) -> None:
        """Note what a part says."""
        self._said[number] = progress

    def take(self) -> dict[int, Progress]:
        """Return what was said since the last time."""
        said, self._said = self._said, {}
        return said


class _Speaker:
    """Tells the board of a part's progress, unless it has just done so or the board does not keep up.

    It never waits, by ray.get or ray.wait: a task that does so lends its CPU, and Ray starts another part on it.
    """

    def __init__(self, board: Any, number: int, between_s: float) -> None:
        self._board, self._number, self._between_s = board, number, between_s
        self._spoke_at = -between_s
        self._word: Any = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._spoke_at < self._between_s:
            return
        if self._word is not None and not self._word.done():
            return
        self._spoke_at = now
        with suppress(Exception):  # the actor is gone: a run does not end because nobody listens
            self._word = self._board.put.remote(self._number, progress).future()


def require_room(ray: Any, wanted: Resources, *, is_ours: bool) -> None:
    """Check that a part fits on a node. A cluster may grow: there, it is a warning.

    is_ours: the cluster was started for this run, and has one node.

    Raises:
        InvalidArgument: no part will ever fit.
    """
    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(r.get("CPU", 0) >= wanted.cpus and r.get("GPU", 0) >= wanted.gpus for r in has):
        return
    most = [f"{max((r.get(kind, 0) for r in has), default=0):g} {kind}s" for kind in ("CPU", "GPU")]
    what = f"a part is given {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs, and no node has both"
    if is_ours:
        raise InvalidArgument(f"{what}: this machine has {' and '.join(most)}")
    _LOG.warning("%s (the most are %s): waiting for one that has", what, " and ".join(most))


def _make_part(job: PartJob, number: int, board: Any, between_s: float) -> PartOutcome:
    """Make a part, in a process of Ray. The task itself."""
    return make_part(job, number, None if board is None else _Speaker(board, number, between_s))


def _last_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
