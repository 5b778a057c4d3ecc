"""`clipdex export`: turn a CLIP checkpoint into three Triton models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument, ParityError
from clipdex.cli.common import JsonOption, interruptible
from clipdex.cli.download_progress import download_progress
from clipdex.cli.export_table import print_export, print_export_json
from clipdex.cli.printing import complain, note

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Model to export: a name that  clipdex models --available  lists, such as vit-b-32; a "
            "checkpoint: a directory, a hub id such as openai/clip-vit-base-patch32, open_clip:NAME/WEIGHTS or "
            "pair:IMAGE+TEXT (docs/families.md); or ready-made ONNX, which needs no torch: "
            "Xenova/clip-vit-base-patch32, immich-app/ViT-B-32__openai (docs/onnx-sources.md).",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            help="Name of the model: lower-case letters, digits, underscores (a listed model has a default name).",
            show_default=False,
        ),
    ] = None,
    repository: Annotated[
        Path, typer.Option("--repository", "-r", metavar="DIR", help="Triton model repository to install it in.")
    ] = Path("model_repository"),
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Maximum batch size on the server.")] = 64,
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="Hardware to run on: auto (GPUs, else the CPU), cpu, openvino (the CPU, by OpenVINO), cuda (ONNX "
            "Runtime's fused operators) or tensorrt.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="fp32, fp16, tf32 for cuda, or for CPUs bf16 or int8 (default fp16 for cuda and tensorrt, bf16 "
            "for openvino, else fp32).",
            show_default=False,
        ),
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="Instances of each tower on the server, per GPU.")] = 1,
    engine_cache: Annotated[
        str, typer.Option(metavar="DIR", help="Directory on the server where TensorRT keeps its engines.")
    ] = "/var/cache/clipdex",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For int8: folder of typical pictures, and texts in .txt files (default built-in ones).",
            show_default=False,
        ),
    ] = None,
    source_format: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="onnx or torch, for a source that has both (default torch where there are PyTorch weights).",
            show_default=False,
        ),
    ] = None,
    same_as: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="Installed model (NAME or DIR/NAME) to compare with: if both give the same vectors, take its "
            "fingerprint, so that both may share an index.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing model of that name.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Install a model that the gate refuses; its card will say so.")
    ] = False,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Fill in missing weights at random: only for measuring speed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a CLIP checkpoint into Triton models.

    Exports its two towers as ONNX. Runs pictures and texts through the checkpoint's own model and through the
    export; unless both give the same vectors, nothing is installed.
    """
    from clipdex_export.exporting import export_model

    named = name or _listed_name(source)
    with interruptible("nothing was installed"), _shown_table(), download_progress():
        report = export_model(
            source,
            name=named,
            repository=repository,
            revision=revision,
            max_batch_size=max_batch_size,
            target=target,
            precision=precision,
            instances=instances,
            engine_cache=engine_cache,
            calibrate=calibrate,
            overwrite=overwrite,
            force=force,
            source_format=source_format,
            same_as=same_as,
            allow_random=allow_random,
            progress=lambda stage: note(f"{stage} ..."),
        )
    card = report.card
    if report.random_weights:
        count = counted(len(report.random_weights), "weight is", "weights are")
        note(f"{count} random: the vectors are meaningless")
    if report.unused_weights:
        some = ", ".join(report.unused_weights[:3]) + (", …" if len(report.unused_weights) > 3 else "")
        count = counted(len(report.unused_weights), "weight of the checkpoint is", "weights of the checkpoint are")
        note(f"{count} not used by the model: {some}")
    if card.below_floor is not None:
        note(f"installed although {card.below_floor}")
    (print_export_json if as_json else print_export)(report)


def _listed_name(source: str) -> str:
    """Return the default name of a listed model's export.

    Raises:
        InvalidArgument: the source is not a listed model, so it needs a name.
    """
    from clipdex_export.catalogue import find_available, resolve

    listed = None if resolve(source) == source else find_available(source)
    if listed is None:
        raise InvalidArgument(f"{source} needs a name in the repository: add one, such as  --name my_clip")
    return listed.model_name


@contextmanager
def _shown_table() -> Iterator[None]:
    """Print a line for each stage of the gate before the error that refuses an export."""
    try:
        yield
    except ParityError as exc:
        for line in exc.table.splitlines():
            complain(line)
        raise ParityError(f"{exc}; nothing was installed (--force installs it with a card that says so)") from exc
