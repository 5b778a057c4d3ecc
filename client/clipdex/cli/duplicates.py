"""`clipdex duplicates`: list duplicate pictures, and move them away."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.contact_sheet import write_contact_sheet
from clipdex.apps.duplicates import (
    Duplicate,
    DuplicateGroup,
    Moved,
    find_duplicates,
    move_back,
    move_duplicates,
    moves_of,
    sign_index,
)
from clipdex.apps.duplicates.groups import Placement
from clipdex.apps.duplicates.moves import Move, check_min_cosine
from clipdex.apps.duplicates.sheet import group_section, relation_words
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import (
    HtmlOption,
    JsonOption,
    NoLinksOption,
    check_links,
    interruptible,
    is_typed,
    shown_path,
)
from clipdex.cli.index_options import may_take_index, required_index
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.features.decision import SAME
from clipdex.index import Index

__all__ = ["duplicates"]

_LEFT_SHOWN = 20


class Kind(str, Enum):
    """Kinds of duplicates."""

    exact = "exact"
    near = "near"
    semantic = "semantic"
    local = "local"


@may_take_index
def duplicates(
    ctx: typer.Context,
    index: Path | None = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="exact: same bytes; near: same bytes or look; semantic: same bytes or close vectors; "
            "local: same bytes, or one shows a part of the other."
        ),
    ] = Kind.near,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help=f"Minimum similarity, up to 1 (default near 0.96, semantic 0.95, local {SAME.min_share:g}).",
            show_default=False,
        ),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--hash", help="First read the files of rows that lack a perceptual hash.")
    ] = False,
    move_to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to move byte-identical copies of a kept file to. Without it, no file is touched.",
            show_default=False,
        ),
    ] = None,
    min_cosine: Annotated[
        float | None,
        typer.Option(
            metavar="C",
            help="Also move near and semantic duplicates of at least this cosine similarity to their keeper.",
            show_default=False,
        ),
    ] = None,
    undo: Annotated[
        Path | None,
        typer.Option(
            metavar="JOURNAL", help="Undo a --move-to by its journal; needs no index.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    no_links: NoLinksOption = False,
) -> None:
    """List groups of duplicate pictures, with the one to keep.

    The largest picture is kept; among equals, the oldest; among those, the one with the shortest path.
    """
    if undo is not None:
        if is_typed(ctx, "index") or is_typed(ctx, "place") or move_to is not None:
            raise InvalidArgument("--undo takes neither an index nor --move-to; give it alone")
        with interruptible("run the same command again to resume"), rows_progress("moving back") as progress:
            moved = move_back(undo, progress)
        if as_json:
            say_json(_moves_as_dict(moved))
        else:
            _print_moved(moved, "moved back", say)
        return
    index = required_index(index)
    check_links(no_links, html)
    check_min_cosine(min_cosine)
    if min_cosine is not None and kind is Kind.exact:
        raise InvalidArgument("--min-cosine is for near and semantic duplicates; --kind exact moves all")
    if min_cosine is not None and kind is Kind.local:
        raise InvalidArgument("--min-cosine is for near and semantic duplicates; local ones never move")
    if sign:
        with interruptible("run the same command again to resume"), rows_progress("reading") as progress:
            signed = sign_index(index, progress=progress)
        note(
            counted(signed.signed, "picture was", "pictures were")
            + " read"
            + (f", {signed.left:,} could not be read" if signed.left else "")
        )
    with Index.open(index) as opened:
        with interruptible("nothing was changed"), rows_progress("comparing") as progress:
            found = find_duplicates(opened, kind.value, threshold=threshold, progress=progress)
        indexed = [path for _, path in opened.live_paths()] if move_to is not None else []
    if found.unsigned:
        note(
            f"{found.unsigned:,} of {counted(found.pictures, 'picture')} "
            f"{'has' if found.unsigned == 1 else 'have'} no perceptual hash, and only the bytes were "
            f"compared; to compute it:  clipdex duplicates {index} --hash"
        )
    moves = [moves_of(group, min_cosine) for group in found.groups]
    if as_json:
        say_json([_as_dict(*each) for each in zip(found.groups, moves, strict=True)])
    else:
        for group, of_group in zip(found.groups, moves, strict=True):
            _print_group(group, of_group)
        extra = sum(len(group.others) for group in found.groups)
        size = sum(other.size for group in found.groups for other in group.others)
        say(
            f"{counted(len(found.groups), 'group')} among {counted(found.pictures, 'picture')}: "
            f"{counted(extra, 'duplicate')}, {size / 1e6:,.1f} MB"
        )
        if extra and move_to is None:
            _print_what_would_move([move for of_group in moves for move in of_group], min_cosine)
    if html is not None:
        _write_sheet(html, found.groups, index, not no_links)
    if move_to is not None:
        advice = f"clipdex duplicates --undo  with the journal in {move_to} undoes the move"
        with interruptible(advice), rows_progress("moving") as progress:
            moved = move_duplicates(found.groups, move_to, indexed, progress, min_cosine=min_cosine)
            _print_moved(moved, f"moved to {move_to}", note if as_json else say)


def _print_group(group: DuplicateGroup, moves: list[Move]) -> None:
    say(f"keep {_line(group.keeper)}")
    for move in moves:
        say(f"     {_line(move.picture)} — {_relation(move)}{'' if move.moves else '; stays'}")


def _relation(move: Move) -> str:
    other = move.picture
    how = relation_words(other)
    if other.relation == "exact":
        return how
    same = move.moves and move.picture.content_hash == move.keeper.content_hash
    return f"{how}; same bytes as {shown_path(move.keeper.path)}" if same else how


def _print_what_would_move(moves: list[Move], min_cosine: float | None) -> None:
    """Print how many pictures --move-to would move, and why the others would stay."""
    going = sum(move.moves for move in moves)
    words = f"--move-to FOLDER would move {going:,} of them"
    if going < len(moves) and all(move.picture.placement is not None for move in moves if move.stays):
        words += ", those with the same bytes; crops and collages stay"
    elif going < len(moves) and min_cosine is None:
        words += ", those with the same bytes; --min-cosine C adds those of at least that cosine similarity"
    elif going < len(moves):
        words += f"; the cosines of the others are below {min_cosine:g}"
    say(words)


def _line(picture: Duplicate) -> str:
    return f"{shown_path(picture.path)} ({picture.width} × {picture.height}, {counted(picture.size, 'byte')})"


def _print_moved(moved: Moved, what: str, tell: Callable[[str], None]) -> None:
    for path, why in moved.left[:_LEFT_SHOWN]:
        complain(f"left: {shown_path(path)}: {printable(why)}")
    if len(moved.left) > _LEFT_SHOWN:
        complain(f"... and {len(moved.left) - _LEFT_SHOWN:,} more were left")
    tell(f"{len(moved.moved):,} {what}, {len(moved.left):,} left where they are")
    if moved.stayed:
        path, why = moved.stayed[0]
        stayed = counted(len(moved.stayed), "near or semantic duplicate")
        tell(f"{stayed} stayed, such as {shown_path(path)}: {why}")
    if moved.journal is not None and moved.moved:
        tell(f"journal: {moved.journal}")


def _moves_as_dict(moved: Moved) -> dict[str, object]:
    return {
        "moved": [{"from": old, "to": new} for old, new in moved.moved],
        "left": [{"path": path, "why": why} for path, why in moved.left],
        "journal": None if moved.journal is None else str(moved.journal),
    }


def _write_sheet(file: Path, groups: list[DuplicateGroup], index: Path, links: bool) -> None:
    sections = [group_section(group, shown_path(group.keeper.path)) for group in groups]
    write_contact_sheet(
        file,
        sections,
        title="clipdex duplicates",
        summary=f"{counted(len(groups), 'group')} in {index}",
        links=links,
    )
    note(f"contact sheet: {file}")


def _as_dict(group: DuplicateGroup, moves: list[Move]) -> dict[str, object]:
    others = [_picture(move.picture) | {"stays": move.stays or None} for move in moves]
    return {"keeper": _picture(group.keeper), "duplicates": others}


def _picture(one: Duplicate) -> dict[str, object]:
    return {
        "path": one.path,
        "row": one.row,
        "width": one.width,
        "height": one.height,
        "size": one.size,
        "mtime_ns": one.mtime_ns,
        "content_hash": one.content_hash.hex(),
        "relation": one.relation,
        "similarity": round(one.similarity, 4),
        "cosine": round(one.cosine, 4),
    } | ({} if one.placement is None else {"placement": _placement(one.placement)})


def _placement(where: Placement) -> dict[str, object]:
    return {
        "points": where.points,
        "mirrored": where.mirrored,
        "of_keeper": [[round(share, 5) for share in corner] for corner in where.of_keeper],
        "of_duplicate": [[round(share, 5) for share in corner] for corner in where.of_duplicate],
    }
