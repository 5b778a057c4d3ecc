"""Checks of a model: that it is what it claims to be, and returns what it promises."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Model, Snapshot, Trial
from clipdex.wire.inspect.findings import InspectedModel, Tensor

__all__ = ["CHECKS", "WORDINGS"]

WRONG, NOTE = Severity.WRONG, Severity.NOTE
_EXPORT_AGAIN = "Export it again with  clipdex export --overwrite  and restart the server."

WORDINGS = {
    "part_missing": Words(
        WRONG,
        "this part of the model is not on the server",
        "Pictures, texts and the card are three Triton models; without one of them the model cannot be used.",
        "Copy all three directories of one export into the repository and restart the server.",
    ),
    "part_not_loaded": Words(
        WRONG,
        "the server has it but does not serve it: {reason}",
        "Requests for it fail.",
        "Read the server's log for this model, repair it and restart the server.",
    ),
    "card_unreadable": Words(
        WRONG,
        "its card cannot be used: {error}",
        "Clients read in the card how to prepare pictures and texts, and refuse the model without it.",
        _EXPORT_AGAIN,
    ),
    "assets_unstated": Words(
        NOTE,
        "its configuration does not state the sha256 of the assets",
        "Every client downloads them again at each start.",
        _EXPORT_AGAIN,
    ),
    "assets_differ": Words(
        WRONG,
        "its assets have sha256 {found}, but its configuration states {stated}",
        "The card and tokenizer come from another export than the configuration; clients refuse them.",
        _EXPORT_AGAIN,
    ),
    "fingerprint_missing": Words(
        WRONG,
        "its configuration states no fingerprint",
        "Nothing shows that this part comes from the same export as the card: vectors could be of another space.",
        _EXPORT_AGAIN,
    ),
    "fingerprint_differs": Words(
        WRONG,
        "its configuration has the fingerprint {stated}, but the card has {card}",
        "The parts come from different exports: pictures and texts would be compared across embedding spaces.",
        _EXPORT_AGAIN,
    ),
    "batch_in_dims": Words(
        WRONG,
        "its dims include the batch ({dims}), or max_batch_size is 0",
        "Triton then treats a request as indivisible and never batches; clients send rows one by one.",
        "Set max_batch_size, and leave the batch out of dims, as an export does.",
    ),
    "tensors_differ": Words(
        WRONG,
        "its inputs and outputs are {found}; its card says {expected}",
        "Requests made according to the card are refused, or misinterpreted.",
        _EXPORT_AGAIN,
    ),
    "parity_unknown": Words(
        WRONG,
        "its card does not record that it passed the gate",
        "It is unknown whether its vectors are those of the checkpoint.",
        _EXPORT_AGAIN,
    ),
    "parity_forced": Words(
        WRONG,
        "it was installed with --force although {problem}",
        "Its vectors are not those of the checkpoint: rankings differ, and published thresholds do not apply.",
        "Export it again without --force, in another precision or with other calibration pictures.",
    ),
    "parity_low": Words(
        WRONG,
        "its lowest cosine similarity to the checkpoint is {cosine}; expected at least {floor}",
        "Its vectors rank pictures differently from the checkpoint's.",
        _EXPORT_AGAIN,
    ),
    "random_weights": Words(
        WRONG,
        "{count} of its weights are random (--allow-random)",
        "Its vectors are meaningless: it is only for measuring speed.",
        "Export a trained checkpoint for anything else.",
    ),
    "no_answer": Words(
        WRONG,
        "a single row was not answered: {error}",
        "The model cannot be used.",
        "Read the server's log for this model.",
    ),
    "full_batch_refused": Words(
        WRONG,
        "a full batch of {megabytes} MB was not answered: {error}",
        "Bulk runs send full batches. A proxy in front of the server often limits messages to 4 MB.",
        "Raise the limit of the proxy, or lower max_batch_size.",
    ),
    "not_finite": Words(
        WRONG,
        "a vector contains NaN or infinity",
        "Half precision has overflowed, or the model is broken; such a vector cannot be ranked.",
        "Export it with  --precision fp32  and compare.",
    ),
    "not_unit": Words(
        WRONG,
        "a vector has L2 norm {norm}; expected 1",
        "Scores would not be cosines, and clients refuse the vectors.",
        _EXPORT_AGAIN,
    ),
    "batch_changes_vectors": Words(
        WRONG,
        "the vectors of one input, alone and within a full batch, have cosine {cosine}",
        "Vectors depend on what happens to share a batch: an index cannot be searched reliably.",
        "Try another precision or provider, and compare; then report it.",
    ),
    "wrong_dim": Words(
        WRONG,
        "its vectors have {found} dimensions; its card says {expected}",
        "Clients refuse them.",
        _EXPORT_AGAIN,
    ),
}


FINGERPRINT_PARAMETER = "clipdex_fingerprint"
# A client refuses vectors whose norm differs from 1 by more than this.
_NORM_TOLERANCE = 1e-2
# For a card that states no floor of its own: half precision's.
_COSINE_FLOOR = 0.999


def parts(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that all three Triton models are there."""
    for model in snapshot.models:
        for part in model.missing:
            name = f"{model.name}_{part}"
            reason = snapshot.server.unready.get(name)
            if reason is not None:
                yield Finding("part_not_loaded", name, {"reason": reason})
            else:
                yield Finding("part_missing", name)


