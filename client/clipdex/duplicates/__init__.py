"""Pictures that are the same, look the same, or mean the same. docs/duplicates.md."""

from clipdex.duplicates.compare import MIN_SIMILARITY
from clipdex.duplicates.find import KINDS, MIN_COSINE, Duplicates, find_duplicates
from clipdex.duplicates.groups import Duplicate, DuplicateGroup
from clipdex.duplicates.move import Moved, move_back, move_duplicates
from clipdex.duplicates.moves import Move, moves_of
from clipdex.duplicates.sign import Signed, sign_index

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
