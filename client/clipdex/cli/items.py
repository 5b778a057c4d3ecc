"""`clipdex add`, `remove` and `merge`: items by id, and indexes joined."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.apps.add_listed import ListedFailure, add_listed
from clipdex.base.counting import counted
from clipdex.base.errors import AddFailed, InvalidArgument
from clipdex.base.json_text import parse_plain_json
from clipdex.cli.common import JsonOption, interruptible, shown_path, typed_delimiter
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import takes_index, takes_index_option
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.collection.collection import Collection
from clipdex.collection.item import Item
from clipdex.index.discard import discard_if_empty
from clipdex.index.manifest import MANIFEST, Manifest
from clipdex.index.merge import merge_indexes
from clipdex.index.split import split_index
from clipdex.sources.id_list import IdList

__all__ = ["add", "merge", "remove", "split"]


@takes_index_option
@connects
def add(
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="PICTURE", help="Picture files.", show_default=False)
    ] = None,
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
        bool, typer.Option("--no-exif", help="Do not read EXIF, XMP and IPTC data: date, camera, place …")
    ] = False,
    local_features: Annotated[
        bool,
        typer.Option(
            "--local-features",
            help="Make local features of each picture, also if the index has none yet; see  clipdex features.",
        ),
    ] = False,
    ids_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Instead of PICTURE: a table (.csv, .tsv) or JSON lines with id and path, other columns being "
            "metadata; or lines of a path, a tab and an id. - for standard input.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --ids-from: column of the paths, if not path, file, …", show_default=False
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --ids-from: column of the ids, if not id.", show_default=False),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR", help="With --ids-from: delimiter of a table, if not detected.", show_default=False
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="With --ids-from: exit with status 1 if a picture was not added.")
    ] = False,
    connection: Connection,
    as_json: JsonOption = False,
) -> None:
    """Add pictures to an index by ids, or replace those of the same id.

    The index is created if it does not exist. Items belong to no folder: clipdex remove removes them, clipdex
    index never does. A picture that cannot be added is named, and the others are added. With --ids-from, pictures
    that were added before and have not changed are skipped. To an index that has local features, pictures are
    added with theirs, by which  clipdex match  finds them.
    """
    if bool(pictures) == (ids_from is not None):
        raise InvalidArgument("give either a PICTURE or --ids-from FILE")
    said = _metadata(metadata)
    kept: dict[str, Any] = {"exif": not no_exif, "local_features": True if local_features else None}
    if ids_from is not None:
        if item_id is not None:
            raise InvalidArgument("--id is for one picture, but --ids-from has ids of its own")
        with _list_named(ids_from, column, id_column, typed_delimiter(delimiter)) as listed:
            _add_listed(listed, index, said, connection, as_json, kept, strict=strict)
        return
    if strict or column or id_column or delimiter:
        raise InvalidArgument("--column, --id-column, --delimiter and --strict are for --ids-from")
    items = _items(pictures or [], item_id, said)
    failures: dict[str, Any] = {}
    with _opened(index, connection, kept) as collection:
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
        say(f"{counted(added, 'item')} added; {_holds(index, count)}")
    if failures:
        raise typer.Exit(1)


def _items(pictures: list[Path], item_id: str | None, metadata: dict[str, Any] | None) -> list[Item]:
    ids = [path.name for path in pictures] if item_id is None else [item_id]
    if len(ids) < len(pictures):
        raise InvalidArgument(f"--id {item_id!r} is for one picture, but {len(pictures)} are given")
    (name, times), *_ = Counter(ids).most_common(1)
    if times > 1:
        raise InvalidArgument(
            f"{counted(times, 'picture has', 'pictures have')} the name {name}, their id; give each its --id"
        )
    return [Item(each, path, metadata=metadata) for each, path in zip(ids, pictures, strict=True)]


@contextmanager
def _list_named(name: str, column: str | None, id_column: str | None, delimiter: str | None) -> Iterator[IdList]:
    """Open a list; standard input is copied to a file first, since a list is read more than once."""
    if name != "-":
        yield IdList(Path(name), column=column, id_column=id_column, delimiter=delimiter)
        return
    with tempfile.NamedTemporaryFile(prefix="clipdex-ids-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield IdList(
            Path(file.name),
            folder=Path.cwd(),
            name="standard input",
            column=column,
            id_column=id_column,
            delimiter=delimiter,
        )


def _add_listed(
    listed: IdList,
    index: Path,
    metadata: dict[str, Any] | None,
    connection: Connection,
    as_json: bool,
    kept: dict[str, Any],
    *,
    strict: bool,
) -> None:
    failures: list[ListedFailure] = []

    def fail(failure: ListedFailure) -> None:
        failures.append(failure)
        complain(f"clipdex: {printable(f'{listed.name}: {failure.where}: {failure.why}')}")

    with _opened(index, connection, kept) as collection, rows_progress("adding") as progress:
        total = 0 if progress is None else sum(1 for _ in listed)
        done = add_listed(
            collection,
            listed,
            metadata=metadata,
            on_failure=fail,
            progress=None if progress is None else lambda lines: progress(lines, total),
        )
        count = len(collection)
    if as_json:
        why = [asdict(failure) for failure in failures]
        say_json({"index": str(index)} | asdict(done) | {"pictures": count, "failures": why})
    else:
        say(
            f"{counted(done.added, 'item')} added, {done.unchanged:,} unchanged, {done.failed:,} failed; "
            f"{_holds(index, count)}"
        )
    if failures and strict:
        raise typer.Exit(1)


@contextmanager
def _opened(index: Path, connection: Connection, kept: dict[str, Any]) -> Iterator[Collection]:
    """Open a collection to add to; if it is created, and nothing gets added, nothing is left of it.

    kept: arguments of `Collection.open` that say what is kept of pictures.
    """
    is_new = not os.path.lexists(index)
    model = Manifest.read(index).model if (index / MANIFEST).is_file() else None
    with interruptible(f"what was committed is in {index}; run the same command again to add the rest"):
        try:
            with (
                connection.open(model=model) as client,
                Collection.open(index, client=client, **kept) as collection,
            ):
                yield collection
        finally:
            if is_new:
                discard_if_empty(index)


def _holds(index: Path, count: int) -> str:
    name = shown_path(str(index))
    return f"{name} holds {count:,}" if os.path.lexists(index) else f"{name} was not created"


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


@takes_index
def split(
    index: Path,
    *,
    parts: Annotated[int, typer.Option("--parts", metavar="N", min=1, help="Number of parts.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The new index of parts.")],
    as_json: JsonOption = False,
) -> None:
    """Divide an index into parts, without embedding anything again.

    The result is searched as one index. The index itself, which may have parts already, is only read;
    clipdex merge DIR --out X.clipdex  makes one index of parts.
    """
    with interruptible("nothing was written"), rows_progress("copying") as progress:
        done = split_index(index, out, parts, progress)
    if as_json:
        say_json({"index": str(out)} | asdict(done))
        return
    say(f"{shown_path(str(out))} holds {counted(done.rows, 'picture')} in {counted(done.parts, 'part')}")
