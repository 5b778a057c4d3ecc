"""The page for searching in a browser, and its static files. Searching works without scripts, too."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from clipdex.web.leaving import while_there
from clipdex.web.page.asked import Asked
from clipdex.web.page.assets import assets, folder
from clipdex.web.page.first import rendered
from clipdex.web.served import served_of

router = APIRouter(include_in_schema=False)

_ONE_YEAR = "public, max-age=31536000, immutable"


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Answer the page with the first results of the query in its address."""
    served = served_of(request)
    served.pictures.thumbnails.warm()
    status, text = await while_there(request, rendered(served, Asked.of(request.query_params), request))
    return HTMLResponse(text, status, {"Cache-Control": "no-cache"})


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
async def static(request: Request, path: str) -> Response:
    """Answer a file of the page; below its version's folder, a browser may keep it for ever."""
    version, _, name = path.rpartition("/")
    found = assets().get(name)
    if found is None or version not in ("", folder().rpartition("/")[2]):
        raise HTTPException(404, "there is no such file of the page")
    headers = {
        "Cache-Control": _ONE_YEAR if version else "no-cache",
        "ETag": found.etag,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if found.etag in request.headers.get("If-None-Match", "").split(", "):
        return Response(None, 304, headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return Response(found.gzipped, 200, headers | {"Content-Encoding": "gzip"}, found.media_type)
    return Response(found.data, 200, headers, found.media_type)
