"""features.sqlite: the local features of pictures, by the hash of their content. docs/index-format.md.

It is a side file: without it nothing but matching is missing. A moved or copied file keeps its features, since its
content is the same. Those of removed pictures stay until the index is compacted, as their rows do.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from clipdex.base.counting import counted
from clipdex.base.errors import (
    IndexDamaged,
    IndexFault,
    IndexFormatError,
    IndexLocked,
    IndexWriteError,
    InvalidArgument,
)
from clipdex.index.checksum import is_sound, record_crc32c
from clipdex.index.file_system import lock_file
from clipdex.index.files import fault
from clipdex.index.schema import (
    DAMAGE,
    fetched,
    require_still,
    unreadable,
    was_refused,
)
from clipdex.index.side.database import open_database, remove_database, transaction
from clipdex.index.side.feature_schema import ANEW, RECIPE_COLUMNS, make_file, put_recipe, require_tables
from clipdex.index.wal import wal_damage
from clipdex.looks.local_features import MOST_POINTS, LocalFeatures, Recipe

__all__ = [
    "FEATURES_FILE",
    "FEATURES_LOCK",
    "FeatureFile",
    "feature_count",
    "feature_damages",
    "has_features",
    "lock_features",
    "make_features",
    "remove_features",
]

FEATURES_FILE = "features.sqlite"
FEATURES_LOCK = "features.lock"

_ASKED_AT_ONCE = 500  # SQLite takes 999 parameters on old builds

_COLUMNS = "content_hash, width, height, points, keypoints, descriptors"
# Every record after the first of its content, and the first; by the table itself, since its index may be damaged.
_ADDED_AGAIN = (
    "SELECT id, first FROM features NOT INDEXED JOIN (SELECT content_hash AS content, min(id) AS first FROM "
    "features NOT INDEXED GROUP BY content_hash HAVING count(*) > 1) ON content_hash = content WHERE id > first"
)


class FeatureFile:
    """The open database. Safe to share between threads; close it.

    recipe: how its features were made. identity: 16 random bytes, drawn when it was made or emptied, or
    damaged records were dropped.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, place: tuple[int, int]) -> None:
        """place: device and inode of the file, as of before it was opened."""
        self._path = path
        self._db = db
        self._place = place
        self._lock = threading.Lock()
        self._version = self._data_version()  # before the first read: a commit in between is seen as new
        self.recipe, self.identity = self._read_recipe()

    @classmethod
    def open(cls, directory: Path, *, write: bool = False) -> FeatureFile | None:
        """Open the features of an index; None if it has none.

        Raises:
            IndexDamaged: it is damaged, or no such file.
            IndexFormatError: it is of a newer version.
            IndexWriteError: it cannot be opened for writing.
            IndexFault: the system refuses to read it now.
        """
        path = directory / FEATURES_FILE
        place = _place(path)
        if place is None:
            return None
        db = open_database(path, lambda db: require_tables(db, path), write=write, anew=ANEW)
        try:
            return cls(path, db, place)
        except BaseException:
            db.close()
            raise

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether an index has such a file, sound or not. Raises IndexFault if the system does not tell."""
        return _place(directory / FEATURES_FILE) is not None

    @classmethod
    def open_or_make(cls, directory: Path, recipe: Recipe) -> FeatureFile:
        """Open the features of an index for writing; make an empty file of this recipe if there is none.

        A file that exists keeps its own recipe.

        Raises: as `open`.
        """
        found = FeatureFile.open(directory, write=True)
        if found is None:
            make_file(directory / FEATURES_FILE, recipe)
            found = FeatureFile.open(directory, write=True)
        assert found is not None
        return found

    def get(self, content_hash: bytes) -> LocalFeatures | None:
        """Return the features of a content; None if there are none, or they are damaged. Raises IndexFault."""
        return self.several([content_hash]).get(content_hash)

    def several(self, hashes: Sequence[bytes]) -> dict[bytes, LocalFeatures]:
        """Return the features of those contents that have undamaged ones. Raises IndexFault."""
        found = {}
        for some in _chunks(hashes):
            sql = f"SELECT {_COLUMNS}, crc32c FROM features WHERE content_hash IN ({_marks(some)})"  # noqa: S608
            for record in self._rows(sql, some):
                features = self._sound(record)
                if features is not None:
                    found[record[0]] = features
        return found

    def held(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Return those contents that have features, damaged or not. Raises IndexFault."""
        found: set[bytes] = set()
        for some in _chunks(hashes):
            sql = f"SELECT content_hash FROM features WHERE content_hash IN ({_marks(some)})"  # noqa: S608
            found.update(key for (key,) in self._rows(sql, some))
        return found

    def count(self) -> tuple[int, int]:
        """Return the number of records and the last id; ids only grow. Raises IndexFault."""
        ((records, last),) = self._rows("SELECT count(*), coalesce(max(id), 0) FROM features")
        return records, last

    def is_empty(self) -> bool:
        """Return whether it has no records; unlike `count`, it reads one at most. Raises IndexFault."""
        return not self._rows("SELECT 1 FROM features LIMIT 1")

    def is_current(self) -> bool:
        """Return whether it is still the file of its index, and nobody else has written to it since it was opened.

        Raises IndexFault if it cannot be read.
        """
        return self.is_in_place() and self._data_version() == self._version

    def is_in_place(self) -> bool:
        """Return whether it is still the file of its index. Raises IndexFault if the system refuses to tell."""
        return _place(self._path) == self._place

    def add(self, features: Mapping[bytes, LocalFeatures]) -> None:
        """Add features by their content's hash, in one transaction that is on disk when this returns.

        Those of a content that has some are left as they are.

        Raises:
            InvalidArgument: they have descriptors of another kind.
            IndexLocked: another process has made the features anew, another way, since it was opened.
            IndexWriteError: the disk is full or failed; none was added.
        """
        records = []
        for key, each in features.items():
            if each.descriptors.shape != (len(each), self.recipe.width):
                raise InvalidArgument(f"the descriptors are {each.descriptors.shape}; expected {self.recipe.kind}")
            values = (key, *each.size, len(each), each.keypoints(), each.descriptors.tobytes())
            records.append((*values, record_crc32c(*values)))
        with transaction(self._path, self._db, self._lock):
            if self._db.execute("SELECT kind, most, side FROM recipe").fetchall() != [astuple(self.recipe)]:
                raise IndexLocked(f"{self._path}: the local features were made anew meanwhile: open them again")
            self._insert(records)

    def empty(self, recipe: Recipe, keep: Set[bytes] = frozenset()) -> None:
        """Drop all features but those of some contents, and take a recipe, in one transaction.

        keep: none, if the recipe is another one. Raises as `drop_damaged`.
        """
        with self._mending():
            self._mend_index()
            found = self._db.execute("SELECT content_hash FROM features").fetchall()
            self._db.executemany(
                "DELETE FROM features WHERE content_hash = ?", [each for each in found if each[0] not in keep]
            )
            self._take_recipe(recipe)
        self.recipe, self.identity = self._read_recipe()

    def drop_damaged(self) -> int:
        """Drop the records that do not match their checksum, and mend the index -> how many.

        Raises:
            IndexDamaged: the file has to be made anew.
            IndexFault: it cannot be read or written now.
        """
        wrong = {row for row, sound in self._checked() if not sound}
        with self._mending():
            again = self._mend_index(wrong)
            self._db.executemany("DELETE FROM features WHERE id = ?", [(row,) for row in wrong])
            self._insert(again)
            if wrong:
                self._take_recipe(self.recipe)
        self.recipe, self.identity = self._read_recipe()
        return len(wrong)

    def _mend_index(self, wrong: Set[int] = frozenset()) -> list[Sequence[Any]]:
        """Make the index of contents anew, in a transaction; it finds no record whose bits were flipped there.

        A content that was not found may have been added again, and SQLite makes no unique index of two: only the
        first of them stays. -> those that were deleted, if the first is among the `wrong` and they are not.
        """
        found = self._db.execute(_ADDED_AGAIN).fetchall()
        again = [
            self._db.execute(f"SELECT {_COLUMNS}, crc32c FROM features WHERE id = ?", (row,)).fetchone()  # noqa: S608
            for row, first in found
            if first in wrong and row not in wrong
        ]
        # SQLite refuses to delete what the index lacks. It has these: it was damaged before they were added.
        self._db.executemany("DELETE FROM features WHERE id = ?", [(row,) for row, _ in found])
        self._db.execute("REINDEX features")
        if found:
            self._take_recipe(self.recipe)
        return again

    @contextmanager
    def _mending(self) -> Iterator[None]:
        """A transaction on what may be damaged. Raises IndexDamaged if SQLite cannot write to it at all."""
        try:
            with transaction(self._path, self._db, self._lock):
                yield
        except IndexWriteError as exc:
            if type(exc.__cause__) is sqlite3.DatabaseError:  # malformed; a full disk is one of its subclasses
                raise IndexDamaged(f"{self._path}: cannot be mended: {exc.__cause__}; {ANEW}") from exc
            raise

    def _insert(self, records: Sequence[Sequence[Any]]) -> None:
        """Add records in a transaction; those of a content that has one are left out."""
        self._db.executemany(
            f"INSERT OR IGNORE INTO features ({_COLUMNS}, crc32c) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            records,
        )

    def _take_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, in a transaction; its new identity tells that ids may be given again."""
        self._db.execute("DELETE FROM recipe")
        put_recipe(self._db, recipe)

    def damages(self) -> list[str]:
        """Compare every record with its checksum -> what is wrong. Raises IndexFault if it cannot be read now."""
        try:
            with self._lock:
                # Page by page: the records of a large collection do not fit memory.
                pages = [text for (text,) in self._db.execute("PRAGMA integrity_check(1)") if text != "ok"]
            wrong = sum(not sound for _, sound in self._checked())
        except DAMAGE as exc:
            if was_refused(exc):
                raise unreadable(self._path, exc) from exc
            return [f"{FEATURES_FILE}: cannot be read: {exc}"]
        except IndexDamaged as exc:
            return [str(exc)]
        found = [f"{FEATURES_FILE}: {text}" for text in pages]
        if wrong:
            found.append(
                f"{FEATURES_FILE}: the features of {counted(wrong, 'picture')} are not what was stored;  clipdex "
                "features build --check  makes them again"
            )
        return found

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _data_version(self) -> int:
        """A number of this connection that changes with every commit of another one."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def _read_recipe(self) -> tuple[Recipe, bytes]:
        found = self._rows(f"SELECT {RECIPE_COLUMNS}, crc32c FROM recipe")  # noqa: S608
        if len(found) == 1 and is_sound(found[0][-1], *found[0][:-1]):
            kind, most, side, identity, _ = found[0]
            with suppress(InvalidArgument):
                return Recipe(kind, most, side), bytes(identity)
        raise IndexDamaged(f"{self._path}: the recipe of its features is damaged: {ANEW}")

    def _sound(self, record: Sequence[Any]) -> LocalFeatures | None:
        *values, crc32c = record
        kinds = (bytes, int, int, int, bytes, bytes)
        if tuple(map(type, values)) != kinds or not is_sound(crc32c, *values):
            return None
        _, width, height, points, keypoints, descriptors = values
        if not (0 <= points <= MOST_POINTS and width > 0 and height > 0):
            return None
        with suppress(ValueError):
            return LocalFeatures.of(keypoints, descriptors, (width, height), points, self.recipe.width)
        return None

    def _checked(self) -> Iterator[tuple[int, bool]]:
        """Iterate over (id, whether it matches its checksum) of all records, one in memory at a time."""
        # In one statement: the ids of a damaged table may be in any order, so that no id is a place to go on from.
        try:
            with self._lock:
                for row, *record in self._db.execute(f"SELECT id, {_COLUMNS}, crc32c FROM features"):  # noqa: S608
                    yield row, self._sound(record) is not None
                require_still(self._db)
        except DAMAGE as exc:
            require_still(self._db)
            raise unreadable(self._path, exc) from exc

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return fetched(self._db, self._path, sql, values)


