"""`clipdex models`: list the models of a server or a repository."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.available import say_available
from clipdex.cli.common import JsonOption
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.printing import note, printable, say, say_json
from clipdex.client.held_models import HeldModel, list_models
from clipdex.model.card import ModelCard

__all__ = ["card_facts", "models"]

_HEAD = ("model", "dim", "pixels", "tokens", "precision", "cosine", "top-10", "size", "fingerprint", "source")


@connects
def models(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="SERVER|DIR",
            help="Triton's gRPC address, or a model repository; same as --server.",
            show_default=False,
        ),
    ] = None,
    *,
    connection: Connection,
    available: Annotated[
        bool, typer.Option("--available", help="List the models that can be exported by name.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models of a server or a repository.

    Shows each model's source, sizes and precision, how close it is to its checkpoint (the lowest cosine
    similarity, the share of a text's ten best pictures that agree), and its fingerprint. An index accepts the
    vectors of any model with its own fingerprint.
    """
    if available:
        if place is not None or connection.server_is_typed:
            raise InvalidArgument("--available lists what can be exported, and needs no server or directory")
        say_available(as_json)
        return
    server = connection.at(place)
    held = list_models(
        server,
        model=connection.model,
        credentials=connection.credentials,
        wait_s=connection.wait_s,
    )
    if as_json:
        say_json([_as_dict(model) for model in held])
        return
    rows = [_HEAD, *([printable(cell) for cell in _row(model)] for model in held)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for model in held:
        for remark in _remarks(model):
            note(f"{model.name}: {remark}")
    if not held:
        note(f"{server}: holds no model that clipdex exported")


def _row(model: HeldModel) -> tuple[str, ...]:
    size = "" if model.bytes_on_disk is None else f"{model.bytes_on_disk / 1e6:,.1f} MB"
    card = model.card
    if card is None:
        return (model.name, *[""] * 6, size, "", "cannot be read")
    cosines = [card.parity.get(f"{tower}_cosine_min") for tower in ("image", "text")]
    known = [cosine for cosine in cosines if isinstance(cosine, float)]
    overlap = card.parity.get("top10_overlap")
    return (
        model.name,
        str(card.embedding_dim),
        str(card.image.size),
        str(card.text.context_length),
        card.precision,
        (f"{min(known):.6f}" if known else "") + ("!" if card.below_floor else ""),
        f"{overlap:.3f}" if isinstance(overlap, float) else "",
        size,
        card.fingerprint[:12],
        card.source,
    )


def _remarks(model: HeldModel) -> list[str]:
    if model.card is None:
        return [model.error]
    remarks = []
    parity = model.card.parity
    if model.card.precision == "bf16" or model.runtime.startswith("openvino"):
        remarks.append(f"computed by {model.runtime}")
    if model.card.below_floor is not None:
        remarks.append(f"installed although {model.card.below_floor}")
    if model.card.text_precision != model.card.precision:
        remarks.append(f"its text tower is in {model.card.text_precision}")
    if parity.get("random_weights"):
        remarks.append(f"{parity['random_weights']} weights are random: its vectors are meaningless")
    return remarks


def _as_dict(model: HeldModel) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": model.name, "bytes_on_disk": model.bytes_on_disk}
    card = model.card
    if card is None:
        return facts | {"error": model.error}
    more = {"max_batch_size": model.max_batch_size, "precision": card.precision, "runtime": model.runtime}
    return facts | card_facts(card) | more


def card_facts(card: ModelCard) -> dict[str, Any]:
    """Return what JSON says of every model: its source, space and sizes, and its closeness to the checkpoint."""
    return {
        "source": card.source,
        "revision": card.revision,
        "fingerprint": card.fingerprint,
        "embedding_dim": card.embedding_dim,
        "image_size": card.image.size,
        "context_length": card.text.context_length,
        "parity": dict(card.parity),
        "below_floor": card.below_floor,
    }
