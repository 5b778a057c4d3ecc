"""Exact top-k over unit vectors, queries mixed from several parts, and grouping of near-duplicates.

Not public: docs/design.md lists what is.
"""

from clipdex.search.grouping import Grouping
from clipdex.search.mixture import Part, Query, mix, weighted_name, weighted_text

__all__ = ["Grouping", "Part", "Query", "mix", "weighted_name", "weighted_text"]
