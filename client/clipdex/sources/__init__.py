"""Sources of pictures: folders, lists of paths, tar files, tables. Each lists `FoundFile`s in its own order.

Not public: docs/design.md lists what is.
"""

from clipdex.sources.census import PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.opening import is_picture_glob, ledger_source, open_source, open_sources, retry_source
from clipdex.sources.source import Folder, PathList, Source

__all__ = [
    "Exclusion",
    "Folder",
    "PassedOver",
    "PathList",
    "Source",
    "is_picture_glob",
    "ledger_source",
    "open_source",
    "open_sources",
    "retry_source",
]
