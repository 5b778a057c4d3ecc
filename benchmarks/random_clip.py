"""A CLIP of a real shape with random weights, as a checkpoint and as Triton models; made once, kept in .bench/."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".bench"


def random_clip(shape: str = "vit_b_32", precision: str = "fp32", target: str = "auto") -> tuple[Path, Path]:
    """-> a Hugging Face checkpoint, and a Triton repository with its export, named as the shape.

    precision and target: of the export; others than fp32 and auto have a repository of their own. Random weights
    say nothing about what a precision costs, so the gate's verdict on them is not heeded.
    """
    from clipdex_export import export_model
    from clipdex_export.random_checkpoint import SHAPES, write_random_checkpoint

    suffix = "".join(f"_{each}" for each in (precision, target) if each not in ("fp32", "auto"))
    checkpoint, repository = KEPT / f"{shape}_checkpoint", KEPT / f"{shape}{suffix}_repository"
    if not (checkpoint / "model.safetensors").exists():
        print(f"writing a random {shape} to {checkpoint}", file=sys.stderr)
        write_random_checkpoint(checkpoint, SHAPES[shape])
    if not (repository / f"{shape}_image" / "config.pbtxt").exists():
        print(f"exporting it to {repository}", file=sys.stderr)
        forced = precision != "fp32"
        export_model(
            checkpoint,
            name=shape,
            repository=repository,
            precision=precision,
            target=target,
            overwrite=True,
            force=forced,
        )
    return checkpoint, repository


def edited(
    repository: Path,
    copy: Path,
    *,
    max_batch_size: int | None = None,
    delay_us: int | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Path:
    """A copy of a repository with other settings in each config.pbtxt that has them; the ONNX files are linked."""
    for model in repository.iterdir():
        (copy / model.name).mkdir(parents=True)
        (copy / model.name / "1").symlink_to((model / "1").resolve(), target_is_directory=True)
        text = (model / "config.pbtxt").read_text()
        if max_batch_size is not None:
            text = re.sub(r"^max_batch_size: [1-9]\d*", f"max_batch_size: {max_batch_size}", text, flags=re.M)
        if delay_us is not None:
            text = re.sub(r"(max_queue_delay_microseconds:) \d+", rf"\1 {delay_us}", text)
        for key, value in (parameters or {}).items():
            text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        (copy / model.name / "config.pbtxt").write_text(text)
    return copy
