"""Embeddings and models in the shape that OpenAI's clients use."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, ImageError, InvalidArgument, ItemNotFound
from clipdex.base.json_text import parse_json
from clipdex.web.problems import CONTENT_TYPE, answers
from clipdex.web.records import rendered
from clipdex.web.schemas.embeddings import (
    CutOut,
    EmbeddingIn,
    EmbeddingOut,
    EmbeddingsOut,
    InputPart,
    ModelOut,
    ModelsOut,
    UsageOut,
)
from clipdex.web.served import HeldCollection, Served, served_of
from clipdex.web.uploads import json_of, picture_bytes

__all__ = ["router"]

ALIAS = "clipdex"
_PICTURE = re.compile(r"data:image/[a-z0-9.+-]{1,64};base64,", re.IGNORECASE)
_MOST_PICTURES = 256  # of one request
_DECODED_AT_ONCE = 4


class _OpenAIRoute(APIRoute):
    """A route whose problems have the member `error` too, which OpenAI's clients read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (ClipdexError, HTTPException, RequestValidationError) as error:
                told = next(
                    request.app.exception_handlers[kind]
                    for kind in type(error).__mro__
                    if kind in request.app.exception_handlers
                )
                answer: Response = await told(request, error)
                return _also_for_openai(answer)

        return handled


def _also_for_openai(answer: Response) -> Response:
    said = parse_json(bytes(answer.body))
    kind = said["type"].rpartition(":")[2]
    wrong = said.get("errors") or [{"loc": []}]
    param = ".".join(str(each) for each in wrong[0]["loc"][1:]) or None
    said["error"] = {"message": said["detail"], "type": kind, "param": param, "code": kind}
    kept = {
        name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")
    }
    return Response(json.dumps(said, ensure_ascii=False).encode(), answer.status_code, kept, CONTENT_TYPE)


router = APIRouter(prefix="/v1", tags=["embeddings"], route_class=_OpenAIRoute)


def _models(served: Served) -> dict[str, list[HeldCollection]]:
    """Return the models that can embed, by name, each with the indexes of its vectors."""
    found: dict[str, list[HeldCollection]] = {}
    for held in served.collections.values():
        if held.has_model:
            found.setdefault(held.collection.collection.manifest.model, []).append(held)
    return found


def _model_of(served: Served, asked: str) -> tuple[str, list[HeldCollection]]:
    """Return the model of a name, of an index's name, or the only one.

    Raises:
        ItemNotFound: there is none.
    """
    known = _models(served)
    if asked == ALIAS and len(known) == 1:
        return next(iter(known.items()))
    if asked in known:
        return asked, known[asked]
    of_index = {held.name: name for name, all_held in known.items() for held in all_held}
    if asked in of_index:
        name = of_index[asked]
        return name, [held for held in known[name] if held.name == asked]
    if not known:
        raise InvalidArgument("this server has no model server; its operator can name one with --server")
    raise ItemNotFound(f"no model {asked!r:.80} is served; expected {' or '.join(sorted(known))}")


def _model_out(name: str, of: list[HeldCollection]) -> ModelOut:
    manifest = of[0].collection.collection.manifest
    return ModelOut(
        id=name,
        fingerprint=manifest.fingerprint,
        embedding_dim=manifest.embedding_dim,
        indexes=sorted(held.name for held in of),
    )


@router.get("/models", response_model=ModelsOut, summary="List the models", responses=answers())
async def models(request: Request) -> Response:
    """List the models that embed texts and pictures."""
    served = served_of(request)
    return await rendered(
        lambda: ModelsOut(data=[_model_out(name, of) for name, of in sorted(_models(served).items())])
    )


@router.get("/models/{id}", response_model=ModelOut, summary="Describe a model", responses=answers(404))
async def model(request: Request, id: str) -> Response:
    """Describe a model, by its name or that of an index."""
    found = _model_of(served_of(request), id)
    return await rendered(lambda: _model_out(*found))


