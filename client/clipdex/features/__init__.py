"""Local features of an index's pictures, and matching with them. docs/local-features.md.

Not public: docs/design.md lists what is.
"""

from clipdex.features.matching import Match, Matcher, match

__all__ = ["Match", "Matcher", "match"]
