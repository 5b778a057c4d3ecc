"""Which source a path means: a folder, a picture or a glob of them, tar shards, or a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clipdex.base.errors import MissingExtra, SourceError
from clipdex.base.records import Failure
from clipdex.sources.csv_table import CsvTable
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.globs import expanded, is_glob
from clipdex.sources.member_paths import TABLE_SUFFIXES, TAR_SUFFIXES, containers
from clipdex.sources.scan import SUFFIXES
from clipdex.sources.shard_folder import shards_in
from clipdex.sources.source import Chosen, Folder, Matching, PathList, Several, Source
from clipdex.sources.tar_shards import TarShards

__all__ = ["as_source", "is_picture_glob", "ledger_source", "names_meant", "open_source", "open_sources"]
__all__ += ["retry_source"]

_PACKED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def as_source(source: Source | str | os.PathLike[str]) -> Source:
    """A path means what `open_source` takes it for."""
    return open_source(Path(source)) if isinstance(source, (str, os.PathLike)) else source


def open_source(
    path: Path,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    tar: bool = False,
    exclusion: Exclusion | None = None,
) -> Source:
    """A folder, a picture, a glob that means pictures, a .tar, or a table (.csv, .tsv, .parquet).

    A folder without a picture, but with tars, or with Parquet tables, means these. Braces mean several paths, as
    in `{000..099}.tar`.

    Args:
        column: of a table, the one with the pictures or their paths.
        delimiter: of a CSV, what separates its cells; what its first line suggests if not given.
        tar: in a folder, look for .tar files and not for pictures.
        exclusion: what to leave out of a folder; hidden files and junk if not given.

    Raises:
        InvalidArgument: the delimiter is not one character.
        SourceError: it is none of these; or the table cannot be read, or has no such column.
        MissingExtra: Parquet without pyarrow.
    """
    name = path.name.lower()
    if path.is_dir():
        if tar:
            return TarShards(below=path, exclusion=exclusion)
        return shards_in(path, column, exclusion) or Folder(path, exclusion=exclusion)
    names = names_meant(path)
    if names != [path]:
        return open_sources(names, column=column, delimiter=delimiter, tar=tar, exclusion=exclusion)
    if is_picture_glob(path):
        return Matching(str(path), exclusion)
    if name.endswith(".tar"):
        return TarShards([path])
    if name.endswith((".csv", ".tsv")):
        return CsvTable(path, column, delimiter)
    if name.endswith(".parquet"):
        from clipdex.sources.parquet_table import ParquetTable  # pyarrow is an extra

        return ParquetTable(path, column)
    if name.endswith(_PACKED_TARS):
        raise SourceError(
            f"{path}: a picture in a compressed tar cannot be reached without unpacking all before it; "
            "decompress it to a .tar first"
        )
    if path.exists() and os.fsencode(name).endswith(SUFFIXES):
        return PathList([os.fsencode(path)], str(path))
    if path.exists():
        raise SourceError(
            f"{path}: is neither a folder nor a .tar, .csv, .tsv or .parquet file, nor a picture by its "
            "suffix; a file that lists paths goes to --files-from"
        )
    return Folder(path)  # which says that there is no such folder


def is_picture_glob(path: Path) -> bool:
    """Whether a path is a glob that means pictures, and no file of that name."""
    shard_or_table = path.name.lower().encode("utf-8", "replace").endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES))
    return is_glob(str(path)) and not shard_or_table and not os.path.lexists(path)


def open_sources(
    paths: Sequence[Path],
    *,
    column: str | None = None,
    delimiter: str | None = None,
    tar: bool = False,
    exclusion: Exclusion | None = None,
) -> Source:
    """One source of several paths, as `open_source` takes each."""
    paths = [name for path in paths for name in names_meant(path)]
    shards = [path for path in paths if path.name.lower().endswith(".tar") and not path.is_dir()]
    pictures = [path for path in paths if os.fsencode(path.name.lower()).endswith(SUFFIXES) and path.is_file()]
    apart = {*shards, *pictures}
    sources = [
        open_source(path, column=column, delimiter=delimiter, tar=tar, exclusion=exclusion)
        for path in paths
        if path not in apart
    ]
    if pictures:  # a shell may have made a hundred thousand of a `*`
        sources.append(PathList((os.path.abspath(os.fsencode(path)) for path in pictures), "the pictures named"))
    if shards:
        sources.append(TarShards(shards))
    return sources[0] if len(sources) == 1 else Several(sources)


def names_meant(path: Path) -> list[Path]:
    """What a path with braces stands for: itself, if it is there. Raises InvalidArgument if that is too much."""
    if "{" not in str(path) or os.path.lexists(path):
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
    """What stands in a ledger, to be tried again: files, folders, and what lies in tars and tables.

    Args:
        name: what to call the ledger in messages.
        column, delimiter: as for `open_source`, of tables that are gone through as a whole.
        on_unopened: told which tar or table cannot be opened, and why; its lines stay in the ledger as they are.

    Raises:
        SourceError: not one can be tried.
    """
    refused: list[str] = []
    paths: list[bytes] = []
    sources: list[Source] = []
    for failure in ledger:
        # A folder that is `not_a_file` was named in a list, which takes files only.
        if failure.reason != "not_a_file" and os.path.isdir(failure.path):
            sources.append(Folder(Path(os.fsdecode(failure.path)), part=True))
        else:
            paths.append(failure.path)
    sources += _sources_of(paths, name, column, delimiter, refused.append)
    if on_unopened is not None:
        for why in refused:
            on_unopened(why)
    if not sources:
        raise SourceError(": ".join([name, "nothing in it can be tried again", *refused[:1]]))
    return Several(sources)


def retry_source(paths: Iterable[bytes], name: str) -> Source:
    """Files of an index, whatever source they came from: ordinary ones, and those inside other files.

    name: what to call them in messages.
    """
    return Several(_sources_of(paths, name, None, None, lambda why: None))


def _sources_of(
    paths: Iterable[bytes],
    name: str,
    column: str | None,
    delimiter: str | None,
    on_unopened: Callable[[str], None],
) -> list[Source]:
    plain: list[bytes] = []
    inside: dict[tuple[bytes, str | None], list[bytes]] = {}  # (container, column) -> its members
    for path in paths:
        held = _held(path)
        if held is None:
            plain.append(path)
        else:
            inside.setdefault(held, []).append(path)
    sources: list[Source] = [PathList(plain, name)] if plain else []
    for (container, of_rows), members in inside.items():
        place = os.fsdecode(container)
        try:
            source = open_source(Path(place), column=of_rows or column, delimiter=delimiter)
        except (SourceError, MissingExtra) as exc:
            on_unopened(str(exc) if place in str(exc) else f"{place}: {exc}")
            continue
        # As a whole where the container was damaged, or where a row was without a path and may have one now.
        whole = container in members or getattr(source, "names_files", False)
        sources.append(source if whole else Chosen(source, members))
    return sources


def _held(path: bytes) -> tuple[bytes, str | None] | None:
    """(container, column) of a member, or of a container itself; None of an ordinary file."""
    if os.path.isfile(path):
        return (path, None) if path.lower().endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES)) else None
    for container, member in containers(path):
        if os.path.isfile(container):
            table = container.lower().endswith(TABLE_SUFFIXES)
            return container, os.fsdecode(member.rpartition(b"/")[0]) if table else None
    return None
