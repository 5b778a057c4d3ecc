"""Approximate search through FAISS, for those who would give up exactness for speed. docs/ann.md."""

from clipdex.ann.ann_index import AnnIndex
from clipdex.ann.build import BuiltAnn, build_ann
from clipdex.index.side.ann_file import KINDS, AnnHeader, AnnRecall

__all__ = ["KINDS", "AnnHeader", "AnnIndex", "AnnRecall", "BuiltAnn", "build_ann"]