def card(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the card can be read, and that the assets are those that the configuration states."""
    for model in snapshot.models:
        if model.card_error is not None:
            yield Finding("card_unreadable", f"{model.name}_assets", {"error": model.card_error})
        elif model.assets_sha256 is not None and model.stated_sha256 is None:
            yield Finding("assets_unstated", f"{model.name}_assets")
        elif model.assets_sha256 != model.stated_sha256:
            facts = {"found": str(model.assets_sha256)[:12], "stated": str(model.stated_sha256)[:12]}
            yield Finding("assets_differ", f"{model.name}_assets", facts)


def fingerprint(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that all three come from one export."""
    for model in snapshot.models:
        if model.card is None:
            continue
        for part, found in model.parts.items():
            stated = found.parameters.get(FINGERPRINT_PARAMETER)
            if stated is None:
                yield Finding("fingerprint_missing", f"{model.name}_{part}")
            elif stated != model.card.fingerprint:
                facts = {"stated": stated[:12], "card": model.card.fingerprint[:12]}
                yield Finding("fingerprint_differs", f"{model.name}_{part}", facts)


def tensors(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that each tower's inputs and outputs are as the card says, with the batch first and not in `dims`."""
    for model in snapshot.models:
        for part, tower in model.towers.items():
            if _batch_in_dims(tower):
                yield Finding("batch_in_dims", tower.name, {"dims": _listed(tower.inputs)})
            elif model.card is not None:
                expected = _expected(model, part)
                found = (tower.inputs, tower.outputs)
                if found != expected:
                    facts = {"found": _listed(sum(found, ())), "expected": _listed(sum(expected, ()))}
                    yield Finding("tensors_differ", tower.name, facts)


def parity(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the export passed the gate, with trained weights."""
    for model in snapshot.models:
        if model.card is None:
            continue
        report = model.card.parity
        cosines = [_number(report.get(f"{tower}_cosine_min")) for tower in ("image", "text")]
        floor = _number(report.get("floor"))
        if model.card.below_floor is not None:
            yield Finding("parity_forced", model.name, {"problem": model.card.below_floor})
        elif any(math.isnan(c) for c in cosines) or math.isnan(floor):
            yield Finding("parity_unknown", model.name)
        elif min(cosines) < max(floor, _COSINE_FLOOR if model.card.precision != "int8" else floor):
            facts = {"cosine": f"{min(cosines):.6f}", "floor": f"{max(floor, _COSINE_FLOOR):g}"}
            yield Finding("parity_low", model.name, facts)
        if _number(report.get("random_weights")) > 0:
            yield Finding("random_weights", model.name, {"count": report["random_weights"]})


def vectors(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the answers are unit vectors, and do not depend on what shares the batch."""
    for model in snapshot.models:
        for part, trial in model.trials.items():
            yield from _vectors(model, f"{model.name}_{part}", trial)


def _vectors(model: Model, where: str, trial: Trial) -> Iterator[Finding]:
    if trial.error is not None:
        yield Finding("no_answer", where, {"error": trial.error})
        return
    if trial.full_error is not None:
        facts = {"megabytes": f"{trial.full_bytes / 1e6:.1f}", "error": trial.full_error}
        yield Finding("full_batch_refused", where, facts)
    if not trial.finite:
        yield Finding("not_finite", where)
    elif abs(trial.norm - 1) > _NORM_TOLERANCE:
        yield Finding("not_unit", where, {"norm": f"{trial.norm:.4f}"})
    elif trial.alone_to_full < _COSINE_FLOOR:
        yield Finding("batch_changes_vectors", where, {"cosine": f"{trial.alone_to_full:.6f}"})
    if model.card is not None and trial.dim != model.card.embedding_dim:
        yield Finding("wrong_dim", where, {"found": trial.dim, "expected": model.card.embedding_dim})


def _batch_in_dims(tower: InspectedModel) -> bool:
    """Return whether a tower's own first dimension is the batch: Triton then cannot batch requests."""
    return tower.max_batch_size == 0 or any(t.dims[:1] == (-1,) for t in (*tower.inputs, *tower.outputs))


def _expected(model: Model, part: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    assert model.card is not None
    side, length = model.card.image.size, model.card.text.context_length
    given = (
        Tensor("pixels", "UINT8", (side, side, 3)) if part == "image" else Tensor("token_ids", "INT32", (length,))
    )
    return (given,), (Tensor("embedding", "FP32", (model.card.embedding_dim,)),)


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.name} {t.data_type} {list(t.dims)}" for t in tensors)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


CHECKS = (parts, card, fingerprint, tensors, parity, vectors)