def feature_damages(directory: Path) -> list[str]:
    """Check the features of an index -> what is wrong. Raises IndexFault if the system refuses to read them."""
    try:
        lost = wal_damage(directory / FEATURES_FILE)
        found = FeatureFile.open(directory)
    except (IndexDamaged, IndexFormatError) as exc:
        return [str(exc)]
    if found is None:
        return []
    with closing(found):
        return ([] if lost is None else [lost]) + found.damages()


def feature_count(directory: Path) -> tuple[int, int]:
    """Return the number of pictures that have features, and the bytes of the file; zeros if there is no file.

    A file that cannot be read has no features here; `feature_damages` says what is wrong with it.
    """
    try:
        found = FeatureFile.open(directory)
        if found is None:
            return 0, 0
        with closing(found):
            return found.count()[0], (directory / FEATURES_FILE).stat().st_size
    except (IndexFault, OSError):
        return 0, 0


def has_features(directory: Path) -> bool:
    """Return whether any picture has features, without counting them; a file that cannot be read has none here."""
    try:
        found = FeatureFile.open(directory)
        if found is None:
            return False
        with closing(found):
            return not found.is_empty()
    except IndexFault:
        return False


def lock_features(directory: Path) -> int:
    """Lock the making of an index's features -> the descriptor that holds the lock until it is closed.

    Raises:
        IndexLocked: another process is making them.
        IndexWriteError: the index cannot be written, or its file system does not support locks.
    """
    busy = f"{directory}: another process is making its local features; wait for it, or stop it"
    return lock_file(directory / FEATURES_LOCK, directory, busy)


def make_features(directory: Path, recipe: Recipe) -> None:
    """Make an empty file of this recipe, unless the index has one, whatever its recipe.

    Raises: as `lock_features` and `FeatureFile.open`.
    """
    if FeatureFile.exists(directory):
        return
    lock = lock_features(directory)
    try:
        FeatureFile.open_or_make(directory, recipe).close()
    finally:
        os.close(lock)


def remove_features(directory: Path) -> None:
    """Remove the features of an index, for whoever has the lock to make them. Raises IndexWriteError."""
    remove_database(directory / FEATURES_FILE)


def _place(path: Path) -> tuple[int, int] | None:
    """Identify the file at a path; None if there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise fault(path, exc) from exc
    return found.st_dev, found.st_ino


def _chunks(hashes: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(hashes), _ASKED_AT_ONCE):
        yield hashes[start : start + _ASKED_AT_ONCE]


def _marks(some: Sequence[bytes]) -> str:
    return ",".join("?" * len(some))
