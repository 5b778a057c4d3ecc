"""`clipdex models --available`: the models that can be exported by name, and the facts to choose one by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipdex.cli.printing import note, say, say_json

if TYPE_CHECKING:
    from clipdex_export.catalogue import AvailableModel

__all__ = ["say_available"]

_HEAD = ("name", "image MB", "text MB", "pixels", "dim", "languages", "speed", "recall", "ImageNet", "licence")


def say_available(as_json: bool) -> None:
    """Print the list as a table, or as JSON with the source of each fact."""
    from clipdex_export.catalogue import available_models

    catalogue = available_models()
    if as_json:
        say_json([_as_dict(model, catalogue.default) for model in catalogue.models])
        return
    rows = [_HEAD, *(_row(model) for model in catalogue.models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    note(
        f"clipdex export NAME  exports one; clipdex find uses {catalogue.default} unless --model names another. "
        "Figures are published ones; --json gives the source of each"
    )


def _row(model: AvailableModel) -> tuple[str, ...]:
    return (
        model.name,
        _figure(model.image_mb),
        _figure(model.text_mb),
        str(model.pixels),
        str(model.dim),
        model.languages,
        _figure(model.speed),
        _figure(model.recall),
        _figure(model.imagenet),
        model.licence + ("" if model.onnx else " (needs PyTorch)"),
    )


def _figure(value: float | str | None) -> str:
    return "—" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _as_dict(model: AvailableModel, default: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "default": model.name == default,
        "onnx": model.onnx,
        "torch": model.torch,
        "image_mb": model.image_mb,
        "text_mb": model.text_mb,
        "pixels": model.pixels,
        "dim": model.dim,
        "languages": model.languages,
        "licence": model.licence,
        "speed": model.speed,
        "ms": model.ms,
        "recall": model.recall,
        "imagenet": model.imagenet,
        "note": model.note,
        "sources": dict(model.sources),
    }
