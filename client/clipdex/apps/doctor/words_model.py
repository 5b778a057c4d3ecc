"""The words for what `check_model` finds."""

from __future__ import annotations

from clipdex.apps.doctor.finding import Severity, Words

__all__ = ["WORDINGS"]

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
        "Clients learn from the card how to prepare pictures and texts, and refuse the model without it.",
        _EXPORT_AGAIN,
    ),
    "assets_unstated": Words(
        NOTE,
        "its configuration does not state the sha256 of the assets",
        "Every client fetches them anew at each start.",
        _EXPORT_AGAIN,
    ),
    "assets_differ": Words(
        WRONG,
        "its assets have sha256 {found}, its configuration states {stated}",
        "The card and tokenizer are of another export than the configuration; clients refuse them.",
        _EXPORT_AGAIN,
    ),
    "fingerprint_missing": Words(
        WRONG,
        "its configuration states no fingerprint",
        "Nothing shows that this tower is of the same export as the card: vectors could be of another space.",
        _EXPORT_AGAIN,
    ),
    "fingerprint_differs": Words(
        WRONG,
        "its configuration has the fingerprint {stated}, the card {card}",
        "The parts are of different exports: pictures and texts would be compared across embedding spaces.",
        _EXPORT_AGAIN,
    ),
    "batch_in_dims": Words(
        WRONG,
        "the batch is a part of its dims ({dims}), or max_batch_size is 0",
        "Triton then takes a request for one indivisible thing and never batches; clients send rows one by one.",
        "Set max_batch_size, and leave the batch out of dims; an export writes both so.",
    ),
    "tensors_differ": Words(
        WRONG,
        "it takes and gives {found}; its card says {expected}",
        "Requests made by the card are refused, or mean something else.",
        _EXPORT_AGAIN,
    ),
    "parity_unknown": Words(
        WRONG,
        "its card holds no report of a passed gate",
        "Nobody knows whether its vectors are those of the checkpoint.",
        _EXPORT_AGAIN,
    ),
    "parity_forced": Words(
        WRONG,
        "it was installed with --force although {problem}",
        "Its vectors are not those of the checkpoint: rankings differ, and thresholds of others do not hold.",
        "Export it again without --force, in another precision or with other calibration pictures.",
    ),
    "parity_low": Words(
        WRONG,
        "its smallest cosine to the checkpoint is {cosine}; expected at least {floor}",
        "Its vectors rank pictures differently than the checkpoint's.",
        _EXPORT_AGAIN,
    ),
    "random_weights": Words(
        WRONG,
        "{count} of its weights were made up (--allow-random)",
        "Its vectors mean nothing: it is for measuring speed.",
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
        "Bulk runs send full batches. A proxy before the server often limits messages to 4 MB.",
        "Raise the limit of whatever stands between, or lower max_batch_size.",
    ),
    "not_finite": Words(
        WRONG,
        "a vector holds NaN or infinity",
        "Half precision has overflowed, or the model is broken; such a vector ranks nowhere.",
        "Export it with  --precision fp32  and compare.",
    ),
    "not_unit": Words(
        WRONG,
        "a vector has L2 norm {norm}; expected 1",
        "Scores would be no cosines, and clients refuse the vectors.",
        _EXPORT_AGAIN,
    ),
    "batch_changes_vectors": Words(
        WRONG,
        "the same input has cosine {cosine} to itself, alone and within a full batch",
        "Vectors depend on what happens to share a batch: an index cannot be searched reliably.",
        "Try another precision or provider, and compare; then report it.",
    ),
    "wrong_dim": Words(
        WRONG,
        "its vectors have {found} numbers; its card says {expected}",
        "Clients refuse them.",
        _EXPORT_AGAIN,
    ),
}
