"""The index directory: vectors in a flat file, everything else in SQLite. docs/index-format.md has the bytes."""

from clipdex.index.compact import compact_index
from clipdex.index.manifest import Manifest
from clipdex.index.optimize import Optimized, optimize_index
from clipdex.index.reader import Hit, Index, IndexInfo
from clipdex.index.rows import Failure, Picture
from clipdex.index.verify import Damage, VerifyReport, verify_index
from clipdex.index.writer import IndexWriter

__all__ = [
    "Damage",
    "Failure",
    "Hit",
    "Index",
    "IndexInfo",
    "IndexWriter",
    "Manifest",
    "Optimized",
    "Picture",
    "VerifyReport",
    "compact_index",
    "optimize_index",
    "verify_index",
]
