"""Find pictures by describing them.

    with clipdex.connect("localhost:8001", model="demo") as clip:
        query = clip.embed_texts(["a cat sleeping on a couch"])           # float32 (1, D)

    with clipdex.Index.open("photos.clipdex") as index:
        for hit in index.search(query, top_k=5)[0]:
            print(f"{hit.score:.3f} — {hit.path}")

Importing clipdex loads its errors alone; every other name loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import (
    AccessDenied,
    AddFailed,
    Cancelled,
    CardError,
    CheckpointError,
    ClipdexError,
    Closed,
    DeadlineExceeded,
    EngineUnreachable,
    ExportError,
    FingerprintMismatch,
    ImageError,
    IndexDamaged,
    IndexFault,
    IndexFormatError,
    IndexLocked,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
    ItemNotFound,
    LocalServerError,
    MissingExtra,
    ModelError,
    ModelNotFound,
    NoLocalFeatures,
    ParityError,
    PartFailed,
    PartLost,
    RequestRefused,
    ServerBusy,
    ServerError,
    ServerFault,
    ServerUnreachable,
    SinkError,
    SourceError,
)
from clipdex.version import __version__

if TYPE_CHECKING:
    from clipdex.apps.dump_files import (
        dump_faiss,
        dump_npy,
        dump_table,
    )
    from clipdex.apps.duplicates import (
        Duplicate,
        DuplicateGroup,
        Duplicates,
        find_duplicates,
        move_duplicates,
    )
    from clipdex.apps.retrieval import (
        index_local_images,
        retrieve_local,
    )
    from clipdex.base.exif import (
        Exif,
    )
    from clipdex.base.limits import (
        Limits,
    )
    from clipdex.base.records import (
        Failure,
        Picture,
    )
    from clipdex.client.batching import (
        Batcher,
    )
    from clipdex.client.client import (
        Client,
        connect,
    )
    from clipdex.client.held_models import (
        HeldModel,
        list_models,
    )
    from clipdex.collection.collection import (
        Collection,
    )
    from clipdex.collection.item import (
        Commit,
        Item,
        StoredItem,
    )
    from clipdex.index.compact import (
        compact_index,
    )
    from clipdex.index.hits import (
        Hit,
        Hits,
    )
    from clipdex.index.manifest import (
        Manifest,
    )
    from clipdex.index.merge import (
        Merged,
        merge_indexes,
    )
    from clipdex.index.reader import (
        Index,
        IndexInfo,
    )
    from clipdex.index.split import (
        Split,
        split_index,
    )
    from clipdex.index.verify import (
        Damage,
        VerifyReport,
        verify_index,
    )
    from clipdex.index.writer import (
        IndexWriter,
    )
    from clipdex.model.card import (
        ImageSpec,
        ModelCard,
        TextSpec,
    )
    from clipdex.model.embeddings import (
        Embeddings,
    )
    from clipdex.model.texts import (
        TextCut,
    )
    from clipdex.pipeline.departures import (
        Forgotten,
        Stranded,
        forget_pictures,
    )
    from clipdex.pipeline.index_pictures import (
        index_pictures,
    )
    from clipdex.pipeline.plan import (
        Plan,
        plan_run,
    )
    from clipdex.pipeline.refresh import (
        Refreshed,
        refresh_metadata,
    )
    from clipdex.pipeline.report import (
        Progress,
        RunReport,
    )
    from clipdex.search.grouping import (
        Grouping,
    )
    from clipdex.search.mixture import (
        Query,
        mix,
    )
    from clipdex.sources.census import (
        PassedOver,
    )
    from clipdex.sources.exclusion import (
        Exclusion,
    )
    from clipdex.sources.opening import (
        open_source,
        open_sources,
    )
    from clipdex.sources.source import (
        Folder,
        PathList,
        Source,
    )
    from clipdex.wire.credentials import (
        Credentials,
    )
    from clipdex.wire.servers.attempts import (
        RequestTiming,
    )
    from clipdex.wire.servers.retry_policy import (
        RetryPolicy,
    )

# The module of each name, loaded when the name is first used: every decode worker imports this package, too, and
# needs none of them.
_HOMES = {
    "dump_faiss": "clipdex.apps.dump_files",
    "dump_npy": "clipdex.apps.dump_files",
    "dump_table": "clipdex.apps.dump_files",
    "Duplicate": "clipdex.apps.duplicates",
    "DuplicateGroup": "clipdex.apps.duplicates",
    "Duplicates": "clipdex.apps.duplicates",
    "find_duplicates": "clipdex.apps.duplicates",
    "move_duplicates": "clipdex.apps.duplicates",
    "index_local_images": "clipdex.apps.retrieval",
    "retrieve_local": "clipdex.apps.retrieval",
    "Exif": "clipdex.base.exif",
    "Limits": "clipdex.base.limits",
    "Failure": "clipdex.base.records",
    "Picture": "clipdex.base.records",
    "Batcher": "clipdex.client.batching",
    "Client": "clipdex.client.client",
    "connect": "clipdex.client.client",
    "HeldModel": "clipdex.client.held_models",
    "list_models": "clipdex.client.held_models",
    "Collection": "clipdex.collection.collection",
    "Commit": "clipdex.collection.item",
    "Item": "clipdex.collection.item",
    "StoredItem": "clipdex.collection.item",
    "compact_index": "clipdex.index.compact",
    "Hit": "clipdex.index.hits",
    "Hits": "clipdex.index.hits",
    "Manifest": "clipdex.index.manifest",
    "Merged": "clipdex.index.merge",
    "merge_indexes": "clipdex.index.merge",
    "Index": "clipdex.index.reader",
    "IndexInfo": "clipdex.index.reader",
    "Split": "clipdex.index.split",
    "split_index": "clipdex.index.split",
    "Damage": "clipdex.index.verify",
    "VerifyReport": "clipdex.index.verify",
    "verify_index": "clipdex.index.verify",
    "IndexWriter": "clipdex.index.writer",
    "ImageSpec": "clipdex.model.card",
    "ModelCard": "clipdex.model.card",
    "TextSpec": "clipdex.model.card",
    "Embeddings": "clipdex.model.embeddings",
    "TextCut": "clipdex.model.texts",
    "Forgotten": "clipdex.pipeline.departures",
    "Stranded": "clipdex.pipeline.departures",
    "forget_pictures": "clipdex.pipeline.departures",
    "Plan": "clipdex.pipeline.plan",
    "plan_run": "clipdex.pipeline.plan",
    "Progress": "clipdex.pipeline.report",
    "RunReport": "clipdex.pipeline.report",
    "index_pictures": "clipdex.pipeline.index_pictures",
    "Refreshed": "clipdex.pipeline.refresh",
    "refresh_metadata": "clipdex.pipeline.refresh",
    "Grouping": "clipdex.search.grouping",
    "Query": "clipdex.search.mixture",
    "mix": "clipdex.search.mixture",
    "PassedOver": "clipdex.sources.census",
    "Exclusion": "clipdex.sources.exclusion",
    "open_source": "clipdex.sources.opening",
    "open_sources": "clipdex.sources.opening",
    "Folder": "clipdex.sources.source",
    "PathList": "clipdex.sources.source",
    "Source": "clipdex.sources.source",
    "Credentials": "clipdex.wire.credentials",
    "RetryPolicy": "clipdex.wire.servers.retry_policy",
    "RequestTiming": "clipdex.wire.servers.attempts",
}


def __getattr__(name: str) -> Any:
    if name in ("aio", "testing"):
        return importlib.import_module(f"clipdex.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# A service says where log lines go; until it does, nowhere.
logging.getLogger("clipdex").addHandler(logging.NullHandler())

__all__ = [
    "AccessDenied",
    "AddFailed",
    "Batcher",
    "Cancelled",
    "CardError",
    "CheckpointError",
    "Client",
    "ClipdexError",
    "Closed",
    "Collection",
    "Commit",
    "Credentials",
    "Damage",
    "DeadlineExceeded",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Embeddings",
    "EngineUnreachable",
    "Exclusion",
    "Exif",
    "ExportError",
    "Failure",
    "FingerprintMismatch",
    "Folder",
    "Forgotten",
    "Grouping",
    "HeldModel",
    "Hit",
    "Hits",
    "ImageError",
    "ImageSpec",
    "Index",
    "IndexDamaged",
    "IndexFault",
    "IndexFormatError",
    "IndexInfo",
    "IndexLocked",
    "IndexNotFound",
    "IndexWriteError",
    "IndexWriter",
    "InvalidArgument",
    "Item",
    "ItemNotFound",
    "Limits",
    "LocalServerError",
    "Manifest",
    "Merged",
    "MissingExtra",
    "ModelCard",
    "ModelError",
    "ModelNotFound",
    "NoLocalFeatures",
    "ParityError",
    "PartFailed",
    "PartLost",
    "PassedOver",
    "PathList",
    "Picture",
    "Plan",
    "Progress",
    "Query",
    "Refreshed",
    "RequestRefused",
    "RequestTiming",
    "RetryPolicy",
    "RunReport",
    "ServerBusy",
    "ServerError",
    "ServerFault",
    "ServerUnreachable",
    "SinkError",
    "Source",
    "SourceError",
    "Split",
    "StoredItem",
    "Stranded",
    "TextCut",
    "TextSpec",
    "VerifyReport",
    "__version__",
    "compact_index",
    "connect",
    "dump_faiss",
    "dump_npy",
    "dump_table",
    "find_duplicates",
    "forget_pictures",
    "index_local_images",
    "index_pictures",
    "list_models",
    "merge_indexes",
    "mix",
    "move_duplicates",
    "open_source",
    "open_sources",
    "plan_run",
    "refresh_metadata",
    "retrieve_local",
    "split_index",
    "verify_index",
]
