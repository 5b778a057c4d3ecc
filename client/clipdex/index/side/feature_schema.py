"""The tables of features.sqlite, and its recipe: making them, and telling whether a file has them."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from clipdex.base.errors import IndexDamaged, IndexFormatError
from clipdex.index.checksum import record_crc32c
from clipdex.index.schema import require_still
from clipdex.index.side.database import make_database
from clipdex.looks.local_features import Recipe

__all__ = ["ANEW", "RECIPE_COLUMNS", "make_file", "put_recipe", "require_tables"]

APPLICATION_ID = 0x636C7066  # "clpf" in ASCII
VERSION = 1

_PAGE_BYTES = 16_384  # a picture has some 70,000 bytes: fewer pages to chain than with SQLite's own 4,096

_RECIPE = (
    "CREATE TABLE recipe (kind TEXT NOT NULL, most INTEGER NOT NULL, side INTEGER NOT NULL, "
    "identity BLOB NOT NULL, crc32c INTEGER NOT NULL) STRICT"
)
_FEATURES = (
    "CREATE TABLE features (id INTEGER PRIMARY KEY, content_hash BLOB NOT NULL UNIQUE, width INTEGER NOT NULL, "
    "height INTEGER NOT NULL, points INTEGER NOT NULL, keypoints BLOB NOT NULL, descriptors BLOB NOT NULL, "
    "crc32c INTEGER NOT NULL) STRICT"
)
_OBJECTS = {
    ("table", "recipe", "recipe", _RECIPE),
    ("table", "features", "features", _FEATURES),
    ("index", "sqlite_autoindex_features_1", "features", None),
}
RECIPE_COLUMNS = "kind, most, side, identity"
_IDENTITY_BYTES = 16
ANEW = "make the features anew with  clipdex features build --rebuild"


def make_file(path: Path, recipe: Recipe) -> None:
    """Make an empty file of this recipe. Raises as `make_database`."""

    def fill(db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute(_RECIPE)
        db.execute(_FEATURES)
        put_recipe(db, recipe)

    make_database(path, fill, page_bytes=_PAGE_BYTES)


def put_recipe(db: sqlite3.Connection, recipe: Recipe) -> None:
    """Insert a recipe, with a new identity."""
    values = (recipe.kind, recipe.most, recipe.side, os.urandom(_IDENTITY_BYTES))
    db.execute(
        f"INSERT INTO recipe ({RECIPE_COLUMNS}, crc32c) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
        (*values, record_crc32c(*values)),
    )


def require_tables(db: sqlite3.Connection, path: Path) -> None:
    """Raise IndexDamaged unless a database has the tables, IndexFormatError if it is of a newer version."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise IndexFormatError(
            f"{path}: is of version {version}, and this clipdex knows {VERSION}: it was made by a newer one"
        )
    found = set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())
    require_still(db)
    if version != VERSION or found != _OBJECTS:
        raise IndexDamaged(f"{path}: has other tables than the local features of an index: {ANEW}")
