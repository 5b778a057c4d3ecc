"""Approximate search through FAISS: faster, but not exact. docs/ann.md."""

from clipdex.ann.ann_index import AnnIndex, PartedAnn
from clipdex.ann.build import BuiltAnn, build_ann
from clipdex.index.side.ann_file import KINDS, AnnHeader, AnnRecall

__all__ = ["KINDS", "AnnHeader", "AnnIndex", "AnnRecall", "BuiltAnn", "PartedAnn", "build_ann"]
