"""`clipdex export`: a CLIP checkpoint becomes three Triton models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, note

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A CLIP checkpoint in Hugging Face's format: a directory, or a hub id such as "
            "openai/clip-vit-base-patch32.",
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Make missing weights up: for measuring speed, never for use.")
    ] = False,
) -> None:
    """Turn a CLIP checkpoint into Triton models.

    Writes its two towers as ONNX. Photographs and texts go through the checkpoint's own PyTorch model and
    through the export; unless both give the same vectors, nothing is installed.
    """
    from clipdex_export.export import export_model

    with interruptible("nothing was installed"):
        report = export_model(
            source,
            name=name,
            repository=repository,
            revision=revision,
            max_batch_size=max_batch_size,
            overwrite=overwrite,
            allow_random=allow_random,
            progress=lambda stage: note(f"{stage} ..."),
        )
    card, parity = report.card, report.card.parity
    if report.random_weights:
        note(f"{len(report.random_weights)} weights were made up: the vectors mean nothing")
    size = report.bytes_on_disk / 1e6
    print(f"{card.name}: {card.embedding_dim} numbers a picture, {card.image.size} px, {size:.1f} MB")
    print(f"fingerprint {card.fingerprint}")
    for key, value in parity.items():
        if isinstance(value, (int, float, str)):
            print(f"parity: {key.replace('_', ' ')}: {value}")
    print(f"installed in {repository}; serve it with  clipdex serve --repository {repository}")
