"""An index in other programs' formats. Row i of the vectors is line i of the table; tombstones are left out."""

from clipdex.apps.dump.table import dump_table
from clipdex.apps.dump.vectors import dump_faiss, dump_npy

__all__ = ["dump_faiss", "dump_npy", "dump_table"]
