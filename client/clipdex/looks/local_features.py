"""Local features: points of a picture that its crops, screenshots and photos of it share, and their surroundings.

`kind` "sift": RootSIFT, descriptors of 128 bytes, compared by their Euclidean distance. "orb": ORB, 32 bytes of
bits, compared by their Hamming distance; some fifteen times faster to make, and weaker.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.arguments import is_count
from clipdex.base.errors import InvalidArgument
from clipdex.base.extras import needs

__all__ = [
    "DEFAULT_KIND",
    "DEFAULT_MOST",
    "DEFAULT_SIDE",
    "DEFAULT_SIDES",
    "KINDS",
    "MOST_POINTS",
    "LocalFeatures",
    "Recipe",
    "extract",
    "opencv",
]

# By kind: the bytes of a descriptor.
KINDS = {"sift": 128, "orb": 32}

# By kind. SIFT doubles a picture before it looks for points, and ORB does not; the rest is measured:
# benchmarks/local_sides.py.
DEFAULT_SIDES = {"sift": 640, "orb": 1024}
DEFAULT_KIND, DEFAULT_MOST = "sift", 500
DEFAULT_SIDE = DEFAULT_SIDES[DEFAULT_KIND]
MOST_POINTS = 10_000
LARGEST_SIDE = 4096
_LEAST_SIDE = 64
_LEAST_EXTRACTED = 12  # pixels: a smaller picture has no room for a point with its surroundings

_CELLS = 8  # along each axis, for spreading the points
_CANDIDATES = 4  # points looked at for each that is kept
_ROOT_SCALE = 512.0

_HEADER = struct.Struct("<III")  # width, height, points

_Floats = npt.NDArray[np.float32]
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """How features are made: of which kind, at most how many of a picture, which is made at most so large first.

    Raises InvalidArgument if one of them is out of range.
    """

    kind: str = DEFAULT_KIND
    most: int = DEFAULT_MOST
    side: int = DEFAULT_SIDE

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidArgument(f"kind is {self.kind!r:.60}; expected {' or '.join(KINDS)}")
        for name, least, largest in (("most", 1, MOST_POINTS), ("side", _LEAST_SIDE, LARGEST_SIDE)):
            value = getattr(self, name)
            if not is_count(value, least) or value > largest:
                raise InvalidArgument(
                    f"{name} is {value!r:.60}; expected a whole number from {least:,} to {largest:,}"
                )

    @property
    def width(self) -> int:
        """The bytes of a descriptor."""
        return KINDS[self.kind]

    def but(self, kind: str | None, most: int | None, side: int | None) -> Recipe:
        """Return this recipe with what is given in place of its own. Raises InvalidArgument.

        Another kind without a side has the default one of that kind.
        """
        usual = self.side if kind in (None, self.kind) else DEFAULT_SIDES.get(str(kind), DEFAULT_SIDE)
        return Recipe(
            self.kind if kind is None else kind,
            self.most if most is None else most,
            usual if side is None else side,
        )

    def __str__(self) -> str:
        return f"{self.kind}, at most {self.most:,} points at {self.side:,} pixels"


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """The local features of one picture, the most distinctive points first, spread over the picture.

    points: float32 (n, 2), x and y in pixels of the upright picture in its full size; the middle of its first
        pixel is 0, 0. scales: float32 (n,), the diameters of their surroundings in those pixels. angles: float32
        (n,), radians. descriptors: uint8 (n, 128) of SIFT, (n, 32) of ORB. size: width and height of the picture.
    """

    points: _Floats
    scales: _Floats
    angles: _Floats
    descriptors: _Bytes
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    def keypoints(self) -> bytes:
        """Return x, y, scale and angle of each point: float32, little-endian, 16 bytes a point."""
        table = np.column_stack([self.points, self.scales, self.angles])
        return np.ascontiguousarray(table, "<f4").tobytes()

    def to_bytes(self) -> bytes:
        """Encode them for `from_bytes`."""
        head = _HEADER.pack(*self.size, len(self))
        return head + self.keypoints() + np.ascontiguousarray(self.descriptors).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, width: int) -> LocalFeatures:
        """Decode what `to_bytes` made. width: the bytes of a descriptor. Raises ValueError if it is not that."""
        if len(data) < _HEADER.size:
            raise ValueError("there is no header")
        *size, count = _HEADER.unpack_from(data)
        end = _HEADER.size + 16 * count
        return cls.of(data[_HEADER.size : end], data[end:], (size[0], size[1]), count, width)

    @classmethod
    def of(
        cls, keypoints: bytes, descriptors: bytes, size: tuple[int, int], count: int, width: int
    ) -> LocalFeatures:
        """Make them of what is stored. Raises ValueError if it has other lengths than so many points need."""
        if len(keypoints) != 16 * count or len(descriptors) != width * count:
            raise ValueError(
                f"{count} points have {len(keypoints)} and {len(descriptors)} bytes; expected {16 * count} and "
                f"{width * count}"
            )
        table = np.frombuffer(keypoints, "<f4").reshape(count, 4).astype(np.float32, copy=False)
        found = np.frombuffer(descriptors, np.uint8).reshape(count, width)
        return cls(table[:, :2], table[:, 2], table[:, 3], found, size)


def opencv() -> Any:
    """Import OpenCV. Raises MissingExtra if it is not installed, or cannot be imported."""
    with needs("cv2", "opencv-python-headless", "features", "finding local features"):
        import cv2
    return cv2


def extract(
    image: Image.Image,
    *,
    kind: str = DEFAULT_KIND,
    most: int = DEFAULT_MOST,
    side: int | None = None,
    size: tuple[int, int] | None = None,
) -> LocalFeatures:
    """Find the local features of an upright RGB picture.

    Args:
        kind: "sift" or "orb".
        most: the most points to keep. They are spread over the picture, so that a crop has its share.
        side: a picture whose longer side has more pixels is made so small first (default 640; 1,024 of ORB). A
            smaller one stays as it is.
        size: width and height of the full picture, if `image` was decoded smaller than it is.

    Raises:
        InvalidArgument: one of these is out of range.
        MissingExtra: OpenCV is not installed: the extra `features` brings it.
        MemoryError: there is not enough memory.
    """
    recipe = Recipe(most=most).but(kind, None, side)
    cv2 = opencv()
    full = image.size if size is None else size
    grey = _bounded(image, recipe.side)
    if min(grey.shape) < _LEAST_EXTRACTED:
        return LocalFeatures.of(b"", b"", full, 0, recipe.width)
    found, raw = _detected(cv2, recipe, grey)
    if raw is None or not len(found):
        return LocalFeatures.of(b"", b"", full, 0, recipe.width)
    table = np.array([(*p.pt, p.size, p.angle, p.response) for p in found], np.float32)
    chosen = _spread(table, grey.shape, most)
    table, raw = table[chosen], raw[chosen]
    factors = np.array([full[0] / grey.shape[1], full[1] / grey.shape[0]], np.float32)
    points = (table[:, :2] + np.float32(0.5)) * factors - np.float32(0.5)
    scales = table[:, 2] * np.float32(math.sqrt(float(factors[0] * factors[1])))
    angles = np.radians(table[:, 3]).astype(np.float32)
    return LocalFeatures(points, scales, angles, _rooted(raw) if kind == "sift" else raw, full)


def _bounded(image: Image.Image, side: int) -> _Bytes:
    """Return the greys of a picture, at most `side` wide and high: uint8 (h, w)."""
    grey = image if image.mode == "L" else image.convert("L")
    scale = side / max(grey.size)
    if scale < 1:
        width, height = (max(1, round(scale * pixels)) for pixels in grey.size)
        grey = grey.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(grey, np.uint8)


def _detected(cv2: Any, recipe: Recipe, grey: _Bytes) -> tuple[Any, Any]:
    """Return OpenCV's key points and descriptors, more than are wanted. Raises MemoryError."""
    looked_at = _CANDIDATES * recipe.most
    make = cv2.SIFT_create if recipe.kind == "sift" else cv2.ORB_create
    try:
        return make(nfeatures=looked_at).detectAndCompute(grey, None)  # type: ignore[no-any-return]
    except cv2.error as exc:
        if getattr(exc, "code", None) == cv2.Error.StsNoMem:
            raise MemoryError("OpenCV has not enough memory") from exc
        raise


