"""Copies of indexes in buckets: pushed there in blocks named by their content, and pulled from there.

Not public: docs/design.md lists what is.
"""

from clipdex.apps.index_copies.pull import Pulled, pull_index
from clipdex.apps.index_copies.push import PushedCopy, push_index

__all__ = ["Pulled", "PushedCopy", "pull_index", "push_index"]
