"""`clipdex add`, `remove` and `merge`: items by id, and indexes joined."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import AddFailed, InvalidArgument
from clipdex.base.json_text import parse_plain_json
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import takes_index_option
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.collection.collection import Collection
from clipdex.collection.item import Item
from clipdex.index.manifest import MANIFEST, Manifest
from clipdex.index.merge import merge_indexes

__all__ = ["add", "merge", "remove"]


@takes_index_option
@connects
def add(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", help="Picture files.", show_default=False)],
    *,
    index: Path,
    item_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="The id of the one picture (default its file name).", show_default=False
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Metadata of each picture, an object.", show_default=False),
    ] = None,
    no_exif: Annotated[
        bool, typer.Option("--no-exif", help="Do not read what pictures say of themselves: date, camera, place …")
    ] = False,
    connection: Connection,
    as_json: JsonOption = False,
) -> None:
    """Add pictures to an index by ids, or replace those of the same id.

    The index is created if it does not exist. Items belong to no folder: clipdex remove removes them, clipdex
    index never does. A picture that cannot be added is named, and the others are added.
    """
    ids = [path.name for path in pictures] if item_id is None else [item_id]
    if len(ids) < len(pictures):
        raise InvalidArgument(f"--id {item_id!r} is for one picture, but {len(pictures)} are given")
    (name, times), *_ = Counter(ids).most_common(1)
    if times > 1:
        raise InvalidArgument(
            f"{counted(times, 'picture has', 'pictures have')} the name {name}, their id; give each its --id"
        )
    said = _metadata(metadata)
    items = [Item(each, path, metadata=said) for each, path in zip(ids, pictures, strict=True)]
    model = Manifest.read(index).model if (index / MANIFEST).is_file() else None
    failures: dict[str, Any] = {}
    with (
        interruptible(f"what was committed is in {index}; run the same command again to add the rest"),
        connection.open(model=model) as client,
        Collection.open(index, client=client, exif=not no_exif) as collection,
    ):
        try:
            added = collection.add(items)
        except AddFailed as exc:
            failures, added = dict(exc.failures), exc.added
        count = len(collection)
    for error in failures.values():
        complain(f"clipdex: {printable(str(error))}")
    if as_json:
        said_of = {each: str(error) for each, error in failures.items()}
        say_json({"index": str(index), "added": added, "pictures": count, "failures": said_of})
    else:
        say(f"{counted(added, 'item')} added; {shown_path(str(index))} holds {count:,}")
    if failures:
        raise typer.Exit(1)


def _metadata(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = parse_plain_json(text)
    except ValueError as exc:
        raise InvalidArgument(f"--metadata is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise InvalidArgument(f'--metadata is {text[:60]!r}; expected a JSON object, such as {{"title": "a cat"}}')
    return found


@takes_index_option
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of items.", show_default=False)],
    *,
    index: Path,
    as_json: JsonOption = False,
) -> None:
    """Remove items that were added by id from an index.

    clipdex forget removes pictures of folders.
    """
    with interruptible("the index is as it was"), Collection.open(index) as collection:
        unknown = [each for each in dict.fromkeys(ids) if each not in collection]
        removed = collection.remove(ids)
        count = len(collection)
    if as_json:
        say_json({"index": str(index), "removed": removed, "unknown": unknown, "pictures": count})
        return
    for each in unknown:
        note(f"there is no item {printable(each)}")
    say(f"{counted(removed, 'item')} removed; {shown_path(str(index))} holds {count:,}")


def merge(
    indexes: Annotated[list[Path], typer.Argument(metavar="X.clipdex", help="Indexes of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="X.clipdex", help="The new index.")],
    as_json: JsonOption = False,
) -> None:
    """Join indexes of one model into a new one, without embedding anything again.

    Ids, paths and metadata are kept. If several indexes have the same path or id, the last one wins. The indexes
    themselves are only read.
    """
    with interruptible("nothing was written"), rows_progress("copying") as progress:
        done = merge_indexes(indexes, out, progress)
    if as_json:
        say_json({"index": str(out)} | asdict(done))
        return
    twice = f"; {done.replaced:,} left out, as a later index has their path or id" if done.replaced else ""
    say(f"{shown_path(str(out))} holds {counted(done.rows, 'picture')}{twice}")
