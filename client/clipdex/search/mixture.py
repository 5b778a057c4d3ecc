"""Queries mixed from several weighted texts and pictures into one vector.

    query = Query().plus(text="beach").minus(text="people").plus(image="ref.jpg", weight=0.5)
    hits = index.search(query.embed(clip), top_k=10)[0]

The vector is the sum of the parts' unit vectors, each times its weight, divided by its length.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from clipdex.base.arguments import is_number
from clipdex.base.arrays import Array, Vectors
from clipdex.base.counting import counted
from clipdex.base.errors import FingerprintMismatch, InvalidArgument
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.images import ImageSource
from clipdex.model.picture_rules import EXACT, PictureRules

if TYPE_CHECKING:  # an index that is searched for more like its own pictures needs no client
    from clipdex.client.client import Client

__all__ = ["Part", "Query", "mix", "weighted_name", "weighted_text"]

# If the sum is shorter than this share of the weights' sum, it is only rounding, of float16 rows at worst.
_LEAST_LENGTH = 1e-3


class Pictures(Protocol):
    """The part of an index that a query needs for the pictures it names. `clipdex.Index` has it."""

    @property
    def manifest(self) -> Any:
        """The index's manifest; its `rules` say how its pictures were decoded."""
        ...

    def require(self, card: ModelCard) -> None:
        """Raise FingerprintMismatch unless this model made the index."""
        ...

    def row(self, picture: Any) -> int:
        """Find the row of a picture, given its path or its row."""
        ...

    def vector(self, picture: Any) -> Array:
        """Read the vector of a picture, given its path or its row: float32 (D,)."""
        ...


@dataclass(frozen=True)
class Part:
    """One part of a query. value: a text; a picture, as `embed_images` takes it; or a row or path of the index."""

    kind: Literal["text", "image", "like"]
    value: Any
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (is_number(self.weight) and math.isfinite(self.weight) and self.weight):
            raise InvalidArgument(f"a part of the query has the weight {self.weight!r}; expected a number, not 0")
        if self.kind == "text" and not (isinstance(self.value, str) and self.value.strip()):
            raise InvalidArgument("a text of the query is empty; say what the pictures should show")

    def __str__(self) -> str:
        if self.kind == "text":
            return str(self.value)
        if isinstance(self.value, int):
            return f"row {self.value}"
        return os.fspath(self.value) if isinstance(self.value, (str, os.PathLike)) else "picture"


@dataclass(frozen=True)
class Query:
    """A query of several parts. It is immutable: `plus` and `minus` return a new one."""

    parts: tuple[Part, ...] = ()

    def plus(
        self,
        *,
        text: str | None = None,
        image: ImageSource | None = None,
        like: int | str | os.PathLike[str] | None = None,
        weight: float = 1.0,
    ) -> Query:
        """Add a part: a text, a picture (see `open_image`), or a row or path of the index."""
        given: list[Part] = []
        if text is not None:
            given.append(Part("text", text, weight))
        if image is not None:
            given.append(Part("image", image, weight))
        if like is not None:
            given.append(Part("like", like, weight))
        if len(given) != 1:
            raise InvalidArgument(f"a part of a query is one of text, image and like; {len(given)} were given")
        return Query((*self.parts, given[0]))

    def minus(
        self,
        *,
        text: str | None = None,
        image: ImageSource | None = None,
        like: int | str | os.PathLike[str] | None = None,
        weight: float = 1.0,
    ) -> Query:
        """Add a part with negative weight: `plus` with the weight negated."""
        return self.plus(text=text, image=image, like=like, weight=-weight if is_number(weight) else weight)

    @property
    def texts(self) -> list[str]:
        """The texts to embed, in order."""
        return [part.value for part in self.parts if part.kind == "text"]

    @property
    def images(self) -> list[ImageSource]:
        """The pictures to embed, in order."""
        return [part.value for part in self.parts if part.kind == "image"]

    def embed(self, client: Client | None = None, index: Pictures | None = None) -> Vectors:
        """Embed the parts and mix them -> float32 (1, D) of norm 1.

        Args:
            client: embeds texts and pictures; not needed if there are none.
            index: has the pictures of `like`; not needed if there are none.

        Raises:
            InvalidArgument: there are no parts, the client or index is missing, or the parts cancel out.
            FingerprintMismatch: the client's model is not the index's.
            ImageError: a picture cannot be decoded.
            ServerError: the server did not answer.
        """
        of_texts = of_images = None
        if self.texts or self.images:
            if client is None:
                raise InvalidArgument("the query has texts or pictures to embed, but no client was given")
            if index is not None:
                index.require(client.card)
            of_texts = client.embed_texts(self.texts) if self.texts else None
            rules: PictureRules = EXACT if index is None else index.manifest.rules
            if self.images:
                of_images = client.embed_images(self.images, icc=rules.icc, decode=rules.decode)
        return self.mixed(of_texts, of_images, index)

    def mixed(self, texts: Array | None, images: Array | None, index: Pictures | None = None) -> Vectors:
        """Mix parts whose texts and pictures are already embedded: (n, D) each, in the order of the parts."""
        queues = {"text": iter(() if texts is None else texts), "image": iter(() if images is None else images)}
        vectors = []
        for part in self.parts:
            if part.kind != "like":
                vectors.append(next(queues[part.kind]))
            elif index is None:
                raise InvalidArgument("the query has a picture of an index (like), but no index was given")
            else:
                vectors.append(index.vector(part.value))
        mixed = mix(vectors, [part.weight for part in self.parts])
        spaces = {getattr(vector, "fingerprint", None) for vector in vectors}
        if len(spaces - {None}) > 1:
            raise FingerprintMismatch(
                "the parts of the query were embedded by different models; embed them with the same one"
            )
        space = spaces.pop()
        return mixed if space is None or spaces else Embeddings.of(mixed, space)

    def liked_rows(self, index: Pictures) -> list[int]:
        """List the rows that `like` names, which are usually left out of the results."""
        return [index.row(part.value) for part in self.parts if part.kind == "like"]

    def __str__(self) -> str:
        words = ""
        for part in self.parts:
            sign = "− " if part.weight < 0 else "+ " if words else ""
            factor = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} × "
            words += f" {sign}{factor}{part}"
        return words.strip()


