"""Adaptation of float32 towers to a precision and a target, followed by the gate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdex_export.calibration import Calibration
from clipdex_export.checkpoint import Checkpoint, Layers
from clipdex_export.fusion import fuse
from clipdex_export.gate import Gate
from clipdex_export.install import Staging
from clipdex_export.onnx_files import check_limits
from clipdex_export.precisions import Precision
from clipdex_export.targets import Target
from clipdex_export.verdict import Floors, Verdict

__all__ = ["TowerFiles", "adapt_and_judge"]

# If only these depart, keeping the text tower in float32 may help.
_OF_TEXTS = {"text tower", "texts", "ranking"}


@dataclass(frozen=True)
class TowerFiles:
    """The files of an export's two towers, the attention layers that fusion must find, and a scratch directory."""

    image: Path
    text: Path
    image_layers: Layers | None
    text_layers: Layers | None
    scratch: Path

    @classmethod
    def of(cls, stage: Staging, checkpoint: Checkpoint) -> TowerFiles:
        """Make the paths for an export that is being built in a staging directory."""
        image, text = (stage.model_directory(tower) / "1" / "model.onnx" for tower in ("image", "text"))
        return cls(image, text, checkpoint.image.layers, checkpoint.text.layers, stage.directory / "float32")


def adapt_and_judge(
    towers: TowerFiles,
    precision: Precision,
    target: Target,
    examples: Calibration | None,
    gate: Gate,
    floors: Floors,
    tell: Callable[[str], None],
) -> tuple[Verdict, str]:
    """Rewrite both towers and judge them -> the verdict, and the precision of the text tower.

    If only the quantized text tower falls below the floor, it stays float32: texts are few.
    """
    if precision.convert is not None or precision.quantize is not None or target.fused:
        tell(f"rewriting the towers for {target.name} in {precision.name}")
    if precision.quantize is not None:
        assert examples is not None
        towers.scratch.mkdir()
        _copy(towers.text.parent, towers.scratch)
        precision.quantize(towers.image, "pixels", examples.pixels)
        precision.quantize(towers.text, "token_ids", examples.token_ids)
    for path, layers in ((towers.image, towers.image_layers), (towers.text, towers.text_layers)):
        if precision.convert is not None:
            precision.convert(path, wide_norms=target.accelerator == "tensorrt")
        if target.fused and layers is not None:
            fuse(path, heads=layers.heads, width=layers.width, layers=layers.layers)
        check_limits(path, domains=target.domains)
    tell("comparing the export with the checkpoint")
    rounding = precision.rounding(target.name)
    verdict = gate.judge(towers.image, towers.text, floors, rounding)
    if precision.quantize is None or not verdict.departing or not set(verdict.departing) <= _OF_TEXTS:
        return verdict, precision.name
    tell(f"the text tower falls below the floor in {precision.name}: comparing again with fp32")
    for file in towers.text.parent.iterdir():
        file.unlink()
    _copy(towers.scratch, towers.text.parent)
    kept = "bf16" if target.name in precision.bf16_on else "fp32"
    return gate.judge(towers.image, towers.text, floors, rounding), kept


def _copy(source: Path, to: Path) -> None:
    for file in source.iterdir():
        shutil.copyfile(file, to / file.name)
