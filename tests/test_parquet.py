"""Parquet tables that hold pictures, or name them."""

import datetime
import io
import json
import os
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import no_failure, noise, png, present
from killed_run import kill_a_run

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.apps.contact_sheet import Section, contact_sheet
from clipdex.base.read_request import ReadRequest
from clipdex.sources import ledger_source, open_source
from clipdex.sources.opening import member_bytes
from clipdex.wire import FakeTransport

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
parquet_table = pytest.importorskip("clipdex.sources.parquet_table")


def write(target, group=4, **columns):
    pq.write_table(pa.table(columns), target, row_group_size=group)
    return target


def run(source, index, transport=None, **options):
    with Client(transport or FakeTransport()) as client:
        return index_pictures(client, source, index, workers=1, **options)


def hits(index):
    with Index.open(index) as opened:
        query = np.eye(1, opened.manifest.embedding_dim, dtype=np.float32)
        return opened.search(query, len(opened))[0]


def said(index):
    return {os.path.basename(hit.path): hit.metadata for hit in hits(index)}


def ledger(index):
    with Index.open(index) as opened:
        return {os.path.basename(os.fsdecode(f.path)): f.reason for f in opened.failures()}


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "t.parquet", jpg=[png(i) for i in range(10)], txt=[f"number {i}" for i in range(10)])


def test_rows_of_bytes_become_an_index(table, tmp_path):
    report = run(table, tmp_path / "x")
    assert (report.discovered, report.indexed) == (10, 10)
    assert said(tmp_path / "x") == {str(i): {"txt": f"number {i}"} for i in range(10)}
    with Index.open(tmp_path / "x") as index, Client(FakeTransport()) as client:
        assert [path for _, path in index.live_paths()] == [
            b"%b!/jpg/%d" % (os.fsencode(table), i) for i in range(10)
        ]
        np.testing.assert_allclose(index.vectors, client.embed_images([png(i) for i in range(10)]), atol=1e-3)


def test_an_untouched_table_is_not_read(table, tmp_path, monkeypatch):
    run(table, tmp_path / "x")
    monkeypatch.setattr(parquet_table._Cells, "_read", lambda self: pytest.fail("read again"))
    report = run(table, tmp_path / "x")
    assert (report.indexed, report.unchanged) == (0, 10)


def test_only_the_row_groups_with_new_rows_are_read(table, tmp_path, monkeypatch):
    read = []
    original = parquet_table._Cells._read
    monkeypatch.setattr(parquet_table._Cells, "_read", lambda self: read.append(self._group) or original(self))
    sent = []

    def fault(model, inputs):
        sent.extend([model] if model == "fake_image" else [])
        return clipdex.ServerUnreachable("gone") if len(sent) > 3 else None

    with pytest.raises(clipdex.ServerUnreachable):
        run(table, tmp_path / "x", FakeTransport(max_batch_size=2, fault=fault))
    with Index.open(tmp_path / "x") as opened:
        kept = len(opened)
    assert kept >= 4
    read.clear()
    report = run(table, tmp_path / "x")
    assert (report.unchanged, report.indexed) == (kept, 10 - kept)
    assert 0 not in read
    assert len(read) == len(set(read))


def test_a_table_written_anew_embeds_only_what_is_new(table, tmp_path):
    run(table, tmp_path / "x")
    write(table, jpg=[png(20), *(png(i) for i in range(8))], txt=["new"] + ["same"] * 8)
    os.utime(table, ns=(1, 1))
    transport = FakeTransport()
    report = run(table, tmp_path / "x", transport)
    assert (report.indexed, report.recognised, report.removed, report.rows) == (9, 8, 1, 9)
    assert sum(count for model, count in transport.requests if model == "fake_image") == 1
    assert said(tmp_path / "x")["0"] == {"txt": "new"}


def test_structs_as_hugging_faces_datasets_have_them(tmp_path):
    noise(2).save(tmp_path / "beside.png")
    image: list[dict[str, Any] | None] = [
        {"bytes": png(0), "path": "0.png"},
        {"bytes": png(1), "path": None},
        {"bytes": None, "path": "beside.png"},
    ]
    image += [None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}, {"bytes": b"no", "path": "x.jpg"}]
    table = write(tmp_path / "t.parquet", image=image, label=range(7))
    report = run(table, tmp_path / "x")
    assert (report.indexed, report.failed) == (3, 4)
    assert said(tmp_path / "x") == {
        "0": {"label": 0, "image": {"path": "0.png"}},
        "1": {"label": 1},
        "2": {"label": 2, "image": {"path": "beside.png"}},
    }
    assert ledger(tmp_path / "x") == {"3": "empty", "4": "empty", "5": "empty", "6": "not_a_picture"}
    report = run(table, tmp_path / "x")
    assert (report.unchanged, report.failed) == (3, 4)


