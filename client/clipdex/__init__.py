"""Find pictures by describing them.

    with clipdex.connect("localhost:8001", model="demo") as clip:
        query = clip.embed_texts(["a cat sleeping on a couch"])           # float32 (1, D)

    with clipdex.Index.open("photos.clipdex") as index:
        for hit in index.search(query, top_k=5)[0]:
            print(f"{hit.score:.3f} — {hit.path}")

Importing clipdex loads numpy and Pillow; the network, the tokenizer and onnxruntime are loaded when used.
"""

from __future__ import annotations

from clipdex.card import ImageSpec, ModelCard, TextSpec
from clipdex.client import Client, connect
from clipdex.errors import (
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
    ServerError,
    ServerFault,
    ServerUnreachable,
    SourceError,
)
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
from clipdex.local import index_local_images, retrieve_local
from clipdex.pipeline import Limits, Plan, Progress, RunReport, index_pictures, plan_run
from clipdex.sources import Folder, PathList, Source, open_source, open_sources
from clipdex.version import __version__

__all__ = [
    "AccessDenied",
    "Cancelled",
    "CardError",
    "CheckpointError",
    "Client",
    "ClipdexError",
    "Damage",
    "DeadlineExceeded",
    "ExportError",
    "Failure",
    "FingerprintMismatch",
    "Folder",
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
    "PathList",
    "Picture",
    "Plan",
    "Progress",
    "RequestRefused",
    "RunReport",
    "ServerError",
    "ServerFault",
    "ServerUnreachable",
    "Source",
    "SourceError",
    "TextSpec",
    "VerifyReport",
    "__version__",
    "compact_index",
    "connect",
    "index_local_images",
    "index_pictures",
    "open_source",
    "open_sources",
    "plan_run",
    "retrieve_local",
    "verify_index",
]
