"""Find pictures by describing them.

    with clipdex.connect("localhost:8001", model="demo") as clip:
        query = clip.embed_texts(["a cat sleeping on a couch"])           # float32 (1, D)

    with clipdex.Index.open("photos.clipdex") as index:
        for hit in index.search(query, top_k=5)[0]:
            print(f"{hit.score:.3f} — {hit.path}")

Importing clipdex loads numpy and Pillow; the network, the tokenizer and onnxruntime are loaded when used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import (
    AccessDenied,
    Cancelled,
    CardError,
    CheckpointError,
    ClipdexError,
    DeadlineExceeded,
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
    LocalServerError,
    MissingExtra,
    ModelError,
    ModelNotFound,
    ParityError,
    RequestRefused,
    ServerBusy,
    ServerError,
    ServerFault,
    ServerUnreachable,
    SourceError,
)
from clipdex.client.batching import Batcher
from clipdex.client.client import Client, connect
from clipdex.index import (
    Damage,
    Failure,
    Hit,
    Index,
    IndexInfo,
    IndexWriter,
    Manifest,
    Picture,
    VerifyReport,
    compact_index,
    verify_index,
)
from clipdex.model.card import ImageSpec, ModelCard, TextSpec
from clipdex.model.embeddings import Embeddings
from clipdex.model.text_cut import TextCut
from clipdex.pipeline import (
    Forgotten,
    Limits,
    Plan,
    Progress,
    RunReport,
    Stranded,
    forget_pictures,
    index_pictures,
    plan_run,
)
from clipdex.search import Grouping, Query, mix
from clipdex.sources import Exclusion, Folder, PassedOver, PathList, Source, open_source, open_sources
from clipdex.version import __version__
from clipdex.wire import Credentials, RequestTiming, RetryPolicy

if TYPE_CHECKING:
    from clipdex.apps.dump import dump_faiss, dump_npy, dump_table
    from clipdex.apps.duplicates import Duplicate, DuplicateGroup, Duplicates, find_duplicates, move_duplicates
    from clipdex.apps.retrieve import index_local_images, retrieve_local

# Imported when they are used: every decode worker imports this package, and its memory is bounded.
_LATE = {
    "Duplicate": "apps.duplicates",
    "DuplicateGroup": "apps.duplicates",
    "Duplicates": "apps.duplicates",
    "dump_faiss": "apps.dump",
    "dump_npy": "apps.dump",
    "dump_table": "apps.dump",
    "find_duplicates": "apps.duplicates",
    "index_local_images": "apps.retrieve",
    "move_duplicates": "apps.duplicates",
    "retrieve_local": "apps.retrieve",
}


def __getattr__(name: str) -> Any:
    # `clipdex.aio` without importing it: asyncio is loaded when it is used.
    if name in ("aio", "testing"):
        return importlib.import_module(f"clipdex.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"clipdex.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# A service says where log lines go; until it does, nowhere.
logging.getLogger("clipdex").addHandler(logging.NullHandler())

__all__ = [
    "AccessDenied",
    "Batcher",
    "Cancelled",
    "CardError",
    "CheckpointError",
    "Client",
    "ClipdexError",
    "Credentials",
    "Damage",
    "DeadlineExceeded",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "Embeddings",
    "Exclusion",
    "ExportError",
    "Failure",
    "FingerprintMismatch",
    "Folder",
    "Forgotten",
    "Grouping",
    "Hit",
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
    "Limits",
    "LocalServerError",
    "Manifest",
    "MissingExtra",
    "ModelCard",
    "ModelError",
    "ModelNotFound",
    "ParityError",
    "PassedOver",
    "PathList",
    "Picture",
    "Plan",
    "Progress",
    "Query",
    "RequestRefused",
    "RequestTiming",
    "RetryPolicy",
    "RunReport",
    "ServerBusy",
    "ServerError",
    "ServerFault",
    "ServerUnreachable",
    "Source",
    "SourceError",
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
    "mix",
    "move_duplicates",
    "open_source",
    "open_sources",
    "plan_run",
    "retrieve_local",
    "verify_index",
]
