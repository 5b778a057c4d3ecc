"""How pictures are decoded for a model, where that may be chosen: an index keeps to what it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from clipdex.base.errors import InvalidArgument
from clipdex.model.formats.icc import IccUse, check_icc

__all__ = ["EXACT", "DecodeUse", "PictureRules", "check_decode"]

DecodeUse: TypeAlias = Literal["exact", "fast"]


def check_decode(use: str) -> DecodeUse:
    """Return `use` if it is exact or fast, else raise InvalidArgument."""
    if use not in get_args(DecodeUse):
        raise InvalidArgument(f"decode is {use!r}; expected exact or fast")
    return "fast" if use == "fast" else "exact"


@dataclass(frozen=True)
class PictureRules:
    """How pictures are decoded. Vectors of pictures decoded by different rules are not mixed.

    icc: "srgb" converts colours by the pictures' embedded profiles.
    decode: "fast" decodes a large JPEG at a half, a quarter or an eighth of its size, at least twice the model's.
    """

    icc: IccUse = "off"
    decode: DecodeUse = "exact"

    @classmethod
    def of(cls, icc: IccUse | None, decode: DecodeUse | None) -> PictureRules:
        """Make the rules from arguments of a caller, each None for its default. Raises InvalidArgument."""
        return cls(check_icc("off" if icc is None else icc), check_decode("exact" if decode is None else decode))


EXACT = PictureRules()
