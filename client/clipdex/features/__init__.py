"""Local features of an index's pictures: finding the one that a crop or a photo shows. docs/local-matching.md."""

from clipdex.features.decision import Fit
from clipdex.features.matching import Match, Matcher, Verified, match

__all__ = ["Fit", "Match", "Matcher", "Verified", "match"]
