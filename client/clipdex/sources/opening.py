"""Opens what a path means: a source (a folder, a glob, tar shards, a table), or a picture inside another file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import ClipdexError, MissingExtra, SourceError
from clipdex.base.item_paths import id_of_text, is_item
from clipdex.base.limits import Limits
from clipdex.base.object_paths import WEB, is_object, object_meant
from clipdex.base.records import Failure
from clipdex.sources.csv_table import CsvTable
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.globs import Scope, expanded, is_glob
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES, containers
from clipdex.sources.object_folder import ObjectFolder, Objects
from clipdex.sources.object_member import object_bytes
from clipdex.sources.object_store import FETCHES, parts_of
from clipdex.sources.remote import open_remote
from clipdex.sources.scan import SUFFIXES
from clipdex.sources.shard_folder import shards_in
from clipdex.sources.source import Chosen, Folder, Matching, PathList, Several, Source
from clipdex.sources.storage import is_there
from clipdex.sources.tar_shards import TarShards, tar_member

__all__ = [
    "as_source",
    "is_picture_glob",
    "ledger_source",
    "member_bytes",
    "names_meant",
    "open_source",
    "open_sources",
    "retry_source",
]

_KINDS = (*SUFFIXES, *TAR_SUFFIXES, *TABLE_SUFFIXES)
_PACKED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def as_source(source: Source | PathLike) -> Source:
    """Return a source unchanged, and open a path with `open_source`."""
    return open_source(source) if isinstance(source, (str, os.PathLike)) else source


def open_source(
    path: PathLike,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    tar: bool = False,
    exclusion: Exclusion | None = None,
    fetches: int = FETCHES,
) -> Source:
    """Open a folder, a picture, a glob of pictures, a .tar, a table (.csv, .tsv, .parquet), or a bucket's URL.

    A folder that has no pictures, but tars or Parquet tables, means those. Braces mean several paths, as in
    `{000..099}.tar`.

    Args:
        column: the table column with the pictures or their paths.
        delimiter: the cell delimiter of a CSV; detected from its first line if not given.
        tar: look for .tar files in a folder, not for pictures.
        exclusion: what to leave out of a folder; hidden files and junk if not given.
        fetches: objects of a bucket to read at a time.

    Raises:
        InvalidArgument: the delimiter is not one character.
        SourceError: the path is none of these; or the table cannot be read, or has no such column.
        MissingExtra: a Parquet file without pyarrow; a bucket without obstore.
    """
    path = as_path(path, "the path of a source")
    names = names_meant(path)
    if names != [path]:
        return open_sources(
            names, column=column, delimiter=delimiter, tar=tar, exclusion=exclusion, fetches=fetches
        )
    if (url := object_meant(str(path))) is not None:
        return _open_in_bucket(url, column, delimiter, tar, exclusion, fetches)
    name = path.name.lower()
    if path.is_dir():
        if tar:
            return TarShards(below=path, exclusion=exclusion)
        return shards_in(path, column, exclusion) or Folder(path, exclusion=exclusion)
    if is_picture_glob(path):
        return Matching(str(path), exclusion)
    if name.endswith(".tar"):
        return TarShards([path])
    if name.endswith((".csv", ".tsv")):
        return CsvTable(path, column, delimiter, fetches=fetches)
    if name.endswith(".parquet"):
        from clipdex.sources.parquet_table import ParquetTable  # pyarrow is an extra

        return ParquetTable(path, column, fetches=fetches)
    if name.endswith(_PACKED_TARS):
        raise _packed(path)
    if path.exists() and os.fsencode(name).endswith(SUFFIXES):
        return PathList([os.fsencode(path)], str(path))
    if path.exists():
        raise SourceError(
            f"{path}: is neither a folder nor a .tar, .csv, .tsv or .parquet file, and has no picture's "
            "suffix; a file that lists paths goes to --files-from"
        )
    return Folder(path)  # which reports that there is no such folder


def _open_in_bucket(
    url: str,
    column: str | None,
    delimiter: str | None,
    tar: bool,
    exclusion: Exclusion | None,
    fetches: int,
) -> Source:
    """Open the URL of a bucket, a prefix, a picture, a tar, a table, or a glob of one kind of these.

    Raises:
        MissingExtra: obstore is not installed.
        SourceError: it names no bucket; or the store, or the table, cannot be read.
    """
    scheme, _, key = parts_of(url)
    if scheme in WEB and "=" in key.partition("?")[2]:
        raise SourceError(f"{url}: has a query, which no file below it would have; give the address without it")
    bucket = open_remote(url)
    name = key.lower().encode("utf-8", "surrogateescape")
    if is_glob(key) and name.endswith(_KINDS) and bucket.head(key) is None:
        scope = Scope(f"/{key}")
        below = scope.folder.strip("/")
        within = (exclusion or Exclusion()).within(scope)
        if name.endswith(SUFFIXES):
            return ObjectFolder(bucket, below, exclusion=within, fetches=fetches)
        place = f"{bucket.url}/{below}"
        if name.endswith(TAR_SUFFIXES):
            return TarShards(below=place, exclusion=within, fetches=fetches)
        if name.endswith(b".parquet"):
            from clipdex.sources.table_folder import TableFolder  # pyarrow is an extra

            return TableFolder(place, column, within, fetches=fetches)
        raise SourceError(f"{url}: name each table, since those of a glob may have different columns")
    if name.endswith(TAR_SUFFIXES):
        return TarShards([url], fetches=fetches)
    if name.endswith((b".csv", b".tsv")):
        return CsvTable(url, column, delimiter, fetches=fetches)
    if name.endswith(b".parquet"):
        from clipdex.sources.parquet_table import ParquetTable  # pyarrow is an extra

        return ParquetTable(url, column, fetches=fetches)
    if key.lower().endswith(_PACKED_TARS):
        raise _packed(url)
    if name.endswith(SUFFIXES):
        return Objects([url], fetches=fetches)
    if tar:
        return TarShards(below=url, exclusion=exclusion, fetches=fetches)
    return shards_in(url, column, exclusion, fetches) or ObjectFolder(
        bucket, key, exclusion=exclusion, fetches=fetches
    )


def _packed(place: object) -> SourceError:
    return SourceError(
        f"{place}: pictures in a compressed tar cannot be read without unpacking everything before them; "
        "decompress it to a .tar first"
    )


def is_picture_glob(path: Path) -> bool:
    """Return whether a path is a glob of pictures, and not the name of an existing file."""
    shard_or_table = path.name.lower().encode("utf-8", "replace").endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES))
    return is_glob(str(path)) and not shard_or_table and not os.path.lexists(path)


def open_sources(
    paths: Sequence[PathLike],
    *,
    column: str | None = None,
    delimiter: str | None = None,
    tar: bool = False,
    exclusion: Exclusion | None = None,
    fetches: int = FETCHES,
) -> Source:
    """Open several paths as one source, each as `open_source` does."""
    meant = [name for path in paths for name in names_meant(as_path(path, "the path of a source"))]
    here = [path for path in meant if object_meant(str(path)) is None]
    shards = [path for path in meant if path.name.lower().endswith(".tar") and not path.is_dir()]
    shards = [path for path in shards if path in here or not is_glob(str(path))]
    pictures = [path for path in here if os.fsencode(path.name.lower()).endswith(SUFFIXES) and path.is_file()]
    apart = {*shards, *pictures}
    sources = [
        open_source(path, column=column, delimiter=delimiter, tar=tar, exclusion=exclusion, fetches=fetches)
        for path in meant
        if path not in apart
    ]
    if pictures:  # a shell may have expanded a `*` to a hundred thousand
        sources.append(PathList((os.path.abspath(os.fsencode(path)) for path in pictures), "the pictures named"))
    if shards:
        sources.append(TarShards(shards, fetches=fetches))
    return sources[0] if len(sources) == 1 else Several(sources)


def names_meant(path: Path) -> list[Path]:
    """Expand the braces of a path, unless it exists or is a prefix. Raises InvalidArgument for too many."""
    if "{" not in str(path) or os.path.lexists(path):
        return [path]
    if object_meant(str(path)) is not None and not os.fsencode(str(path).lower()).endswith(_KINDS):
        return [path]
    return [Path(name) for name in expanded(str(path))]


def ledger_source(
    ledger: Iterable[Failure],
    name: str,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    on_unopened: Callable[[str], None] | None = None,
) -> Source:
    """Make a source of the failures in a ledger, to retry them: files, folders, and members of tars and tables.

    Args:
        name: the ledger's name in messages.
        column, delimiter: as for `open_source`, for tables that are read completely.
        on_unopened: called with the reason for each tar or table that cannot be opened; its lines stay in the
            ledger.

    Raises:
        SourceError: none of them can be retried.
    """
    refused: list[str] = []
    paths: list[bytes] = []
    sources: list[Source] = []
    for failure in ledger:
        if is_item(failure.path):
            continue  # a damaged row of an item that was added by id: there is no file to read again
        if is_object(failure.path) and failure.reason == "not_a_path":
            continue  # a URL in a table or list that names no object
        # A folder that failed as `not_a_file` was named in a list, which takes only files.
        if failure.reason != "not_a_file" and os.path.isdir(failure.path):
            sources.append(Folder(Path(os.fsdecode(failure.path)), part=True))
        else:
            paths.append(failure.path)
    sources += _sources_of(paths, name, column, delimiter, refused.append)
    if on_unopened is not None:
        for why in refused:
            on_unopened(why)
    if not sources:
        raise SourceError(": ".join([name, "nothing in it can be retried", *refused[:1]]))
    return Several(sources)


def retry_source(paths: Iterable[bytes], name: str) -> Source:
    """Make a source of files of an index, whatever their original source: ordinary ones, and members of others.

    name: their name in messages.
    """
    return Several(_sources_of(paths, name, None, None, lambda why: None))


_MOST_DIGITS = 19  # of a row's number; Python refuses to read one of thousands


def member_bytes(path: str) -> bytes | None:
    """Read a picture that an index knows as `FILE!/MEMBER`, or as an object's URL; None if it is neither, or gone.

    A call may list the tar, or read a row group of the table: fast enough for a page of thumbnails.
    """
    raw = os.fsencode(path)
    if id_of_text(path) is not None or (not is_object(raw) and os.path.lexists(raw)):
        return None
    for container, member in containers(raw):
        try:
            if not is_there(container):
                continue
            if container.lower().endswith(TAR_SUFFIXES):
                return tar_member(container, member, Limits().max_file_bytes)
            if Path(os.fsdecode(container)).suffix.lower() == ".parquet":
                from clipdex.sources.parquet_table import parquet_cell  # pyarrow is an extra

                column, _, row = member.rpartition(b"/")
                known = row.isdigit() and len(row) < _MOST_DIGITS
                return parquet_cell(container, os.fsdecode(column), int(row)) if known else None
        except (OSError, ClipdexError):
            return None
    try:
        return object_bytes(path, Limits().max_file_bytes) if is_object(raw) else None
    except (OSError, ClipdexError):
        return None


def _sources_of(
    paths: Iterable[bytes],
    name: str,
    column: str | None,
    delimiter: str | None,
    on_unopened: Callable[[str], None],
) -> list[Source]:
    plain: list[bytes] = []
    objects: list[str] = []
    inside: dict[tuple[bytes, str | None], list[bytes]] = {}  # (container, column) -> its members
    there = functools.cache(is_there)  # of an object, a request
    for path in paths:
        held = _held(path, there)
        if held is None and is_object(path):
            objects.append(os.fsdecode(path))
        elif held is None:
            plain.append(path)
        else:
            inside.setdefault(held, []).append(path)
    sources: list[Source] = [PathList(plain, name)] if plain else []
    if objects:
        sources.append(Objects(objects))
    for (container, of_rows), members in inside.items():
        place = os.fsdecode(container)
        try:
            source = open_source(place, column=of_rows or column, delimiter=delimiter)
        except (SourceError, MissingExtra) as exc:
            on_unopened(str(exc) if place in str(exc) else f"{place}: {exc}")
            continue
        # Read it completely if the container was damaged, or a row without a path may have one now.
        whole = container in members or getattr(source, "names_files", False)
        sources.append(source if whole else Chosen(source, members))
    return sources


def _held(path: bytes, there: Callable[[bytes], bool]) -> tuple[bytes, str | None] | None:
    """Return (container, column) of a member or of a container itself; None for an ordinary file."""
    is_container = path.lower().endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES))
    if is_object(path):
        if is_container and there(path):
            return path, None
    elif os.path.isfile(path):
        return (path, None) if is_container else None
    for container, member in containers(path):
        if there(container):
            table = container.lower().endswith(TABLE_SUFFIXES)
            return container, os.fsdecode(member.rpartition(b"/")[0]) if table else None
    return None