@router.post(
    "/embeddings",
    response_model=EmbeddingsOut,
    summary="Embed texts and pictures",
    responses=answers(404, 409),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingIn"}}},
        }
    },
)
async def embeddings(request: Request) -> Response:
    """Embed texts and pictures: each becomes a vector of norm 1, in the order of the inputs.

    A text that is a data URI of a picture (`data:image/…;base64,…`) is embedded as a picture.
    """
    asked = await json_of(request, EmbeddingIn)
    name, of = _model_of(served_of(request), asked.model)
    held = of[0]
    dim = held.collection.collection.manifest.embedding_dim
    if asked.dimensions not in (None, dim):
        raise InvalidArgument(
            f"dimensions is {asked.dimensions}; expected {dim}, the width of {name}'s vectors, or none"
        )
    texts, pictures = await asyncio.to_thread(_inputs, asked, held.settings.max_upload_bytes)
    vectors, (counts, lost) = await _embedded(held, texts, pictures), await _tokens(held, list(texts.values()))

    def make() -> EmbeddingsOut:
        tokens = sum(counts)
        return EmbeddingsOut(
            data=[
                EmbeddingOut(index=i, embedding=_encoded(vectors[i], asked.encoding_format))
                for i in range(len(vectors))
            ],
            model=name,
            usage=UsageOut(prompt_tokens=tokens, total_tokens=tokens),
            cut=[CutOut(index=i, text=end) for i, end in zip(texts, lost, strict=True) if end],
        )

    return await rendered(make)


def _inputs(asked: EmbeddingIn, most: int) -> tuple[dict[int, str], dict[int, bytes]]:
    """Tell texts from pictures -> both by their place in the list.

    Raises:
        InvalidArgument: a picture is not what it should be, or there are too many.
    """
    texts: dict[int, str] = {}
    pictures: dict[int, bytes] = {}
    for i, each in enumerate([asked.input] if isinstance(asked.input, str) else asked.input):
        text = each if isinstance(each, str) else each.text
        if text is not None and not _PICTURE.match(text[:100]):
            texts[i] = text
            continue
        if len(pictures) == _MOST_PICTURES:
            raise InvalidArgument(f"input has more than {_MOST_PICTURES} pictures; send them in several requests")
        pictures[i] = picture_bytes(_address(each) if text is None else text, most, f"input[{i}]")
    return texts, pictures


def _address(part: str | InputPart) -> str:
    assert isinstance(part, InputPart)
    found = part.image_url
    assert found is not None
    address = found if isinstance(found, str) else found.url
    if not _PICTURE.match(address[:100]):
        raise InvalidArgument(
            f"image_url is {address!r:.60}; expected data:image/…;base64,… since nothing is fetched from elsewhere"
        )
    return address


async def _embedded(held: HeldCollection, texts: dict[int, str], pictures: dict[int, bytes]) -> dict[int, Array]:
    """Embed -> vectors float32 (D,) by place. Nothing goes on when one fails."""
    places = asyncio.Semaphore(_DECODED_AT_ONCE)
    found: dict[int, Array] = {}

    async def of_picture(i: int, data: bytes) -> None:
        async with places:
            try:
                found[i] = await held.collection.embed_image(data)
            except ImageError as exc:
                why = str(exc).removeprefix("the bytes given: ")
                raise ImageError(f"input[{i}]: {why}", reason=exc.reason) from exc

    async def of_texts() -> None:
        if texts:
            found.update(zip(texts, await held.collection.embed_texts(list(texts.values())), strict=True))

    tasks = [asyncio.ensure_future(of_texts())]
    tasks += [asyncio.ensure_future(of_picture(i, data)) for i, data in pictures.items()]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return found


async def _tokens(held: HeldCollection, texts: list[str]) -> tuple[list[int], list[str]]:
    if not texts:
        return [], []
    return await held.collection.token_counts(texts), await held.collection.lost(texts)


def _encoded(vector: Array, encoding: str) -> list[float] | str:
    little = np.asarray(vector, "<f4")
    return base64.b64encode(little.tobytes()).decode() if encoding == "base64" else little.tolist()
