"""What a node is told to make a part, how it does so, and what it answers. It knows no engine.

The job holds functions of clipdex with plain arguments, so an engine can send it: the nodes have the same clipdex.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from clipdex.base.errors import (
    ClipdexError,
    DeadlineExceeded,
    IndexFormatError,
    IndexLocked,
    ServerUnreachable,
    SourceError,
)
from clipdex.client.client import Client
from clipdex.index.part_plan import PartPlan, is_parted
from clipdex.pipeline.index_one import index_one
from clipdex.pipeline.index_parts import index_parts
from clipdex.pipeline.report import Progress, RunReport
from clipdex.sources.source import Source
from clipdex.version import __version__

__all__ = ["Ended", "PartJob", "PartOutcome", "Recipe", "make_part"]

# made: up to date, and committed. locked: another process is writing to it. may_pass: a server did not answer.
# lost: the process or node that made it is gone.
Ended = Literal["made", "locked", "may_pass", "lost", "failed"]


@dataclass(frozen=True)
class Recipe:
    """How a node makes any part of any index.

    open_source: opens the source; its paths are absolute. connect: connects to servers at an address. address:
    that of the servers, unless `serve` is given: it starts one on the node, and yields its address. settings: for
    `index_one`.
    """

    open_source: Callable[[], Source]
    connect: Callable[[str], Client]
    address: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    serve: Callable[[], AbstractContextManager[str]] | None = None


@dataclass(frozen=True)
class PartJob:
    """What the runs of all parts of an index have in common.

    directory: the index, absolute. counts: whether a node counts its pictures for the progress. version: that of
    clipdex, which the nodes must have.
    """

    recipe: Recipe
    directory: str
    plan: PartPlan
    counts: bool = False
    version: str = __version__


@dataclass(frozen=True)
class PartOutcome:
    """How the run of a part has ended, and on which node. report: of a part that was made. why: of another."""

    ended: Ended
    node: str
    report: RunReport | None = None
    why: str = ""


def make_part(job: PartJob, number: int, tell: Callable[[Progress], None] | None = None) -> PartOutcome:
    """Bring one part up to date, here -> how it ended. An interrupt passes, once what is complete is committed."""
    node = platform.node()
    try:
        return PartOutcome("made", node, _made(job, number, tell))
    except IndexLocked as exc:
        return PartOutcome("locked", node, why=str(exc))
    except (ServerUnreachable, DeadlineExceeded) as exc:
        return PartOutcome("may_pass", node, why=str(exc))
    except SourceError as exc:
        return PartOutcome("failed", node, why=f"{exc}; every node must have the source at this path")
    except ClipdexError as exc:
        return PartOutcome("failed", node, why=str(exc))
    except Exception as exc:
        traceback.print_exc(file=sys.stderr)  # for the engine's log of this process
        return PartOutcome("failed", node, why=f"internal error: {type(exc).__name__}: {exc}; please report it")


def _made(job: PartJob, number: int, tell: Callable[[Progress], None] | None) -> RunReport:
    if job.version != __version__:
        raise ClipdexError(
            f"it has clipdex {__version__}, and the command is of clipdex {job.version}: install the same version "
            "on every node"
        )
    directory, plan = Path(job.directory), job.plan
    if not is_parted(directory) or PartPlan.read(directory) != plan:
        raise IndexFormatError(
            f"{directory} is not there as the command has made it: every node must have that directory, on a file "
            "system that all share"
        )
    recipe = job.recipe
    source = recipe.open_source()
    with ExitStack() as stack:
        address = recipe.address if recipe.serve is None else stack.enter_context(recipe.serve())
        client = stack.enter_context(recipe.connect(address))
        plan.require_same(replace(plan, fingerprint=client.card.fingerprint, model=client.card.name), directory)
        run = partial(
            index_one,
            client,
            dtype=plan.dtype,
            icc=plan.icc,
            decode=plan.decode,
            count=job.counts,
            **recipe.settings,
        )
        return index_parts(run, source, directory, plan, number, tell)
