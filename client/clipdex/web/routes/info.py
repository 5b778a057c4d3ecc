"""Facts of an index: its size, its model, and what requests may do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from clipdex.version import __version__
from clipdex.web.records import rendered, utc
from clipdex.web.schemas.info import InfoOut
from clipdex.web.served import Chosen, served_of

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["info"])


@router.get("/info", response_model=InfoOut, summary="Describe the index")
async def info(held: Chosen, request: Request) -> Response:
    """Describe the index, its model, and what may be done with it here."""
    found = await held.collection.info()
    manifest = held.collection.collection.manifest
    settings = held.settings
    return await rendered(
        lambda: InfoOut(
            index=held.name,
            indexes=sorted(served_of(request).collections),
            path=str(held.directory.absolute()) if settings.show_paths else None,
            model=manifest.model,
            fingerprint=manifest.fingerprint,
            embedding_dim=manifest.embedding_dim,
            dtype=manifest.dtype,
            pictures=found.rows,
            removed=found.tombstones,
            failures=found.failures,
            with_features=found.with_features,
            bytes_on_disk=found.bytes_on_disk,
            first_commit=None if found.first_commit is None else utc(found.first_commit),
            last_commit=None if found.last_commit is None else utc(found.last_commit),
            has_model=held.has_model,
            allows_write=settings.allow_write,
            shows_paths=settings.show_paths,
            version=__version__,
        )
    )
