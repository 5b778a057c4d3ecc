"""Shared by the three measurements: options, lists of numbers, aligned tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.bench.machine import Machine
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import printable
from clipdex.client.client import Client

__all__ = ["SaveOption", "SecondsOption", "machine_line", "numbers", "server_lines"]

SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Also write all figures to FILE as JSON (docs/bench.md).",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
SecondsOption = Annotated[float, typer.Option(metavar="SECONDS", help="Time to measure each point.")]


def numbers(text: str, option: str) -> list[int]:
    """Parse a list of numbers: `1,8,64` -> [1, 8, 64].

    Raises:
        InvalidArgument: the text is not such a list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidArgument(f"{option} is {text!r}; expected positive integers separated by commas, as in 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def machine_line(machine: Machine) -> str:
    """Describe the machine and the date in one line."""
    cores = counted(machine.cores, "core")
    return f"{cores} of {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.date}"


def server_lines(client: Client, gpus: int | None, machine: Machine) -> str:
    """Describe the server measured and the machine it was measured from."""
    server = f"{client.card.name} at {client.address}, {client.server.name} {client.server.version}"
    if gpus:
        server += f", on {counted(gpus, 'GPU')}"
    return f"{printable(server)}\nfrom {printable(machine_line(machine))}\n"
