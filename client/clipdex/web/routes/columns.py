"""The columns that conditions may use, and how many pictures have each of their values."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import plain_text
from clipdex.index.column_facts import Column
from clipdex.index.facets import Unit, ValueCounts
from clipdex.index.value_sql import Value
from clipdex.web.computing import Computing, Worker, kept_for
from clipdex.web.filters import require_allowed
from clipdex.web.leaving import while_there
from clipdex.web.problems import answers
from clipdex.web.records import rendered
from clipdex.web.schemas.insights import ColumnOut, ColumnsOut, FacetOut, FacetsOut, ValueOut
from clipdex.web.served import Chosen, HeldCollection
from clipdex.web.uploads import validated

__all__ = ["router"]

_WAIT_S = 20.0


router = APIRouter(prefix="/v1", tags=["columns"], lifespan=kept_for("columns"))


@router.get(
    "/columns", response_model=ColumnsOut, summary="List the columns for conditions", responses=answers(409)
)
async def columns(held: Chosen, request: Request) -> Response:
    """List the columns that the condition `where` may use, and the metadata keys of a sample of the pictures."""

    def compute(worker: Worker) -> tuple[list[Column], int]:
        return worker.index(held)[1].columns()

    computing: Computing = request.app.state.columns
    answering = computing.answer(held, "columns", compute, wait_s=_WAIT_S, what="the columns are")
    found = await while_there(request, answering)
    listed, sampled = found.value
    # A path is nobody's business where it is not shown, and cannot be filtered by.
    shown = [each for each in listed if each.of_metadata or _is_shown(held, each.name)]
    return await rendered(
        lambda: ColumnsOut(columns=[_column_out(each) for each in shown], sampled=sampled, stale=found.stale)
    )


def _is_shown(held: HeldCollection, column: str) -> bool:
    try:
        require_allowed(column, held.settings)
    except Exception:
        return False
    return True


def _column_out(column: Column) -> ColumnOut:
    return ColumnOut(
        name=plain_text(column.name),
        sql=plain_text(column.sql),
        kind=column.kind,  # type: ignore[arg-type]  # one of the five
        there=column.there,
        of_metadata=column.of_metadata,
        least=_plain(column.least),
        greatest=_plain(column.greatest),
        values=[ValueOut(value=_plain(value), count=count) for value, count in column.values],
    )


def _plain(value: Value | None) -> Any:
    return plain_text(value) if isinstance(value, str) else value


@router.get(
    "/facets", response_model=FacetsOut, summary="Count pictures by a column's values", responses=answers(409)
)
async def facets(
    held: Chosen,
    request: Request,
    by: Annotated[
        str,
        Query(
            min_length=1,
            max_length=200,
            description="A column, such as folder or modified; or a metadata key, `meta.KEY`, or KEY if no column "
            "has that name and some picture has that key.",
            examples=["modified"],
        ),
    ],
    where: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=10_000,
            description="Condition in SQL: only these pictures.",
            examples=["width > 1000"],
        ),
    ] = None,
    params: Annotated[
        str | None,
        Query(
            min_length=2,
            max_length=10_000,
            description="Values of the condition's `:name` parameters, an object in JSON.",
            examples=['{"tag": "black"}'],
        ),
    ] = None,
    unit: Annotated[Unit, Query(description="What times are counted by.")] = "month",
    limit: Annotated[int, Query(ge=1, le=1000, description="Number of values.")] = 50,
) -> Response:
    """Count the pictures by the values of a column, each with the condition that finds them."""
    if where is None and params is not None:
        raise InvalidArgument("params is given, but no condition that uses it; give where= as well")
    await asyncio.to_thread(require_allowed, where, held.settings)
    if not by.startswith("meta.") and by in ("path", "folder"):
        require_allowed(by, held.settings)
    values = None if params is None else validated(dict[str, str | int | float | None], params, "params")

    def compute(worker: Worker) -> ValueCounts:
        return worker.index(held)[1].counts(by, where=where, params=values, unit=unit, limit=limit)

    computing: Computing = request.app.state.columns
    question = (by, where, None if values is None else json.dumps(values, sort_keys=True), unit, limit)
    answering = computing.answer(held, question, compute, wait_s=_WAIT_S, what="the facets are")
    found = await while_there(request, answering)
    counts = found.value
    return await rendered(
        lambda: FacetsOut(
            by=by,
            values=[
                FacetOut(value=_plain(value), count=count, where=plain_text(condition))
                for value, count, condition in counts.values
            ],
            distinct=counts.distinct,
            missing=counts.missing,
            others=counts.others,
            sampled=counts.sampled,
            stale=found.stale,
        )
    )
