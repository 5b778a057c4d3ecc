"""The gate's comparison of checkpoint and export, stage by stage.

resize        pixels of the export and of the checkpoint: equal, or not
tokens        token ids: equal, or not
image tower   vectors of the export and of the checkpoint, given the same pixels
text tower    the same, given the same token ids
pictures      the whole way, from the file to the vector
texts         the whole way, from the text to the vector
ranking       the ten best pictures of each text, by both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import ParityError
from clipdex_export.float16 import LARGEST

__all__ = ["OVERLAP_FLOOR", "Floors", "ParityReport", "Side", "Stage", "Verdict", "judge"]

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Side:
    """The results of one implementation for the gate's pictures and texts.

    pixels: uint8 (N, S, S, 3); token_ids: int32 (M, L); image, text: float32 (N, D) and (M, D).
    image_overflow, text_overflow: the node whose float16 values overflowed and spoilt a vector, or "".
    """

    pixels: npt.NDArray[np.uint8]
    token_ids: npt.NDArray[np.int32]
    image: Vectors
    text: Vectors
    image_overflow: str = ""
    text_overflow: str = ""


OVERLAP_FLOOR = 0.95  # in every precision
_NORM_TOLERANCE = 1e-4
_TOP = 10

Cosines = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Floors:
    """The smallest values that pass the gate.

    cosine: of any picture or text. overlap: the mean share of a text's ten best pictures that both sides have.
    """

    cosine: float = 0.9999
    overlap: float = OVERLAP_FLOOR


@dataclass(frozen=True)
class ParityReport:
    """End-to-end measurements of an export, stored in the model card."""

    floor: float
    overlap_floor: float
    images: int
    texts: int
    image_cosine_min: float
    image_cosine_mean: float
    text_cosine_min: float
    text_cosine_mean: float
    top10_overlap: float
    pixel_mismatches: int
    token_mismatches: int


@dataclass(frozen=True)
class Stage:
    """One line of the table. problem: a sentence if the stage departs from the checkpoint, else None."""

    name: str
    measured: str
    problem: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on an export."""

    report: ParityReport
    stages: tuple[Stage, ...]

    @property
    def problem(self) -> str | None:
        """The reason for rejection, from the first stage that departs. None if the export passes."""
        return next((stage.problem for stage in self.stages if stage.problem), None)

    @property
    def departing(self) -> tuple[str, ...]:
        """Names of the stages that depart."""
        return tuple(stage.name for stage in self.stages if stage.problem)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in the form for the model card."""
        parity = asdict(self.report) | {"forced": self.problem is not None}
        if self.problem is not None:
            parity |= {"problem": self.problem, "departs": list(self.departing)}
        return parity

    def table(self) -> str:
        """Return a table with a line for each stage."""
        lines = [("stage", "", "measured")]
        lines += [(s.name, "DEPARTS" if s.problem else "holds", s.measured) for s in self.stages]
        return "\n".join(f"{name:<12} {verdict:<8} {measured}" for name, verdict, measured in lines)

    def require(self) -> None:
        """Raise ParityError, with the table, unless the export passes."""
        if self.problem is not None:
            raise ParityError(self.problem, self.table())


def judge(
    expected: Side, found: Side, same_inputs: Side, pictures: Sequence[str], texts: Sequence[str], floors: Floors
) -> Verdict:
    """Compare the results of checkpoint and export for the same pictures and texts.

    Args:
        expected: the checkpoint's.
        found: the export's.
        same_inputs: vectors of the exported towers, given the checkpoint's pixels and token ids.
        pictures, texts: their names for messages.
        floors: required of cosines and rankings; pixels and token ids must be equal.
    """
    picture_names = [f"'{name}'" for name in pictures]
    text_names = [repr(text[:60]) for text in texts]
    image, text = _cosines(expected.image, found.image), _cosines(expected.text, found.text)
    overlap = _overlap(expected, found)
    pixel_values, ids = _differing(expected.pixels, found.pixels), _differing(expected.token_ids, found.token_ids)
    stages = (
        _resize(expected.pixels, found.pixels, pixel_values, image, picture_names),
        _tokens(expected.token_ids, found.token_ids, ids, text, text_names),
        _tower("image", expected.image, same_inputs.image, picture_names, floors.cosine, found.image_overflow),
        _tower("text", expected.text, same_inputs.text, text_names, floors.cosine, found.text_overflow),
        _whole("pictures", image, picture_names, floors.cosine),
        _whole("texts", text, text_names, floors.cosine),
        _ranking(overlap, floors.overlap, len(pictures), len(texts)),
    )
    report = ParityReport(
        floor=floors.cosine,
        overlap_floor=floors.overlap,
        images=len(pictures),
        texts=len(texts),
        image_cosine_min=_rounded(image.min()),
        image_cosine_mean=_rounded(image.mean()),
        text_cosine_min=_rounded(text.min()),
        text_cosine_mean=_rounded(text.mean()),
        top10_overlap=round(overlap, 6),
        pixel_mismatches=int(pixel_values.sum()),
        token_mismatches=int(ids.sum()),
    )
    return Verdict(report, stages)


def _resize(
    wanted: npt.NDArray[np.uint8],
    found: npt.NDArray[np.uint8],
    differing: npt.NDArray[np.int64],
    cosines: Cosines,
    names: Sequence[str],
) -> Stage:
    if wanted.shape != found.shape:
        shapes = f"{found.shape[1:]}, expected {wanted.shape[1:]}"
        return Stage("resize", shapes, f"the preprocessing gives pixels of another shape: {shapes}")
    if not differing.any():
        return Stage("resize", f"{len(names)} pictures, every pixel value equal")
    worst, many = int(differing.argmax()), np.count_nonzero(differing)
    apart = np.abs(wanted[worst].astype(np.int16) - found[worst])
    values = f"{differing[worst]:,} of {found[worst].size:,} pixel values"
    return Stage(
        "resize",
        f"{many} of {len(names)} pictures differ; worst {names[worst]}: {values}, by up to {apart.max()} of 255, "
        f"{apart.mean():.1f} on average",
        f"the preprocessing departs from the checkpoint's own: {many} of {len(names)} pictures, worst "
        f"{names[worst]} with {values} (its cosine is {cosines[worst]:.6f})",
    )


def _tokens(
    wanted: npt.NDArray[np.int32],
    found: npt.NDArray[np.int32],
    differing: npt.NDArray[np.int64],
    cosines: Cosines,
    names: Sequence[str],
) -> Stage:
    if wanted.shape != found.shape:
        lengths = f"{found.shape[1]} tokens a text, expected {wanted.shape[1]}"
        return Stage("tokens", lengths, f"the tokenizer gives {lengths}")
    if not differing.any():
        return Stage("tokens", f"{len(names)} texts, every token id equal")
    worst, many = int(differing.argmax()), np.count_nonzero(differing)
    at = int(np.flatnonzero(wanted[worst] != found[worst])[0])
    return Stage(
        "tokens",
        f"{many} of {len(names)} texts differ; worst {names[worst]}: {differing[worst]} ids, the first at "
        f"position {at}: {found[worst, at]}, expected {wanted[worst, at]}",
        f"the tokenizer departs from the checkpoint's own: {many} of {len(names)} texts, worst {names[worst]} "
        f"with {differing[worst]} token ids (its cosine is {cosines[worst]:.6f})",
    )


def _tower(
    tower: str, wanted: Vectors, found: Vectors, names: Sequence[str], floor: float, overflow: str
) -> Stage:
    cosines = _cosines(wanted, found)
    worst = int(cosines.argmin())
    given = "pixels" if tower == "image" else "token ids"
    measured = _measured(cosines, floor, f", given the checkpoint's own {given}")
    name = f"{tower} tower"
    if cosines[worst] < floor and overflow:
        beyond = f"it leaves the range of float16, which ends at {LARGEST:,.0f}, in {overflow}"
        return Stage(
            name,
            f"{measured}; worst {names[worst]}: {beyond}",
            f"the {tower} tower gives no vector for {names[worst]}: {beyond}; export it in fp32",
        )
    if cosines[worst] < floor:
        return Stage(
            name,
            f"{measured}; worst {names[worst]}",
            f"the {tower} tower departs from the checkpoint's own although its inputs are equal: cosine "
            f"{cosines[worst]:.6f} for {names[worst]}, the floor is {floor}",
        )
    norms = np.linalg.norm(found, axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > _NORM_TOLERANCE:
        length = f"vector for {names[worst]} has L2 norm {norms[worst]:.6f}; expected 1"
        return Stage(name, f"{measured}; its {length}", f"the {tower} tower's {length}")
    return Stage(name, measured)


def _whole(what: str, cosines: Cosines, names: Sequence[str], floor: float) -> Stage:
    worst = int(cosines.argmin())
    measured = _measured(cosines, floor, ", the whole way")
    if cosines[worst] >= floor:
        return Stage(what, measured)
    return Stage(
        what,
        f"{measured}; worst {names[worst]}",
        f"the vectors of {what} depart from the checkpoint's: cosine {cosines[worst]:.6f} for {names[worst]}, the "
        f"floor is {floor}",
    )


def _ranking(overlap: float, floor: float, pictures: int, texts: int) -> Stage:
    top = min(_TOP, pictures)
    measured = f"top-{top} overlap {overlap:.4f} (floor {floor}), {texts} texts over {pictures} pictures"
    if overlap >= floor:
        return Stage("ranking", measured)
    return Stage(
        "ranking",
        measured,
        f"the export ranks differently from the checkpoint: of the {top} best pictures of a text, {overlap:.1%} "
        f"are the same, the floor is {floor:.0%}",
    )


def _measured(cosines: Cosines, floor: float, how: str) -> str:
    return f"cosine {cosines.min():.6f} at least, {cosines.mean():.6f} on average (floor {floor}){how}"


def _differing(wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Count the values of each item that differ: int64 (N,); all of them if the shapes differ."""
    if wanted.shape != found.shape:
        return np.full(len(found), found[0].size, np.int64)
    count: npt.NDArray[np.int64] = (wanted != found).reshape(len(wanted), -1).sum(axis=1)
    return count


def _overlap(expected: Side, found: Side) -> float:
    """Return the mean share of each text's ten best pictures by one side that are also the other's."""
    one, other = _best(expected.text, expected.image), _best(found.text, found.image)
    both = [len(set(a) & set(b)) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    return float(np.mean(both)) / one.shape[1]


def _best(texts: Vectors, pictures: Vectors) -> npt.NDArray[np.intp]:
    scores = _unit(texts) @ _unit(pictures).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]


def _unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Scale vectors to norm 1; zeros for those with NaN or infinity."""
    x = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0).astype(np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(x, norms, out=np.zeros_like(x), where=norms != 0)
    return unit


def _cosines(a: Vectors, b: Vectors) -> Cosines:
    """Return the cosines row by row: float64 (N,); 0 for a vector of zeros, or one with NaN or infinity."""
    cosines: Cosines = (_unit(a) * _unit(b)).sum(axis=1)
    return cosines


def _rounded(value: float) -> float:
    """Round to nine decimals, and to at most 1: the rest is float64's rounding."""
    return min(1.0, round(float(value), 9))
