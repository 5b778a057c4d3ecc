"""Approximate search through FAISS, for those who would give up exactness for speed. docs/ann.md."""

from clipdex.ann.build import BuiltAnn, build_ann
from clipdex.ann.search import AnnIndex
from clipdex.index.side.ann_file import KINDS, AnnHeader, AnnRecall

__all__ = ["KINDS", "AnnHeader", "AnnIndex", "AnnRecall", "BuiltAnn", "build_ann"]
