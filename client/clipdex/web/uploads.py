"""Pictures that come in requests: as files of a form, as bodies, in base64 and as data URIs."""

from __future__ import annotations

import asyncio
import binascii
import re
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_plain_json

__all__ = [
    "content_type",
    "file_of",
    "form_of",
    "json_of",
    "json_or_form",
    "modelled",
    "parsed",
    "picture_bytes",
    "pictures_of_form",
    "unsupported",
    "validated",
    "vector_of",
]

_T = TypeVar("_T")

_DATA_URI = re.compile(r"data:(?:image/[a-z0-9.+-]{1,64}|application/octet-stream)?;base64,", re.IGNORECASE)
_MOST_FILES = 64
# Of one body: an empty list is two bytes there and sixty in memory. A thousand vectors have two million numbers.
_MOST_VALUES, _MOST_LISTS = 2_500_000, 100_000
_MOST_FIELDS = 16
_SMALL = 16 << 10  # bytes of JSON that take less time than a change of threads


def vector_of(numbers: Sequence[float]) -> Vectors:
    """Return a vector as float32 (D,); numbers beyond float32 become infinite, and are then refused."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float32)


def content_type(request: Request) -> str:
    """Return the media type of a request's body, without its parameters; "" if it says none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(request: Request, *expected: str) -> HTTPException:
    """Make the error for a body of another media type."""
    found = content_type(request) or "of no type"
    return HTTPException(415, f"the body is {found:.80}; expected {' or '.join(expected)}")


def picture_bytes(text: str, most: int, what: str = "image") -> bytes:
    """Decode a picture file from base64, or from a data URI of it. most: bytes of a file.

    Raises:
        InvalidArgument: it is neither, or larger.
    """
    if text[:5].lower() == "data:":
        head = _DATA_URI.match(text[:100])
        if head is None:
            raise InvalidArgument(f"{what}: it is a data URI of another kind; expected data:image/…;base64,…")
        text = text[head.end() :]
    if len(text) // 4 * 3 > most + 3:
        raise InvalidArgument(
            f"{what}: the picture is larger than {most:,} bytes, the most that this server takes"
        )
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:  # binascii.Error, or letters that are not ASCII
        raise InvalidArgument(f"{what}: it is not a picture file in base64: {exc}") from exc
    return _bounded(data, most, what)


def _bounded(data: bytes, most: int, what: str) -> bytes:
    if not data:
        raise InvalidArgument(f"{what}: the picture is empty; expected the bytes of a picture file")
    if len(data) > most:
        raise InvalidArgument(
            f"{what}: the picture is larger than {most:,} bytes, the most that this server takes"
        )
    return data


def parsed(data: bytes | str, where: str) -> Any:
    """Parse JSON: no NaN, no name twice, no half of a surrogate pair, no depth beyond 64 levels.

    Raises:
        RequestValidationError: it is not such JSON.
    """
    try:
        text = data.encode(errors="surrogatepass") if isinstance(data, str) else data
        if text.count(b",") > _MOST_VALUES or text.count(b"[") + text.count(b"{") > _MOST_LISTS:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values, or {_MOST_LISTS:,} lists and objects")
        return parse_plain_json(data)
    except ValueError as exc:
        words = f"it is not JSON: {exc}"
        raise RequestValidationError([{"type": "json_invalid", "loc": (where,), "msg": words}]) from exc


def modelled(kind: type[_T] | TypeAdapter[_T], value: Any, where: str) -> _T:
    """Make a model of parsed JSON.

    Raises:
        RequestValidationError: it is not of the model.
    """
    adapter: TypeAdapter[_T] = kind if isinstance(kind, TypeAdapter) else _adapter(cast("Hashable", kind))
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**each, "loc": (where, *each["loc"])} for each in found]) from exc


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def validated(kind: type[_T] | TypeAdapter[_T], data: bytes | str, where: str = "body") -> _T:
    """Parse JSON, and make a model of it; raises as `parsed` and `modelled` do."""
    return modelled(kind, parsed(data, where), where)


async def json_of(request: Request, kind: type[_T] | TypeAdapter[_T]) -> _T:
    """Read a request's body as JSON of a model.

    Raises:
        HTTPException: 415, it is of another media type.
        RequestValidationError: it is not of the model.
    """
    if content_type(request) != "application/json":
        raise unsupported(request, "application/json")
    body = await request.body()
    if len(body) <= _SMALL:
        return validated(kind, body)
    return await asyncio.to_thread(validated, kind, body)


async def form_of(request: Request) -> FormData:
    """Read a request's multipart body; its files are on disk if they are large. Close it."""
    return await request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=2 << 20)


async def pictures_of_form(request: Request, most: int, most_bytes: int) -> tuple[list[bytes], str | None]:
    """Read a form of `json_or_form` -> its pictures, and the text of its field `request`, if it has one.

    Raises:
        InvalidArgument: it has no picture or more than `most`, one is empty or larger than `most_bytes`, or
            `request` is a file.
    """
    form = await form_of(request)
    try:
        given = form.getlist("image")
        if not 0 < len(given) <= most:
            expected = "a picture" if most == 1 else f"a picture, or {most} at most"
            raise InvalidArgument(f"the form has {len(given)} files named image; expected {expected}")
        files = [await file_of(each, most_bytes) for each in given]
        said = form.get("request")
        if not isinstance(said, str | None):
            raise InvalidArgument("request: it is a file; expected a field with JSON")
    finally:
        await form.close()
    return files, said


async def with_one_picture(request: Request, kind: type[_T], most_bytes: int) -> tuple[_T | None, bytes | None]:
    """Read a body of JSON, or a form with a picture file, whose field `request` may have the same JSON.

    Returns:
        (what the JSON says, or None without the field; the bytes of the file, or None without a form).

    Raises:
        HTTPException: 415, the body is of another type.
        InvalidArgument, RequestValidationError: as `pictures_of_form` and `validated`.
    """
    found = content_type(request)
    if found == "application/json":
        return await json_of(request, kind), None
    if found != "multipart/form-data":
        raise unsupported(request, "application/json", "multipart/form-data")
    (data,), said = await pictures_of_form(request, 1, most_bytes)
    return None if said is None else await asyncio.to_thread(validated, kind, said, "request"), data


def json_or_form(model: type[BaseModel], request: str, required: Sequence[str]) -> dict[str, Any]:
    """Describe, for OpenAPI, a body that is JSON of a model, or a form with pictures and a field `request`.

    request: what is in the field. required: the fields that a form must have.
    """
    properties = {
        "image": {"type": "string", "format": "binary", "description": "A picture file."},
        "request": {"type": "string", "description": request},
    }
    form = {"type": "object", "properties": properties, "required": list(required)}
    json = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": json}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


async def file_of(form_part: object, most: int, what: str = "image") -> bytes:
    """Read a file of a form.

    Raises:
        InvalidArgument: it is no file, is empty, or larger than `most` bytes.
    """
    if not isinstance(form_part, UploadFile):
        raise InvalidArgument(f"{what}: expected a file in the form, as  curl -F {what}=@picture.jpg  sends it")
    return _bounded(await form_part.read(most + 1), most, what)