def test_other_columns_keep_their_types_but_for_binary(tmp_path):
    table = write(
        tmp_path / "t.parquet",
        image=[png(0)],
        thumbnail=[b"left out"],
        other=[{"bytes": b"left out", "path": "p"}],
        score=[0.5],
        nan=[float("nan")],
        tags=[["a", "b"]],
        day=[datetime.date(2026, 11, 23)],
        box=[{"x": 1, "mask": b"left out"}],
        none=pa.array([None], pa.string()),
    )
    run(table, tmp_path / "x")
    assert said(tmp_path / "x") == {
        "0": {
            "score": 0.5,
            "nan": None,
            "tags": ["a", "b"],
            "day": "2026-11-23",
            "box": {"x": 1},
            "other": {"path": "p"},
        }
    }


def test_a_column_of_paths(tmp_path):
    noise(0).save(tmp_path / "a.png")
    table = write(tmp_path / "t.parquet", path=["a.png", None, "gone.png", "a.png"], n=range(4))
    report = run(table, tmp_path / "x")
    assert (report.indexed, report.failed) == (1, 2)
    assert said(tmp_path / "x") == {"a.png": {"n": 0}}
    assert ledger(tmp_path / "x") == {"1": "empty", "gone.png": "vanished"}
    write(table, path=["a.png", "a.png"], n=[7, 8])
    run(table, tmp_path / "x")
    assert said(tmp_path / "x") == {"a.png": {"n": 7}}
    assert "1" not in ledger(tmp_path / "x")


def test_two_columns_of_one_table_do_not_meet(tmp_path):
    table = write(tmp_path / "t.parquet", before=[png(0), png(1)], after=[png(2), png(3)])
    for column in ("before", "after"):
        report = run(open_source(table, column=column), tmp_path / "x")
        assert (report.indexed, report.removed) == (2, 0)
    assert len(hits(tmp_path / "x")) == 4


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        ({"x": [1]}, None, r"with --column.* its columns are 'x'"),
        ({"x": [1]}, "y", r"no column 'y'; its columns are 'x'"),
        ({"x": [1]}, "x", r"is of type int64; expected binary"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path, columns, column, words):
    table = write(tmp_path / "t.parquet", **columns)
    with pytest.raises(clipdex.SourceError, match=words):
        open_source(table, column=column)
    table.write_bytes(b"no parquet")
    with pytest.raises(clipdex.SourceError, match="cannot be read as Parquet") as caught:
        open_source(table, column=column)
    assert "\n" not in str(caught.value)


def test_a_damaged_row_group_costs_its_rows(tmp_path):
    table = write(tmp_path / "t.parquet", jpg=[png(i) for i in range(8)])
    start = pq.ParquetFile(table).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(table.read_bytes())
    data[start : start + 64] = bytes(64)
    table.write_bytes(data)
    report = run(table, tmp_path / "x")
    assert (report.indexed, report.failed) == (4, 4)
    assert set(ledger(tmp_path / "x").values()) == {"broken_container"}


def test_damage_in_a_later_page_costs_the_rows_from_there_on(tmp_path, monkeypatch):
    """In each row group; the rows before it are indexed, in whatever order they are asked for."""
    monkeypatch.setattr(parquet_table, "_BATCH_ROWS", 2)
    table = tmp_path / "t.parquet"
    columns = pa.table({"jpg": [png(i) for i in range(12)]})
    options = {"use_dictionary": False, "compression": "none", "write_page_index": True}
    pq.write_table(columns, table, row_group_size=6, data_page_size=1, write_batch_size=1, **options)
    data = bytearray(table.read_bytes())
    for damaged in (4, 9):  # the header of a row's page lies just before its picture
        at = data.index(png(damaged))
        data[at - 40 : at] = bytes(40)
    table.write_bytes(data)
    files = list(open_source(table).files(no_failure))
    for i in (4, 0, 5, 3, 4):
        assert files[i].request().startswith(b"r") == (i >= 4)
    read = []
    original = parquet_table._Cells._read
    monkeypatch.setattr(parquet_table._Cells, "_read", lambda self: read.append(self._group) or original(self))
    report = run(table, tmp_path / "x")
    assert report.discovered == 12
    assert set(ledger(tmp_path / "x").values()) == {"broken_container"}
    assert {"4", "5", "9", "10", "11"} <= ledger(tmp_path / "x").keys()
    assert {"0", "1", "2", "3", "6", "7"} <= said(tmp_path / "x").keys()
    assert len(read) <= 4  # a group is not read from its start for each row that it has lost


