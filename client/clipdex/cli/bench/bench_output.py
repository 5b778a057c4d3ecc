"""Shared by the three measurements: options, lists of numbers, aligned tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.bench.machine import Machine
from clipdex.base.errors import InvalidArgument
from clipdex.cli.printing import printable
from clipdex.client.client import Client

__all__ = ["JsonOption", "SecondsOption", "machine_line", "numbers", "server_lines", "table"]

JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write all figures to FILE (docs/bench.md).", show_default=False
    ),
]
SecondsOption = Annotated[float, typer.Option(metavar="SECONDS", help="Time to measure each point.")]


def numbers(text: str, option: str) -> list[int]:
    """Parse a list of numbers: `1,8,64` -> [1, 8, 64].

    Raises:
        InvalidArgument: the text is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidArgument(f"{option} is {text!r}; expected positive integers separated by commas, as in 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def machine_line(machine: Machine) -> str:
    """Describe the machine and the date in one line."""
    return f"{machine.cores} cores of {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB, {machine.date}"


def server_lines(client: Client, gpus: int | None, machine: Machine) -> str:
    """Describe the server measured and the machine it was measured from."""
    server = f"{client.card.name} at {client.address}, {client.server.name} {client.server.version}"
    if gpus:
        server += f", on {gpus} GPU{'s' if gpus > 1 else ''}"
    return f"{printable(server)}\nfrom {printable(machine_line(machine))}\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows as aligned columns: words to the left, numbers to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    left = [not any(cell[:1].isdigit() for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in (head, *rows)
    )
