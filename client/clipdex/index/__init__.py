"""The index directory: vectors in a flat file, everything else in SQLite. docs/index-format.md has the bytes."""

from clipdex.index.manifest import Manifest
from clipdex.index.reader import Hit, Index
from clipdex.index.rows import Failure, Picture
from clipdex.index.writer import IndexWriter

__all__ = ["Failure", "Hit", "Index", "IndexWriter", "Manifest", "Picture"]
