"""Answers as JSON, CSV and Arrow. Copies that were grouped follow their hit, and name its row.

A path may contain bytes that are not UTF-8. JSON has them as `\\udcNN`, which Python's parser reads back; CSV as
they are; Arrow in a column of bytes, beside one of text that shows them as `\\xNN`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdex.base.extras import needs
from clipdex.base.replacing import replacing
from clipdex.features.matching import Verified
from clipdex.index.hits import Hit

__all__ = ["Answer", "as_csv", "as_json", "csv_line", "write_arrow"]

_COLUMNS = ("query", "rank", "score", "row", "path", "copy_of", "metadata", "exif")


@dataclass(frozen=True)
class Answer:
    """A query as text, and its hits.

    offset: the number of better hits that were skipped. cut: the ends of its texts beyond the model's context.
    missing: parts of the index that were not there, and so were not searched.
    verified: of hits that local features were found to agree with, their geometry, by row.
    """

    query: str
    hits: Sequence[Hit]
    offset: int = 0
    cut: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    verified: Mapping[int, Verified] | None = None


def as_json(answers: Iterable[Answer]) -> Iterator[str]:
    """Yield a JSON list of `{"query": …, "hits": […]}`, one answer at a time."""
    yield "["
    between = "\n"
    for answer in answers:
        one: dict[str, Any] = {"query": answer.query, "hits": [_checked(hit, answer) for hit in answer.hits]}
        if answer.cut:
            one["cut"] = list(answer.cut)
        if answer.missing:
            one["missing"] = list(answer.missing)
        yield between + textwrap.indent(json.dumps(one, indent=2), "  ")
        between = ",\n"
    yield "\n]\n"


def as_csv(answers: Iterable[Answer]) -> Iterator[bytes]:
    """Yield one line per picture with the columns above, metadata and exif as JSON.

    It is UTF-8, except for paths that are not.
    """
    yield csv_line(_COLUMNS)
    for answer in answers:
        for row in _flat(answer):
            yield csv_line([row[column] for column in _COLUMNS])


def write_arrow(path: Path, answers: Iterable[Answer]) -> None:
    """Write an Arrow file (IPC, as Feather 2) of the columns above and `path_bytes`; one record batch per answer.

    Raises:
        MissingExtra: pyarrow is not installed, or cannot be imported.
        ClipdexError: the file cannot be written.
    """
    with needs("pyarrow", "pyarrow", "tables", "writing Arrow"):
        import pyarrow as pa
    kinds = (pa.string(), pa.int64(), pa.float64(), pa.int64(), pa.string(), pa.int64(), pa.string(), pa.string())
    schema = pa.schema([*zip(_COLUMNS, kinds, strict=True), ("path_bytes", pa.binary())])
    with replacing(path, "the Arrow file") as file, pa.ipc.new_file(file, schema) as writer:
        for answer in answers:
            rows = [row | _arrow_path(row["path"]) for row in _flat(answer)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _checked(hit: Hit, answer: Answer) -> dict[str, Any]:
    found = _plain(hit)
    if answer.verified is not None:
        verified = answer.verified.get(hit.row)
        found["verified"] = None if verified is None else verified.as_dict()
    return found


def _plain(hit: Hit) -> dict[str, Any]:
    found: dict[str, Any] = {"score": hit.score, "path": hit.path, "row": _row(hit)}
    if hit.metadata is not None:
        found["metadata"] = hit.metadata
    if hit.exif is not None:
        found["exif"] = hit.exif.as_dict()
    if hit.copies:
        found["copies"] = [_plain(copy) for copy in hit.copies]
    return found


def _row(hit: Hit) -> int | None:
    """Return a hit's row; None for one of a vector database, which knows no rows."""
    return hit.row if hit.row >= 0 else None


def _flat(answer: Answer) -> Iterator[dict[str, Any]]:
    """Yield each hit, then its copies with the same rank."""
    for rank, hit in enumerate(answer.hits, answer.offset + 1):
        for one in (hit, *hit.copies):
            yield {
                "query": answer.query,
                "rank": rank,
                "score": one.score,
                "row": _row(one),
                "path": one.path,
                "copy_of": None if one is hit else _row(hit),
                "metadata": None if one.metadata is None else json.dumps(one.metadata),
                "exif": None if one.exif is None else one.exif.as_json(),
            }


def csv_line(values: Iterable[object]) -> bytes:
    """Return one line of CSV: UTF-8, except for a path's bytes that are not."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode("utf-8", "surrogateescape")


def _arrow_path(path: str) -> dict[str, str | bytes]:
    raw = os.fsencode(path)
    return {"path": raw.decode("utf-8", "backslashreplace"), "path_bytes": raw}
