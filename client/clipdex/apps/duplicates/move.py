"""Move duplicates out of the way, and back: nothing is deleted or overwritten.

Before the first file is moved, a journal of the whole plan is on disk in the target folder. Moving back reads it:
files that were not moved, or have changed since, are left where they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.apps.duplicates.groups import Duplicate, DuplicateGroup
from clipdex.apps.duplicates.moves import Move, moves_of
from clipdex.apps.duplicates.transfer import Left, content_of, make_folders, move_file, read_journal, write_journal
from clipdex.base.errors import ClipdexError, InvalidArgument
from clipdex.base.item_paths import id_of_text
from clipdex.base.object_paths import is_object
from clipdex.base.records import storable
from clipdex.sources.locations import containers

__all__ = ["Moved", "move_back", "move_duplicates"]

Progress = Callable[[int, int], None]


@dataclass
class Moved:
    """The result of a move. moved: (from, to). left: (path, why it was left). journal: the file that undoes it.

    stayed: (path, reason), of near and semantic duplicates that were not to be moved.
    """

    moved: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    stayed: list[tuple[str, str]] = field(default_factory=list)
    journal: Path | None = None


def move_duplicates(
    groups: Iterable[DuplicateGroup],
    folder: str | os.PathLike[str],
    indexed: Iterable[bytes],
    progress: Progress | None = None,
    *,
    min_cosine: float | None = None,
) -> Moved:
    """Move duplicates below `folder`, keeping their paths relative to the folder that all indexed files share.

    Moves files with the same bytes as one that stays; near and semantic duplicates only if `min_cosine` is given
    (`moves_of`).

    A file is moved if it and its keeper have, byte for byte, the content that was indexed; if it is a file of its
    own, not in a tar or table, not behind a symbolic link, and not the keeper itself by another name; and if its
    new place is free. The others are left, with the reason.

    Args:
        folder: created if missing; not one where indexed pictures are, nor inside the folder that they share.
        indexed: the paths of all pictures of the index.
        progress: called with the number of files examined and of all.
        min_cosine: also move duplicates whose vectors have at least this cosine similarity to their keeper's.

    Raises:
        InvalidArgument: indexed pictures are in `folder`, or it is inside the folder that they share; or
            `min_cosine` is not above 0 and at most 1.
        ClipdexError: the disk refused. What was moved is in the journal; the rest is where it was.
    """
    target = os.path.abspath(os.fsencode(folder))
    parents = {os.path.dirname(path) for path in indexed if os.path.lexists(path)}
    root = os.path.commonpath(parents) if parents else b"/"
    # The pictures of an indexed folder may all be in its subfolders. Those of several disks share only "/".
    held = parents | ({root, os.path.realpath(root)} - {b"/"})
    if inside := held & set(_folders_around(target)):
        raise InvalidArgument(
            f"{os.fspath(folder)} is inside {os.fsdecode(min(inside))}, where indexed pictures are: "
            "give a folder outside it, or the next run could index what was moved"
        )
    moves = [move for group in groups for move in moves_of(group, min_cosine)]
    plan = [(move.picture, move.keeper) for move in moves if move.moves and not _why_no_file(move)]
    result = Moved(stayed=[(move.picture.path, move.stays) for move in moves if not move.moves])
    result.left += [(move.picture.path, why) for move in moves if move.moves and (why := _why_no_file(move))]
    if not plan:
        return result
    try:
        make_folders(target)
        places = [os.path.join(target, os.path.relpath(os.fsencode(other.path), root)) for other, _ in plan]
        lines = zip(plan, places, strict=True)
        result.journal = write_journal(
            target, ((os.fsencode(other.path), place, other.content_hash) for (other, _), place in lines)
        )
        sound: dict[str, bool] = {}
        for done, ((other, keeper), place) in enumerate(zip(plan, places, strict=True), start=1):
            try:
                if keeper.path not in sound:
                    sound[keeper.path] = _is_there(keeper)
                if not sound[keeper.path]:
                    raise Left(f"its keeper {keeper.path} is gone, or has changed since it was indexed")
                _require_movable(other, keeper, root)
                if not place.startswith(os.path.join(target, b"")):
                    raise Left("it is outside the folder that the indexed pictures share")
                move_file(os.fsencode(other.path), place, other.content_hash)
                result.moved.append((other.path, os.fsdecode(place)))
            except Left as exc:
                result.left.append((other.path, str(exc)))
            if progress is not None:
                progress(done, len(plan))
    except OSError as exc:
        raise _refused(exc, target, result) from exc
    return result


def move_back(journal: str | os.PathLike[str], progress: Progress | None = None) -> Moved:
    """Move back the files that a journal lists.

    A file that is not where it was moved to, or has changed, is left; so is one whose old place is taken.

    Raises:
        InvalidArgument: the file is not a journal.
        ClipdexError: the disk refused; the same call resumes from there.
    """
    lines = read_journal(Path(journal))
    result = Moved(journal=Path(journal))
    for done, (old, new, content_hash) in enumerate(lines, start=1):
        try:
            if not os.path.lexists(new):
                why = "it was not moved" if os.path.lexists(old) else "it is in neither place"
                raise Left(why)
            move_file(new, old, content_hash)
            result.moved.append((os.fsdecode(new), os.fsdecode(old)))
        except Left as exc:
            result.left.append((os.fsdecode(old), str(exc)))
        except OSError as exc:
            raise _refused(exc, old, result) from exc
        if progress is not None:
            progress(done, len(lines))
    return result


def _why_no_file(move: Move) -> str:
    """Say which of the two is no file: an item that was added by id, or an object in a bucket; "" if none."""
    if is_object(os.fsencode(move.picture.path)):
        return "it is an object in a bucket, which is not changed"
    if is_object(os.fsencode(move.keeper.path)):
        return f"its keeper {move.keeper.path} is an object in a bucket"
    if id_of_text(move.picture.path) is not None:
        return "it was added by id, and is not a file"
    return "" if id_of_text(move.keeper.path) is None else f"its keeper {move.keeper.path} was added by id"


def _require_movable(other: Duplicate, keeper: Duplicate, root: bytes) -> None:
    path = os.fsencode(other.path)
    try:
        info = os.lstat(path)
    except OSError as exc:
        if any(os.path.isfile(container) for container, _ in containers(path)):
            raise Left("it is inside a tar or a table, which is not changed") from exc
        raise Left(f"it cannot be examined: {exc.strerror}") from exc
    if stat.S_ISLNK(info.st_mode):
        raise Left("it is a symbolic link")
    if not stat.S_ISREG(info.st_mode):
        raise Left("it is not a file any more")
    folder = os.path.dirname(path)
    while len(folder) > len(root):
        if os.path.islink(folder):
            raise Left(f"it is behind the symbolic link {os.fsdecode(folder)}")
        folder = os.path.dirname(folder)
    with suppress(OSError):
        if os.path.samestat(info, os.stat(os.fsencode(keeper.path))):
            raise Left(f"it is the same file as its keeper {keeper.path}, by another name")


def _is_there(keeper: Duplicate) -> bool:
    """Return whether the keeper is what was indexed: by its bytes or, inside another file, by that file's time."""
    path = os.fsencode(keeper.path)
    try:
        if os.path.isfile(path):
            return content_of(path) == keeper.content_hash
        held = [container for container, _ in containers(path) if os.path.isfile(container)]
        times = [storable(os.stat(container).st_mtime_ns) for container in held]
    except OSError:
        return False
    return keeper.mtime_ns in times


def _refused(error: OSError, where: bytes, result: Moved) -> ClipdexError:
    advice = f";  clipdex duplicates --undo {result.journal}  moves them back" if result.journal else ""
    return ClipdexError(
        f"{os.fsdecode(where)}: moving stopped: {error.strerror or error}; {len(result.moved):,} were moved, "
        f"the others are where they were{advice}"
    )


def _folders_around(path: bytes) -> list[bytes]:
    """Return a folder and all above it, by their own names and with links resolved."""
    found = []
    for start in {path, os.path.realpath(path)}:
        while True:
            found.append(start)
            above = os.path.dirname(start)
            if above == start:
                break
            start = above
    return found
