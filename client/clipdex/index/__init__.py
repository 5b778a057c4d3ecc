"""The index directory: vectors in a flat file, everything else in SQLite. docs/index-format.md has the bytes.

Not public: docs/design.md lists what is.
"""

from clipdex.base.records import Failure, Picture
from clipdex.index.compact import compact_index
from clipdex.index.hits import Hit, Hits
from clipdex.index.manifest import Manifest
from clipdex.index.optimize import Optimized, optimize_index
from clipdex.index.parts import PartedIndex
from clipdex.index.reader import Index, IndexInfo
from clipdex.index.verify import Damage, VerifyReport, verify_index
from clipdex.index.writer import IndexWriter

__all__ = [
    "Damage",
    "Failure",
    "Hit",
    "Hits",
    "Index",
    "IndexInfo",
    "IndexWriter",
    "Manifest",
    "Optimized",
    "PartedIndex",
    "Picture",
    "VerifyReport",
    "compact_index",
    "optimize_index",
    "verify_index",
]
