"""`clipdex export`: a CLIP checkpoint becomes three Triton models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.errors import ParityError
from clipdex.cli.common import interruptible
from clipdex.cli.printing import note, say

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint: a directory, a hub id such as openai/clip-vit-base-patch32, "
            "open_clip:NAME/WEIGHTS or pair:IMAGE+TEXT; docs/families.md lists the kinds.",
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", "-n", help="The model's name: small letters, digits, underscores.")
    ],
    repository: Annotated[
        Path, typer.Option("--repository", "-r", metavar="DIR", help="The Triton model repository to put it in.")
    ] = Path("model_repository"),
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of a hub id.", show_default=False)
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="The most pictures the server puts into one batch.")
    ] = 64,
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="What it is to run on: auto (GPUs, else the CPU), cpu, cuda (ONNX Runtime's fused operators) or "
            "tensorrt.",
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="fp32, fp16, or int8 for CPUs; if not given, fp16 for cuda and tensorrt, else fp32.",
            show_default=False,
        ),
    ] = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Copies of each tower that the server keeps, on each GPU.")
    ] = 1,
    engine_cache: Annotated[
        str, typer.Option(metavar="DIR", help="Where TensorRT keeps engines: a directory on the server.")
    ] = "/var/cache/clipdex",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For int8: pictures like those to be embedded, and texts in .txt files. Else the built-in ones.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Install what the gate refuses, with a card that says so.")
    ] = False,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Make missing weights up: for measuring speed, never for use.")
    ] = False,
) -> None:
    """Turn a CLIP checkpoint into Triton models.

    Writes its two towers as ONNX. Photographs and texts go through the checkpoint's own PyTorch model and
    through the export; unless both give the same vectors, nothing is installed.
    """
    from clipdex_export.exporting import export_model

    with interruptible("nothing was installed"), _shown_table():
        report = export_model(
            source,
            name=name,
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
            allow_random=allow_random,
            progress=lambda stage: note(f"{stage} ..."),
        )
    card, parity = report.card, report.card.parity
    if report.random_weights:
        note(f"{len(report.random_weights)} weights were made up: the vectors mean nothing")
    if report.unused_weights:
        some = ", ".join(report.unused_weights[:3]) + (", …" if len(report.unused_weights) > 3 else "")
        note(f"{len(report.unused_weights)} weights of the checkpoint have no place in the model: {some}")
    if card.below_floor is not None:
        note(f"installed although {card.below_floor}")
    size = report.bytes_on_disk / 1e6
    shape = f"{card.embedding_dim} numbers a picture, {card.image.size} px, {card.precision}"
    say(f"{card.name}: {shape}, {size:.1f} MB")
    say(f"fingerprint {card.fingerprint}")
    for key, value in parity.items():
        if isinstance(value, (int, float, str)):
            say(f"parity: {key.replace('_', ' ')}: {value}")
    say(f"installed in {repository}; serve it with  clipdex serve --repository {repository}")


@contextmanager
def _shown_table() -> Iterator[None]:
    """Before the sentence of a refusal, a line for each stage of the gate."""
    try:
        yield
    except ParityError as exc:
        for line in exc.table.splitlines():
            note(line)
        raise ParityError(f"{exc}; nothing was installed (--force installs it with a card that says so)") from exc