def _spread(table: _Floats, shape: tuple[int, ...], most: int) -> npt.NDArray[np.int64]:
    """Choose points: half are the strongest of the picture, the others the strongest of their surroundings.

    The strongest alone may all be in one corner, and a crop of another would have none.

    table: float32 (n, 5): x, y, diameter, angle, strength. shape: height and width. -> rows of it, best first.
    """
    order = np.lexsort((table[:, 0], table[:, 1], -table[:, 4]))  # equal strengths: by place, so that it repeats
    cells = np.floor(table[order, :2] * _CELLS / np.array(shape[1::-1], np.float32)).astype(np.int64)
    cell = np.clip(cells[:, 1], 0, _CELLS - 1) * _CELLS + np.clip(cells[:, 0], 0, _CELLS - 1)
    by_cell = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[by_cell], np.arange(_CELLS * _CELLS))
    rank = np.empty(len(order), np.int64)  # of a point in its cell
    rank[by_cell] = np.arange(len(order)) - starts[cell[by_cell]]
    by_place = np.argsort(rank, kind="stable")
    both = np.empty(2 * len(order), np.int64)  # the two orders in turn
    both[0::2], both[1::2] = np.arange(len(order)), by_place
    _, first = np.unique(both, return_index=True)
    chosen: npt.NDArray[np.int64] = order[both[np.sort(first)][:most]]
    return chosen


def _rooted(raw: npt.NDArray[np.float32]) -> _Bytes:
    """Turn SIFT's descriptors into RootSIFT: the root of each share of the sum, times 512, as uint8."""
    sums = raw.sum(axis=1, keepdims=True)
    shares = np.divide(raw, sums, out=np.zeros_like(raw, np.float32), where=sums > 0)
    rooted: _Bytes = np.minimum(np.rint(np.sqrt(shares) * _ROOT_SCALE), 255).astype(np.uint8)
    return rooted