def not_utf8(*texts):
    """A column of text as careless programs write it."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def test_values_that_python_has_none_for_cost_no_row(tmp_path):
    table = write(
        tmp_path / "t.parquet",
        image=[png(0)],
        text=not_utf8(b"caf\xe9"),
        at=pa.array([1], pa.timestamp("ns")),
        zoned=pa.array([1], pa.timestamp("ns", "UTC")),
        day=pa.array([10**7], pa.int32()).cast(pa.date32()),
        far=pa.array([10**15], pa.timestamp("s")),
        long=pa.array([2**62], pa.duration("s")),
        times=pa.array([[1]], pa.list_(pa.timestamp("ns"))),
        inner=pa.StructArray.from_arrays([not_utf8(b"\xff"), pa.array([1])], ["a", "b"]),
        n=[7],
    )
    run(table, tmp_path / "x")
    found = said(tmp_path / "x")["0"]
    assert found.pop("zoned").startswith("1970-01-01 00:00:00.000000001")
    assert found == {
        "text": "caf\ufffd",
        "at": "1970-01-01 00:00:00.000000001",
        "day": "29349-01-26",
        "inner": {"a": "\ufffd", "b": 1},
        "n": 7,
    }


def test_a_path_that_is_not_utf8_is_the_path_it_is(tmp_path):
    names = [b"caf\xe9.png", b"b.png"]
    for i, name in enumerate(names):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            noise(i).save(file, "PNG")
    run(write(tmp_path / "t.parquet", path=not_utf8(*names)), tmp_path / "x")
    assert said(tmp_path / "x").keys() == set(map(os.fsdecode, names))


def test_a_column_that_is_gone_when_a_row_is_read_is_no_traceback(tmp_path):
    table = write(tmp_path / "t.parquet", jpg=[png(0)])
    (file,) = open_source(table).files(no_failure)
    write(table, other=[png(0)])
    assert file.request().startswith(b"rbroken_container")


def test_two_columns_of_the_chosen_name_are_one_sentence(tmp_path):
    column = pa.array([png(0)])
    pq.write_table(pa.Table.from_arrays([column, column], ["jpg", "jpg"]), tmp_path / "t.parquet")
    with pytest.raises(clipdex.SourceError, match=r"has several columns 'jpg'"):
        open_source(tmp_path / "t.parquet")


def test_a_table_that_is_gone_takes_its_rows_along(table, tmp_path):
    source = open_source(table)
    run(source, tmp_path / "x")
    with Index.open(tmp_path / "x") as opened:
        paths = [path for _, path in opened.live_paths()]
    assert source.vanished(paths) == []
    table.unlink()
    assert source.vanished([*paths, os.fsencode(tmp_path / "other.parquet!/jpg/0")]) == paths


def test_failed_rows_can_be_tried_again_by_the_ledger_alone(tmp_path):
    table = write(tmp_path / "t.parquet", mine=[png(0), b"bad", png(2)])
    run(open_source(table, column="mine"), tmp_path / "x")
    write(table, mine=[png(0), png(1), png(2)])
    with Index.open(tmp_path / "x") as opened:
        failed = opened.failures()
    report = run(ledger_source(failed, "the ledger"), tmp_path / "x", retry_failures=True)
    assert (report.discovered, report.indexed, report.rows) == (1, 1, 3)


def test_a_row_can_be_asked_for_again_and_out_of_order(table):
    """As when a worker dies and what it had queued goes to another."""

    def data(file):
        request = ReadRequest.parse(file.request())
        with open(request.file, "rb") as opened:
            return opened.read()

    files = list(open_source(table).files(no_failure))
    for i in (2, 2, 0, 3, 1, 9, 5):
        assert data(files[i]) == png(i)
        assert json.loads(present(files[i].said())) == {"txt": f"number {i}"}


@pytest.mark.parametrize("row", ["3", "٣", "-1", "99", "9" * 18, "9" * 5000])
def test_a_row_that_a_table_has_not_is_none(table, row):
    assert (member_bytes(f"{table}!/jpg/{row}") is None) == (row != "3")


def test_thumbnails_of_rows(table, tmp_path):
    run(table, tmp_path / "x")
    found = hits(tmp_path / "x")
    assert contact_sheet([Section("q", found)], title="t", summary="s").count("<img ") == 10


@pytest.mark.slow
def test_pictures_larger_than_a_pipe_do_not_stall_the_workers(tmp_path):
    def large(seed):
        buffer = io.BytesIO()
        noise(seed, size=(700, 500)).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    table = write(tmp_path / "t.parquet", jpg=[large(i) for i in range(24)])
    assert run(table, tmp_path / "x").indexed == 24


def open_files(table):
    """Descriptors of this process that are of the table, or of memory for cells -> (device, inode) of each."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            target, status = os.readlink(f"/proc/self/fd/{name}"), os.stat(f"/proc/self/fd/{name}")
            if "memfd:clipdex" in target or target == str(table):
                found.add((status.st_dev, status.st_ino))
    return found


