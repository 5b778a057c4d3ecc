"""The state of an index's local features and of the file of their neighbours: whether they have changed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from clipdex.index.files import identity
from clipdex.index.side.feature_file import FeatureFile
from clipdex.index.side.neighbour_footer import NEIGHBOURS_FILE

__all__ = ["features_state"]


def features_state(directory: Path) -> tuple[object, ...]:
    """Return what is another value once features were added, dropped or made anew, or their neighbours were.

    No commit of the index tells of it. Raises IndexFault if they cannot be read.
    """
    neighbours = identity(directory / NEIGHBOURS_FILE)
    file = FeatureFile.open(directory)
    if file is None:
        return (None, neighbours)
    with closing(file):
        return (file.identity, *file.count(), neighbours)
