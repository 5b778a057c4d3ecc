"""`clipdex doctor`: find what makes a deployment slow or wrong."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from typing import Annotated

import typer

from clipdex.apps.doctor import Finding, Severity, Snapshot, examine, healthy, words_of
from clipdex.base.counting import counted
from clipdex.base.errors import ServerUnreachable
from clipdex.cli.common import JsonOption
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.printing import printable, say, say_json, terminal_width

__all__ = ["doctor"]

_WIDTH = 110  # where standard output is no terminal
_POLL_S = 0.5


@connects
def doctor(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST:PORT",
            help="Triton's gRPC address; several, separated by commas, are compared. Same as --server.",
            show_default=False,
        ),
    ] = None,
    *,
    connection: Connection,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address of its metrics, if not at port 8002.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time limit for one full batch.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Find what makes a server slow or wrong.

    Reads its configuration and counters, tries a few requests, and reports what is wrong or slow, why it matters
    and what to do. Changes nothing. Exit status 0 if it is healthy, 1 if not.
    """
    snapshots = _collected(connection.at(url), connection, metrics, timeout)
    findings = examine(snapshots)
    if as_json:
        say_json(_as_dict(snapshots, findings))
    else:
        _print(snapshots, findings)
    if not healthy(findings):
        raise typer.Exit(1)


def _collected(
    addresses: str, connection: Connection, metrics: str | None, timeout_s: float
) -> tuple[Snapshot, ...]:
    from clipdex.apps.doctor.collect import collect

    deadline = time.monotonic() + connection.wait_s
    while True:
        try:
            return collect(
                addresses,
                model=connection.model,
                metrics=metrics,
                credentials=connection.credentials,
                timeout_s=timeout_s,
            )
        except ServerUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)


def _print(snapshots: tuple[Snapshot, ...], findings: list[Finding]) -> None:
    for snapshot in snapshots:
        models = ", ".join(
            model.name if model.card is None else f"{model.name} ({model.card.precision})"
            for model in snapshot.models
        )
        server = snapshot.server
        say(f"{snapshot.address}: {server.name} {server.version} serves {models}")
    for finding in findings:
        words = words_of(finding)
        say()
        _wrapped(f"{words.severity.value}: {finding.where}: {words.what}", first="", rest="    ")
        _wrapped(words.why, first="    ", rest="    ")
        _wrapped(words.todo, first="    → ", rest="      ")
    count = Counter(words_of(finding).severity for finding in findings)
    verdict = "healthy" if healthy(findings) else "not healthy"
    say()
    say(
        f"{verdict}: {count[Severity.WRONG]} wrong, {count[Severity.SLOW]} slow, "
        f"{counted(count[Severity.NOTE], 'note')}"
    )


def _wrapped(text: str, *, first: str, rest: str) -> None:
    """Print text wrapped to the width of a terminal; words, paths and flags stay whole."""
    for line in textwrap.wrap(
        printable(text),
        terminal_width(_WIDTH),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        say(line)


def _as_dict(snapshots: tuple[Snapshot, ...], findings: list[Finding]) -> dict[str, object]:
    listed = []
    for finding in findings:
        words = words_of(finding)
        listed.append(
            {
                "severity": words.severity.value,
                "code": finding.code,
                "where": finding.where,
                "what": words.what,
                "why": words.why,
                "todo": words.todo,
                "facts": dict(finding.facts),
            }
        )
    servers = [
        {
            "address": snapshot.address,
            "server": f"{snapshot.server.name} {snapshot.server.version}",
            "models": [model.name for model in snapshot.models],
        }
        for snapshot in snapshots
    ]
    return {"healthy": healthy(findings), "servers": servers, "findings": listed}
