"""Duplicates: pictures with the same bytes, the same look or close vectors. See docs/duplicates.md."""

from clipdex.apps.duplicates.find import KINDS, MIN_COSINE, Duplicates, find_duplicates
from clipdex.apps.duplicates.groups import Duplicate, DuplicateGroup
from clipdex.apps.duplicates.move import Moved, move_back, move_duplicates
from clipdex.apps.duplicates.moves import Move, moves_of
from clipdex.apps.duplicates.sign import Signed, sign_index
from clipdex.looks.compare import MIN_SIMILARITY

__all__ = [
    "KINDS",
    "MIN_COSINE",
    "MIN_SIMILARITY",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Move",
    "Moved",
    "Signed",
    "find_duplicates",
    "move_back",
    "move_duplicates",
    "moves_of",
    "sign_index",
]
