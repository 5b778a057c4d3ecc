"""Add the pictures of a list to a collection by their ids; those that it holds already are only read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import AddFailed, InvalidArgument, SourceError
from clipdex.collection.collection import Collection
from clipdex.collection.item import Item
from clipdex.sources.id_list import ListedItem

__all__ = ["AddedListed", "ListedFailure", "add_listed"]

_AT_ONCE = 64  # items of one thread, which share requests


@dataclass(frozen=True)
class ListedFailure:
    """A line whose picture could not be added. where: the line; id: "" if it has none; why: a sentence."""

    where: str
    id: str
    why: str


@dataclass(frozen=True)
class AddedListed:
    """The result of adding a list, in lines. added: new or replaced items. unchanged: items that were there."""

    added: int
    unchanged: int
    failed: int


def add_listed(
    collection: Collection,
    listed: Iterable[ListedItem],
    *,
    metadata: Mapping[str, Any] | None = None,
    on_failure: Callable[[ListedFailure], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> AddedListed:
    """Add the pictures of a list by their ids, or replace those of the same id, on all cores.

    What was added is committed every few seconds and at the end. Called again after an interruption, it reads the
    files that are there already, without embedding them.

    Args:
        metadata: of every picture, besides its own, which counts where both have a field.
        on_failure: called for each line that cannot be added.
        progress: called with the number of lines so far.

    Raises:
        SourceError: the list cannot be read any further; what came before was added.
        ServerError, IndexFault: the server or the disk failed; some of what came before was added.
    """
    broken: list[SourceError] = []
    lines = _each_id_once(_until_broken(listed, broken))
    added = unchanged = failed = done = 0
    waiting: deque[Future[_Part]] = deque()

    def take(part: _Part) -> None:
        nonlocal added, unchanged, failed, done
        added, unchanged, failed = added + part.added, unchanged + part.unchanged, failed + len(part.failures)
        done += part.lines
        for failure in part.failures:
            if on_failure is not None:
                on_failure(failure)
        if progress is not None:
            progress(done)

    threads = usable_cpus()
    with ThreadPoolExecutor(threads, thread_name_prefix="clipdex-add") as pool:
        try:
            while some := list(islice(lines, _AT_ONCE)):
                waiting.append(pool.submit(_add, collection, some, metadata or {}))
                if len(waiting) > threads:
                    take(waiting.popleft().result())
            while waiting:
                take(waiting.popleft().result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    collection.commit()
    if broken:
        raise broken[0]
    return AddedListed(added, unchanged, failed)


@dataclass(frozen=True)
class _Part:
    lines: int
    added: int
    unchanged: int
    failures: list[ListedFailure]


def _until_broken(listed: Iterable[ListedItem], broken: list[SourceError]) -> Iterator[ListedItem]:
    """Yield the lines up to one that cannot be read, whose error is put into `broken`."""
    try:
        yield from listed
    except SourceError as exc:
        broken.append(exc)


def _each_id_once(lines: Iterable[ListedItem]) -> Iterator[ListedItem]:
    """Yield the lines; of several with one id, all but the first say so: nothing says which would win."""
    seen: dict[str, str] = {}  # id -> its line
    for line in lines:
        first = seen.setdefault(line.id, line.where) if line.id else line.where
        twice = first != line.where
        yield ListedItem(line.where, line.id, why=f"has the same id as {first}") if twice else line


def _add(collection: Collection, lines: list[ListedItem], metadata: Mapping[str, Any]) -> _Part:
    failures: list[ListedFailure] = []
    items: dict[str, Item] = {}
    where: dict[str, str] = {}
    unchanged = 0
    for line in lines:
        if line.why:
            failures.append(ListedFailure(line.where, line.id, line.why))
            continue
        try:
            item = Item(line.id, Path(os.fsdecode(line.path)), metadata={**metadata, **line.metadata})
        except InvalidArgument as exc:
            failures.append(ListedFailure(line.where, line.id, str(exc)))
            continue
        if collection.holds(item):
            unchanged += 1
        else:
            items[line.id], where[line.id] = item, line.where
    added = 0
    try:
        added = collection.add(list(items.values()), flush=False) if items else 0
    except AddFailed as exc:
        added = exc.added
        failures += [ListedFailure(where[each], each, str(error)) for each, error in exc.failures.items()]
    return _Part(len(lines), added, unchanged, failures)
