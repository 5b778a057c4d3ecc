"""The report of `clipdex export`: a table of the towers, and the next command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.base.counting import counted
from clipdex.base.printable import printable
from clipdex.cli.common import shown_path
from clipdex.cli.models import card_facts
from clipdex.cli.printing import say, say_block, say_json
from clipdex.cli.tables import table

if TYPE_CHECKING:
    from clipdex_export.exporting import ExportReport

__all__ = ["print_export", "print_export_json"]

_HEAD = ("tower", "precision", "size", "lowest cosine", "mean cosine")
_TOWERS = ("image", "text")


def print_export(report: ExportReport) -> None:
    """Print the towers with their precision, size and closeness to the checkpoint, and the next command."""
    card, parity = report.card, report.card.parity
    say(f"{card.name}: {card.embedding_dim} dimensions, {card.image.size} px, {card.text.context_length} tokens")
    say_block(table(_HEAD, [_row(tower) for tower in _towers(report)]))
    overlap = _number(parity.get("top10_overlap"), 3)
    texts, images = (parity.get(what) for what in ("texts", "images"))
    among = ""
    if isinstance(texts, int) and isinstance(images, int):
        among = f", {counted(texts, 'text')} among {counted(images, 'picture')}"
    say(f"top-10 overlap with the checkpoint: {overlap}{among}")
    if layout := parity.get("layout"):
        say(f"compared with the original ONNX files ({printable(layout)})")
    say(f"fingerprint {card.fingerprint}")
    repository = shlex.quote(shown_path(str(report.repository)))
    say(f"installed in {shown_path(str(report.repository))}; next:  clipdex serve --repository {repository}")


def print_export_json(report: ExportReport) -> None:
    """Print the report as JSON."""
    card = report.card
    say_json(
        {
            "name": card.name,
            "repository": str(report.repository),
            **card_facts(card),
            "bytes_on_disk": report.bytes_on_disk,
            "towers": _towers(report),
            "top10_overlap": card.parity.get("top10_overlap"),
            "unused_weights": list(report.unused_weights),
            "random_weights": list(report.random_weights),
        }
    )


def _towers(report: ExportReport) -> list[dict[str, Any]]:
    card, parity = report.card, report.card.parity
    return [
        {
            "tower": tower,
            "precision": parity.get(f"{tower}_precision", card.precision),
            "bytes": _bytes_below(report.paths[tower]),
            "cosine_min": parity.get(f"{tower}_cosine_min"),
            "cosine_mean": parity.get(f"{tower}_cosine_mean"),
            "path": str(report.paths[tower]),
        }
        for tower in _TOWERS
    ]


def _row(tower: dict[str, Any]) -> tuple[str, ...]:
    cosines = (_number(tower[key], 6) for key in ("cosine_min", "cosine_mean"))
    return (tower["tower"], str(tower["precision"]), f"{tower['bytes'] / 1e6:,.1f} MB", *cosines)


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "not measured"


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
