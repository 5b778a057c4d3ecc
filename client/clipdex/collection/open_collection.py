"""Opening a collection: its client, its index, and the lock of the index."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from clipdex.base.arguments import PathLike, as_path, is_count
from clipdex.base.errors import IndexNotFound, InvalidArgument
from clipdex.client.client import Client, connect
from clipdex.collection.decoding import Decoding
from clipdex.index.create import put_back
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import is_parted, manifest_of
from clipdex.index.reader import Index
from clipdex.index.side.feature_file import make_features
from clipdex.index.writer import IndexWriter
from clipdex.looks.local_features import Recipe, opencv
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse, PictureRules

__all__ = ["Lock", "Opened", "check_connection", "open_parts"]

Lock: TypeAlias = Literal["held", "per_commit"]


@dataclass
class Opened:
    """The parts of a collection.

    own_client: the client is closed with it. write: opens the index for writing. local_features: as
    `Collection.open` has it.
    """

    index: Index
    client: Client | None
    own_client: bool
    write: Callable[[], IndexWriter]
    writer: IndexWriter | None
    decoding: Decoding
    local_features: bool | None


def open_parts(
    *,
    index: PathLike,
    server: Any,
    model: str | None,
    client: Client | None,
    read_only: bool,
    dtype: str,
    icc: IccUse | None,
    decode: DecodeUse | None,
    lock: Lock,
    decode_workers: int,
    thumbnails: bool,
    local_features: bool | None,
    exif: bool,
    filter_timeout_s: float,
    settings: dict[str, Any],
) -> Opened:
    """Open the parts of a collection from the arguments of `Collection.open`; if it raises, nothing stays open."""
    directory = Path(os.path.abspath(as_path(index, "the path of an index")))  # whatever folder becomes current
    if lock not in get_args(Lock):
        raise InvalidArgument(f"lock is {lock!r:.60}; expected 'held' or 'per_commit'")
    check_connection(server, model, client, settings, decode_workers)
    if local_features is not None and not isinstance(local_features, bool):
        raise InvalidArgument(f"local_features is {local_features!r:.60}; expected True, False or None")
    making = local_features is True and not read_only
    if making:
        opencv()  # before anything is opened or created
    if not read_only:
        if is_parted(directory):
            raise InvalidArgument(
                f"{directory} is an index of parts, which a Collection does not write to: open it with "
                "read_only=True, or make one index of it with  clipdex merge"
            )
        put_back(directory)
    manifest = manifest_of(directory) if os.path.lexists(directory) else None
    if manifest is None and (read_only or (client is None and server is None)):
        how = "" if read_only else "; give server= or client= to create it, so that its model is known"
        raise IndexNotFound(f"{directory}: there is no such index{how}")
    own = client is None and server is not None
    if own:
        client = connect(server, model=model or (manifest.model if manifest else None), **settings)
    writer, opened = None, None
    try:
        write = partial(_writer, directory, client, manifest, dtype, icc, decode, create=True)
        if not read_only:
            writer = write()
        if making:
            make_features(directory, Recipe())
        opened = Index.open(directory, filter_timeout_s=filter_timeout_s)
        if client is not None:
            opened.require(client.card)
        if read_only or lock == "per_commit":
            if writer is not None:
                writer.close()
            writer = None
        # From here on the index must stay, and of this model.
        again = partial(_writer, directory, client, opened.manifest, dtype, None, None, create=False)
        spec = None if client is None else client.card.image
        decoding = Decoding(spec, opened.manifest.rules, decode_workers, thumbnails and not read_only, exif)
        return Opened(opened, client, own, again, writer, decoding, local_features)
    except BaseException:
        for part in (opened, writer, client if own else None):
            if part is not None:
                part.close()
        raise


def check_connection(
    server: Any, model: str | None, client: Client | None, settings: dict[str, Any], decode_workers: int
) -> None:
    """Raise InvalidArgument if the arguments of `Collection.open` for a client contradict each other."""
    if not is_count(decode_workers, 0):
        raise InvalidArgument(f"decode_workers is {decode_workers!r:.60}; expected a whole number, 0 or more")
    if client is not None and not isinstance(client, Client):
        raise InvalidArgument(f"client is {client!r:.60}; expected a Client: make one with clipdex.connect")
    if client is not None and (server is not None or model is not None or settings):
        raise InvalidArgument("client= and settings of a connection are both given; give one of them")
    if server is None and (model is not None or settings):
        raise InvalidArgument("settings of a connection are given, but no server= to connect to")


def _writer(
    directory: Path,
    client: Client | None,
    manifest: Manifest | None,
    dtype: str,
    icc: IccUse | None,
    decode: DecodeUse | None,
    *,
    create: bool,
) -> IndexWriter:
    """Open the index for writing; create it if `create` and there is a client, which names the model.

    Raises:
        FingerprintMismatch: it holds another model's vectors.
        InvalidArgument: it was created with another `icc` or `decode`.
        IndexFault: as `IndexWriter` raises it.
    """
    rules = PictureRules.of(icc, decode)
    writer = (
        IndexWriter(directory)
        if client is None or not create
        else IndexWriter.open_or_create(
            directory, manifest or Manifest.of(client.card, dtype, rules.icc, rules.decode)
        )
    )
    try:
        if client is not None:
            writer.manifest.require(client.card, directory)
        if manifest is not None:
            writer.manifest.require_same(manifest, directory)
        writer.manifest.require_rules(icc, decode, directory)
    except BaseException:
        writer.close()
        raise
    return writer
