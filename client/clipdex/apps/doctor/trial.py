"""Trial requests to each tower: single rows, like a user's query, and one full batch, as a bulk run sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from clipdex.apps.doctor.snapshot import Single, Trial
from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, ServerFault
from clipdex.client.request_size import rows_of_pixels, rows_of_texts
from clipdex.model.assets import Assets
from clipdex.model.tokenizer import Tokenizer
from clipdex.wire.inspect.findings import InspectedModel
from clipdex.wire.inspect.inspector import Inspection

__all__ = ["try_towers"]

_SINGLES = 9
_TEXTS = ("a photo of a cat", "two red circles on a blue background", "", "sunset")


def try_towers(
    inspection: Inspection, towers: Mapping[str, InspectedModel], assets: Assets, timeout_s: float
) -> dict[str, Trial]:
    """Try each tower -> the results, by tower."""
    return {
        part: _try(inspection, tower, *_rows(part, _full(part, tower, assets), assets), timeout_s)
        for part, tower in towers.items()
    }


def _full(part: str, tower: InspectedModel, assets: Assets) -> int:
    """Return the number of rows in a full batch, as a client sends it."""
    rows = rows_of_texts if part == "text" else rows_of_pixels
    return rows(assets.card, tower.max_batch_size)


def _rows(part: str, count: int, assets: Assets) -> tuple[str, Array]:
    """Make a full batch: a grey picture or a text first, then different ones -> the input's name, its rows."""
    if part == "text":
        texts = [_TEXTS[i % len(_TEXTS)] for i in range(count)]
        return "token_ids", Tokenizer(assets.tokenizer_json, assets.card.text)(texts)
    side = assets.card.image.size
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    pixels[0] = 128
    return "pixels", pixels


def _try(inspection: Inspection, tower: InspectedModel, input_name: str, rows: Array, timeout_s: float) -> Trial:
    def ask(given: Array) -> Array:
        found = inspection.infer(tower.name, {input_name: given}, "embedding", timeout_s)
        if found.ndim != 2 or len(found) != len(given) or not found.size or found.dtype.kind not in "fiu":
            raise ServerFault(
                f"the answer is {found.dtype} {list(found.shape)}; expected a vector for each of {len(given)} rows"
            )
        return found

    try:
        alone = ask(rows[:1])  # the first may wait for one-time work of the server
        singles = [_single(inspection, tower, partial(ask, rows[:1])) for _ in range(_SINGLES)]
    except ClipdexError as exc:
        return Trial(error=str(exc), full_bytes=rows.nbytes)
    full, full_error = None, None
    try:
        full = ask(rows)
    except ClipdexError as exc:
        full_error = str(exc)
    vectors = np.concatenate([alone, full]) if full is not None and full.shape[1:] == alone.shape[1:] else alone
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1)
    finite = bool(np.isfinite(vectors).all())
    return Trial(
        norm=float(norms[np.abs(norms - 1).argmax()]) if finite else float("nan"),
        finite=finite,
        dim=int(alone.shape[-1]),
        single=_median(singles),
        full_bytes=rows.nbytes,
        full_error=full_error,
        alone_to_full=_cosine(alone[0], full[0]) if full is not None and finite else 1.0,
    )


def _single(inspection: Inspection, tower: InspectedModel, ask: Callable[[], Array]) -> Single | None:
    """Time one request; None if the server counted others meanwhile."""
    before = inspection.model(tower.name).statistics
    start = time.perf_counter()
    ask()
    round_trip = time.perf_counter() - start
    counted = inspection.model(tower.name).statistics.since(before)
    if (counted.requests, counted.failures) != (1, 0):
        return None
    return Single(round_trip, counted.queue_ns / 1e9, counted.compute_ns / 1e9)


def _median(singles: list[Single | None]) -> Single | None:
    """Return the one of median time: any of them may have met a busy moment."""
    undisturbed = sorted((each for each in singles if each is not None), key=lambda each: each.round_trip_s)
    return undisturbed[len(undisturbed) // 2] if undisturbed else None


def _cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / max(norms, 1e-12)
