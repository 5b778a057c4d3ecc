"""The OpenAPI document: FastAPI's own, with the errors that any route may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from clipdex.web.problems import answers
from clipdex.web.schemas.embeddings import EmbeddingIn
from clipdex.web.schemas.insights import ClassifyIn
from clipdex.web.schemas.items import NewItemIn
from clipdex.web.schemas.matches import MatchIn
from clipdex.web.schemas.problems import ProblemOut
from clipdex.web.schemas.queries import SearchIn

__all__ = ["documented"]

# Bodies that routes read themselves, because they may also come as a form, and the errors.
_NAMED: dict[str, type[BaseModel]] = {
    "Problem": ProblemOut,
    "SearchIn": SearchIn,
    "NewItemIn": NewItemIn,
    "EmbeddingIn": EmbeddingIn,
    "ClassifyIn": ClassifyIn,
    "MatchIn": MatchIn,
}

# What the guard, the choice of an index and the collection's parts may answer to any request.
_OF_ALL = (400, 401, 403, 408, 413, 414, 415, 421, 422, 429, 431, 500, 502, 503, 504)


def documented(app: FastAPI) -> None:
    """Add the shape of errors, and the statuses that any route may answer, to an application's document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = plain()
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            for name, model in _NAMED.items():
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {}) | {name: schema}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for path, methods in found["paths"].items():
                for operation in methods.values() if path.startswith("/v1/") else ():
                    common = {str(status): answer for status, answer in answers(*_OF_ALL).items()}
                    common.update(operation["responses"])
                    common["422"] = answers(422)[422]
                    operation["responses"] = common
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
