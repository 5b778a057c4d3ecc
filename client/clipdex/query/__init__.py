"""What is asked for: parts that are mixed into one query, and answers whose near-duplicates are one hit."""

from clipdex.query.grouping import Grouping
from clipdex.query.mixture import Part, Query, mix
from clipdex.query.weights import weighted_name, weighted_text

__all__ = ["Grouping", "Part", "Query", "mix", "weighted_name", "weighted_text"]