def mix(vectors: Sequence[Array], weights: Sequence[float]) -> Vectors:
    """Mix n vectors of D numbers by n weights -> float32 (1, D): the weighted sum of the unit vectors, normalised.

    Raises:
        InvalidArgument: there are none, their widths differ, one is zero or not finite, or they cancel out.
        FingerprintMismatch: they are from different models.
    """
    if not isinstance(vectors, (Sequence, np.ndarray)) or not isinstance(weights, (Sequence, np.ndarray)):
        raise InvalidArgument("expected a list of vectors and a list of weights, one for each")
    if not all(is_number(weight) for weight in weights):
        raise InvalidArgument("a weight of the query is not a number")
    if not len(vectors) or len(vectors) != len(weights):
        parts, given = counted(len(vectors), "part"), counted(len(weights), "weight")
        raise InvalidArgument(f"a query has {parts} and {given}; expected one for each, and at least one")
    spaces = {getattr(vector, "fingerprint", None) for vector in vectors}
    if len(spaces - {None}) > 1:
        raise FingerprintMismatch("the parts of the query were embedded by different models; use one for all")
    shapes = {np.shape(vector) for vector in vectors}
    if len(shapes) != 1 or np.ndim(vectors[0]) != 1:
        raise InvalidArgument(f"the parts of a query have the shapes {sorted(shapes)}; expected one, (D,)")
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise InvalidArgument("a part of the query is a vector of zeros or contains NaN: it has no direction")
    factors = np.asarray(weights, dtype=np.float64)
    total = factors @ (wide / lengths[:, None])
    length = float(np.linalg.norm(total))
    if not length > _LEAST_LENGTH * float(np.abs(factors).sum()):
        raise InvalidArgument("the parts of the query cancel each other out, and nothing is left to search for")
    query: Vectors = (total / length).astype(np.float32)[None]
    space = spaces.pop() if len(spaces) == 1 else None
    return query if space is None else Embeddings.of(query, space)


_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_WEIGHTED = re.compile(rf"(.*):({_NUMBER})", re.DOTALL)


def weighted_text(word: str) -> tuple[str, float]:
    """Split a text from its weight -> (text, weight), weight 1 if there is none.

    A weight is a number after the last colon; directly after a digit only if it has a decimal point. If a text
    itself ends like a weight, another must be added.
    Example: beach:0.5 -> beach, 0.5; ratio 16:9 -> ratio 16:9, 1; ratio 16:9:0.5 -> ratio 16:9, 0.5

    Raises:
        InvalidArgument: the text is empty, or the weight is 0 or out of range.
    """
    found = _WEIGHTED.fullmatch(word)
    # 16:9 and 12:30 are part of the text.
    if found and found[1][-1:].isdigit() and "." not in found[2]:
        found = None
    return _split(word, found)


def weighted_name(word: str) -> tuple[str, float]:
    """Split the name of a file, or a row, from its weight -> (name, weight), weight 1 if there is none.

    Example: a.jpg:0.5 -> a.jpg, 0.5; 17:2 -> 17, 2

    Raises:
        InvalidArgument: the name is empty, or the weight is 0 or out of range.
    """
    return _split(word, _WEIGHTED.fullmatch(word))


def _split(word: str, found: re.Match[str] | None) -> tuple[str, float]:
    name, weight = (found[1], float(found[2])) if found else (word, 1.0)
    if not name.strip():
        raise InvalidArgument(f"a part of the query is empty ({word!r}); say what the pictures should show")
    if not 1e-6 <= abs(weight) <= 1e6:
        raise InvalidArgument(
            f"the weight of {name!r} is {weight:g}; expected a number from 0.000001 to 1000000 "
            f"(if it is not meant as a weight, add one: {word}:1.0)"
        )
    return name, weight
