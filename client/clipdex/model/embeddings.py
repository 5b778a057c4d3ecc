"""Arrays of vectors that carry the fingerprint of their embedding space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from clipdex.base.arrays import Array

__all__ = ["Embeddings"]


class Embeddings(np.ndarray[Any, np.dtype[np.float32]]):
    """A float32 array, (N, D) or (D,), of unit vectors, with the fingerprint of the model that made them.

    Indexing, slicing, reshaping, copying and pickling keep the fingerprint. Results of arithmetic are plain arrays
    without one: a mean over two spaces belongs to neither.
    """

    fingerprint: str | None

    @classmethod
    def of(cls, vectors: Array, fingerprint: str) -> Embeddings:
        """Make a view of the vectors, as float32, with this fingerprint."""
        made = np.asarray(vectors, dtype=np.float32).view(cls)
        made.fingerprint = fingerprint
        return made

    def __array_finalize__(self, source: object) -> None:
        self.fingerprint = getattr(source, "fingerprint", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        given = options.get("out", ())
        if given:
            options["out"] = tuple(_plain(each) for each in given)
        result = getattr(ufunc, method)(*(_plain(each) for each in inputs), **options)
        for each in (*given, *(inputs[:1] if method == "at" else ())):  # changed in place: other numbers now
            if isinstance(each, Embeddings):
                each.fingerprint = None
        return given[0] if len(given) == 1 and given[0] is not None else result

    def __setitem__(self, where: Any, values: Any) -> None:
        self.view(np.ndarray)[where] = _plain(values)
        if getattr(values, "fingerprint", None) != self.fingerprint:
            self.fingerprint = None

    def dot(self, other: Any, *out: Any) -> Any:
        """Do as `numpy.ndarray.dot`, on plain arrays."""
        return _plain(self).dot(_plain(other), *out)

    def __array_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: Iterable[Any], options: Mapping[str, Any]
    ) -> Any:
        return function(*map(_plain, args), **{name: _plain(value) for name, value in options.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (np.asarray(self), self.fingerprint)


def _plain(value: Any) -> Any:
    """Convert to plain arrays without fingerprints, inside lists and tuples too."""
    if isinstance(value, Embeddings):
        return value.view(np.ndarray)
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _restored(vectors: Array, fingerprint: str | None) -> Embeddings:
    made = vectors.view(Embeddings)
    made.fingerprint = fingerprint
    return made
