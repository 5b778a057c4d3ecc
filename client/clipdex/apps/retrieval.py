"""The two functions clipdex began as: embed a folder, rank it for a prompt.

    embeddings, paths = index_local_images("data/images")
    for path, score in retrieve_local("a cat on a sofa", embeddings, paths, top_k=5):
        print(f"{score:.3f} — {path}")

They keep an index in the user's cache, so a folder is embedded once, and later only what is new.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import FingerprintMismatch, InvalidArgument, SourceError
from clipdex.client.client import DEFAULT_ADDRESS, Client, connect
from clipdex.index.reader import Index
from clipdex.model.assets import default_cache_dir
from clipdex.model.embeddings import Embeddings
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.pipeline.report import Progress
from clipdex.search.cosines import UnsoundRow
from clipdex.search.estimates import RowNorms
from clipdex.search.topk import top_k as exact_top_k
from clipdex.wire import Credentials

__all__ = ["cached_index", "connect_default", "index_directory", "index_local_images", "retrieve_local"]


def connect_default() -> Client:
    """Connect to $CLIPDEX_SERVER (default localhost:8001) and its model $CLIPDEX_MODEL (default its only one)."""
    return connect(
        os.environ.get("CLIPDEX_SERVER", DEFAULT_ADDRESS),
        model=os.environ.get("CLIPDEX_MODEL") or None,
        credentials=Credentials.from_environment(),
    )


def index_local_images(images_dir: str | os.PathLike[str]) -> tuple[Vectors | None, list[str]]:
    """Embed every picture below a folder -> (float32 (N, D) of norm 1, their N paths), or (None, []).

    The paths begin with `images_dir` as it was given. A folder that is missing or contains no picture gives
    (None, []); a picture that cannot be read is left out.

    Raises:
        ServerUnreachable: no server answers; see `connect_default`.
        IndexDamaged: a vector is not finite or not of norm 1.
    """
    with connect_default() as client:
        try:
            index = index_directory(client, Path(images_dir))
        except SourceError:
            return None, []
    with Index.open(index) as opened:
        rows, paths = _below(opened, Path(images_dir))
        if not rows:
            return None, []
        opened.require_sound(rows)
        return Embeddings.of(opened.vectors[rows], opened.manifest.fingerprint), paths


def retrieve_local(
    prompt: str, embeddings: Array | None, paths: Sequence[str], top_k: int = 5
) -> list[tuple[str, float]]:
    """Rank pictures for a prompt -> the `top_k` best paths with their cosine similarities, best first.

    Args:
        embeddings: (N, D), as `index_local_images` returns them; None gives no answers.

    Raises:
        InvalidArgument: `top_k` is below 1, embeddings and paths differ in number, or an embedding that could
            rank among the best is not finite or not of norm 1.
        ServerUnreachable: no server answers; see `connect_default`.
    """
    if top_k < 1:
        raise InvalidArgument(f"top_k is {top_k}; expected at least 1")
    if embeddings is None:
        return []
    if len(embeddings) != len(paths):
        raise InvalidArgument(
            f"there are {len(embeddings)} embeddings but {len(paths)} paths; expected one for each"
        )
    with connect_default() as client:
        query = client.embed_texts([prompt])
    made_by = getattr(embeddings, "fingerprint", None)
    if made_by is not None and made_by != client.card.fingerprint:
        raise FingerprintMismatch(
            f"the embeddings come from a model ({made_by[:12]}) other than the one that embeds the prompt, "
            f"{client.card.name} ({client.card.fingerprint[:12]}): index the folder again with that one"
        )
    if embeddings.shape[1] != query.shape[1]:
        raise InvalidArgument(
            f"the embeddings have {embeddings.shape[1]} dimensions, but the model's have {query.shape[1]}: "
            "they come from another model"
        )
    try:
        (found,) = exact_top_k(embeddings, query, top_k, norms=RowNorms(unit=True))
    except UnsoundRow as exc:
        raise InvalidArgument(
            f"embedding {exc.row}, of {paths[exc.row]}, is not finite or not of norm 1, so it cannot be "
            "ranked: use the embeddings that index_local_images returns"
        ) from exc
    return [(paths[row], float(score)) for score, row in zip(*found, strict=True)]


def index_directory(client: Client, images_dir: Path, progress: Callable[[Progress], None] | None = None) -> Path:
    """Bring the cached index of a folder up to date -> its path, `cached_index`."""
    index = cached_index(client, images_dir)
    index_pictures(client, images_dir, index, dtype="float32", progress=progress)
    return index


def cached_index(client: Client, images_dir: Path) -> Path:
    """Return where the index of a folder is kept.

    Each folder and model has its own below `clipdex.model.assets.default_cache_dir`.
    """
    folder = os.path.abspath(os.fsencode(images_dir))
    key = hashlib.sha256(client.card.fingerprint.encode() + b"\0" + folder).hexdigest()[:32]
    return default_cache_dir() / "indexes" / f"{key}.clipdex"


def _below(index: Index, images_dir: Path) -> tuple[list[int], list[str]]:
    """Return the live rows, and their paths beginning with `images_dir`."""
    root = os.path.abspath(os.fsencode(images_dir))
    rows, paths = [], []
    for row, path in index.live_paths():
        rows.append(row)
        paths.append(os.fsdecode(os.path.join(os.fsencode(images_dir), os.path.relpath(path, root))))
    return rows, paths
