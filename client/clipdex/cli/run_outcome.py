"""What `clipdex index` and the commands that index by the way say of a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from clipdex.base.counting import counted
from clipdex.cli.common import shown_path
from clipdex.cli.ledger import failure_line
from clipdex.cli.printing import note
from clipdex.cli.progress import shown_rate
from clipdex.index import Index
from clipdex.pipeline.plan import Plan
from clipdex.pipeline.report import RunReport

__all__ = ["plan_sentence", "run_sentence", "say_stranded", "show_failures"]

_FAILURES_SHOWN = 5
_FOLDERS_SHOWN = 6


def say_stranded(report: RunReport, out: Path) -> None:
    """Name what a run left in the index that is no longer where it was, and the command that removes it."""
    for folder, rows in sorted(report.stranded.folders.items(), key=lambda one: -one[1])[:_FOLDERS_SHOWN]:
        note(
            f"{counted(rows, 'picture is', 'pictures are')} below {shown_path(folder)}, which is gone or "
            f"empty:  clipdex forget --index {shlex.quote(shown_path(str(out)))} {shlex.quote(shown_path(folder))}"
        )
    if files := report.stranded.files:
        met = counted(files, "picture found elsewhere is", "pictures found elsewhere are")
        note(
            f"{met} no longer at the path in the index:  "
            f"clipdex forget --index {shlex.quote(shown_path(str(out)))} --missing"
        )


def run_sentence(report: RunReport, out: Path) -> str:
    """Return the run's last line. discovered = indexed + unchanged + failed."""
    speed = ""
    if report.indexed:  # the rate is that of the bar: scanning before, and vanished pictures after, are not in it
        busy = report.indexed / report.images_per_s
        speed = f" (indexing took {busy:.1f} s: {shown_rate(report.images_per_s)}, {report.transfer})"
    same = f" ({report.recognised:,} of them recognised by content)" if report.recognised else ""
    away = f" ({report.unseen:,} of them could not be checked)" if report.unseen else ""
    gone = f"; {report.removed:,} vanished" if report.removed else ""
    gone += f"; {report.left_out:,} removed because they are left out now" if report.left_out else ""
    listed = f";  {_listing(out)}  lists the failures" if report.failed else ""
    return (
        f"{counted(report.discovered, 'picture')} found: {report.indexed:,} indexed{same}, "
        f"{report.unchanged:,} unchanged{away}, "
        f"{report.failed:,} failed{gone}, in {report.seconds:.1f} s{speed}; "
        f"{shown_path(str(out))} holds {report.rows:,}{listed}"
    )


def plan_sentence(plan: Plan, out: Path) -> str:
    """Return the only line of a dry run."""
    again = f", {plan.retried:,} to be retried" if plan.retried else ""
    gone = f"; {plan.vanished:,} vanished" if plan.vanished else ""
    gone += f"; {plan.left_out:,} to be removed because they are left out now" if plan.left_out else ""
    anew = f", {plan.damaged:,} damaged in the index" if plan.damaged else ""
    look = f", {plan.reread:,} to be read and compared" if plan.reread else ""
    return (
        f"{counted(plan.discovered, 'picture')} found: {plan.new:,} new, {plan.changed:,} changed{anew}{look}, "
        f"{plan.unchanged:,} unchanged, {plan.failed:,} failed before{again}{gone}; "
        f"nothing was done to {shown_path(str(out))}"
    )


def show_failures(out: Path) -> None:
    """Name the first failures of the ledger, and the command that lists all."""
    with Index.open(out) as opened:
        ledger = opened.failures()
    for failure in ledger[:_FAILURES_SHOWN]:
        note(f"failed: {failure_line(failure)}")
    if len(ledger) > _FAILURES_SHOWN:
        note(f"... and {len(ledger) - _FAILURES_SHOWN:,} more:  {_listing(out)}")


def _listing(out: Path) -> str:
    return f"clipdex failures --index {shlex.quote(shown_path(str(out)))}"