def test_no_file_stays_open_in_the_parent(table, tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = open_files(table)  # an earlier test of this process may have kept some
    run(table, tmp_path / "x")
    assert open_files(table) <= before


@pytest.mark.slow
def test_killed_half_way_it_goes_on_where_it_was(tmp_path):
    table = write(tmp_path / "t.parquet", group=7, jpg=[png(i) for i in range(30)])
    index = tmp_path / "x"
    before = kill_a_run(table, index, after=5)
    assert before > 0
    report = run(table, index)
    assert report.unchanged >= before
    assert (report.discovered, report.rows) == (30, 30)


BINARIES = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary<binary>": pa.dictionary(pa.int32(), pa.binary()),
}
TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary<string>": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("within", ["column", "struct"])
@pytest.mark.parametrize("kind", BINARIES.values(), ids=BINARIES)
def test_case_11_parquet_view_and_dictionary_binary(tmp_path, kind, within):
    cells = pa.array([png(0), png(1), None, png(1)], pa.binary()).cast(kind)
    if within == "struct":
        paths = pa.array(["0.png", None, None, "x"], pa.string_view())
        cells = pa.StructArray.from_arrays([cells, paths], ["bytes", "path"])
    table = write(tmp_path / "t.parquet", image=cells, thumbnail=cells, n=[0, 1, 2, 3])
    assert pq.read_schema(table).field("image").type == cells.type
    report = run(table, tmp_path / "x")
    assert (report.indexed, report.failed, ledger(tmp_path / "x")) == (3, 1, {"2": "empty"})
    found = said(tmp_path / "x")
    assert {row: fields["n"] for row, fields in found.items()} == {"0": 0, "1": 1, "3": 3}
    assert found["0"].get("image") == ({"path": "0.png"} if within == "struct" else None)
    with Index.open(tmp_path / "x") as index, Client(FakeTransport()) as client:
        np.testing.assert_allclose(index.vectors, client.embed_images([png(0), png(1), png(1)]), atol=1e-3)


@pytest.mark.parametrize("kind", TEXTS.values(), ids=TEXTS)
def test_paths_and_captions_in_every_kind_of_text(tmp_path, kind):
    noise(0).save(tmp_path / "a.png")
    paths = [f"file://{tmp_path}/a.png", "https://example.org/b.png", None]
    captions = pa.array(["caf\u00e9", "x", "y"], pa.string()).cast(kind)
    table = write(tmp_path / "t.parquet", path=pa.array(paths, pa.string()).cast(kind), txt=captions)
    run(table, tmp_path / "x")
    assert said(tmp_path / "x") == {"a.png": {"txt": "caf\u00e9"}}
    assert ledger(tmp_path / "x") == {"b.png": "not_a_path", "2": "empty"}


def test_text_that_is_not_utf8_in_other_kinds_of_text(tmp_path):
    columns = {str(kind): not_utf8(b"caf\xe9").cast(kind) for kind in (pa.large_string(), pa.string_view())}
    run(write(tmp_path / "t.parquet", image=[png(0)], **columns), tmp_path / "x")
    assert said(tmp_path / "x")["0"] == {"large_string": "caf\ufffd", "string_view": "caf\ufffd"}


def test_a_url_in_a_struct_without_bytes_fails_as_one(tmp_path):
    image = [{"bytes": None, "path": "https://example.org/b.png"}]
    table = write(
        tmp_path / "t.parquet", image=pa.array(image, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    )
    run(table, tmp_path / "x")
    with Index.open(tmp_path / "x") as opened:
        (failure,) = opened.failures()
    assert failure.reason == "not_a_path"
    assert failure.detail.startswith("https://example.org/b.png is a URL")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.binary()), pa.large_list(pa.binary()), pa.list_(pa.string(), 1)], ids=str
)
def test_a_column_of_lists_is_refused_by_its_name(tmp_path, kind):
    values = [png(0)] if "binary" in str(kind) else ["a.png"]
    table = write(tmp_path / "t.parquet", image=pa.array([values], kind))
    with pytest.raises(clipdex.SourceError, match=r"'image' holds several values per row .* a row for each"):
        open_source(table)
