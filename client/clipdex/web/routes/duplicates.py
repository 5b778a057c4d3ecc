"""Groups of duplicates: pictures with the same bytes, the same look or close vectors, or parts of each other."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from clipdex.apps.duplicates import Duplicate, Duplicates, find_duplicates
from clipdex.base.errors import InvalidArgument
from clipdex.collection.item import StoredItem
from clipdex.web.computing import Computing, Worker, kept_for
from clipdex.web.leaving import while_there
from clipdex.web.problems import answers
from clipdex.web.records import rendered, stored_out
from clipdex.web.schemas.insights import DuplicateOut, DuplicatesOut, GroupOut, PlacementOut
from clipdex.web.schemas.queries import MOST_OFFSET
from clipdex.web.served import Chosen, HeldCollection

__all__ = ["router"]

Kind = Literal["exact", "perceptual", "semantic", "local"]

_KINDS = {"exact": "exact", "perceptual": "near", "semantic": "semantic", "local": "local"}
_WAIT_S = 10.0
_LONGEST_S = 600.0
_MOST_OF_A_GROUP = 100


router = APIRouter(prefix="/v1", tags=["duplicates"], lifespan=kept_for("duplicates"))


@router.get(
    "/duplicates", response_model=DuplicatesOut, summary="List groups of duplicates", responses=answers(409, 501)
)
async def duplicates(
    held: Chosen,
    request: Request,
    kind: Annotated[
        Kind,
        Query(
            description="exact: same bytes; perceptual: same bytes or look; semantic: same bytes or close "
            "vectors; local: same bytes, or one shows a part of the other."
        ),
    ] = "perceptual",
    min_similarity: Annotated[
        float | None,
        Query(
            gt=0,
            le=1,
            description="Minimum similarity (default perceptual 0.96, semantic 0.95, local 0.03); none for exact.",
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET, description="Number of groups to skip.")] = 0,
) -> Response:
    """List groups of duplicates, with the one to keep first: the largest, then the oldest.

    A large index takes a while: then the answer is 503 with Retry-After, until it has been computed. Ask again
    within two minutes: what nobody waits for is given up.
    """
    if kind == "exact" and min_similarity is not None:
        raise InvalidArgument("min_similarity does not apply to kind=exact, which compares bytes; leave it out")

    def compute(worker: Worker) -> Duplicates:
        ends = time.monotonic() + _LONGEST_S

        def progress(done: int, total: int) -> None:
            worker.check()
            if time.monotonic() > ends:
                raise InvalidArgument(
                    f"comparing took longer than {_LONGEST_S:g} s and was stopped at picture {done:,} of "
                    f"{total:,}; the command  clipdex duplicates  has no time limit"
                )

        return find_duplicates(worker.index(held)[0], _KINDS[kind], threshold=min_similarity, progress=progress)

    computing: Computing = request.app.state.duplicates
    # Before they are computed, as the moment of the collection is.
    state = await held.collection.features_state() if kind == "local" else None
    question = (kind, min_similarity)
    answering = computing.answer(held, question, compute, wait_s=_WAIT_S, what="the duplicates are", state=state)
    found = await while_there(request, answering)
    groups = found.value.groups[offset : offset + limit]
    shown = [[group.keeper, *group.others[: _MOST_OF_A_GROUP - 1]] for group in groups]
    items = await held.collection.at([each.row for group in shown for each in group])

    def make() -> DuplicatesOut:
        made = []
        for group, pictures in zip(groups, shown, strict=True):
            # A row may have been removed, or be another picture's, since they were compared.
            there = [
                _out(held, request, each, item)
                for each in pictures
                if (item := items.get(each.row)) is not None and item.content_hash == each.content_hash
            ]
            if len(there) > 1:
                made.append(GroupOut(pictures=there, size=len(group)))
        following = offset + limit
        more = following < len(found.value.groups) and following <= MOST_OFFSET
        return DuplicatesOut(
            kind=kind,
            groups=made,
            total=len(found.value.groups),
            duplicates=sum(len(group.others) for group in found.value.groups),
            offset=offset,
            next_offset=following if more else None,
            pictures=found.value.pictures,
            unsigned=found.value.unsigned,
            stale=found.stale,
        )

    return await rendered(make)


def _out(held: HeldCollection, request: Request, duplicate: Duplicate, item: StoredItem) -> DuplicateOut:
    return DuplicateOut(
        **stored_out(held, request, item).model_dump(),
        relation=duplicate.relation,  # type: ignore[arg-type]  # one of the five
        similarity=float(duplicate.similarity),
        cosine=float(duplicate.cosine),
        placement=None if duplicate.placement is None else PlacementOut(**asdict(duplicate.placement)),
    )
