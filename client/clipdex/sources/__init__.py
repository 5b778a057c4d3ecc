"""Where pictures come from: folders, lists of paths, tar files, tables. Each lists `FoundFile`s in its order."""

from clipdex.sources.opening import ledger_source, open_source, open_sources, retry_source
from clipdex.sources.source import Folder, PathList, Source

__all__ = ["Folder", "PathList", "Source", "ledger_source", "open_source", "open_sources", "retry_source"]
