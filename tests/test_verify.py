"""`verify` finds every change to an index's data, and never stumbles over one."""

import random
import shutil
import signal
import struct
from types import SimpleNamespace

import google_crc32c
import pytest
from conftest import unit_vectors
from damage import DIM, ROWS, damage_and_verify, write_index, write_killed_index

import clipdex
from clipdex.index import (
    Failure,
    Index,
    IndexWriter,
    Picture,
    checksum,
    compact_index,
    optimize_index,
    rows,
    verify,
    verify_index,
)
from clipdex.index.thumbnails import ThumbnailStore, thumbnail_damages

pytestmark = [pytest.mark.thin, pytest.mark.once]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "x.clipdex"
    write_index(path)
    return path


@pytest.fixture
def index(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "x.clipdex")


def test_a_sound_index_is_said_to_be(index):
    report = verify_index(index)
    assert report.damages == []
    assert (report.rows, report.extents, report.bytes_read) == (ROWS, 3, ROWS * DIM * 2)


def test_a_flipped_bit_names_the_rows_it_touches_and_the_rest_is_searched(index):
    flip(index / "vectors.f16", 150 * DIM * 2, 3)
    (damage,) = verify_index(index).damages
    assert damage.rows == (100, 200)
    with Index.open(index) as opened:
        assert len(opened.search(unit_vectors(ROWS, DIM)[0], top_k=10)[0]) == 10


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_in_the_data_is_found(sound, tmp_path, seed):
    """200 here; benchmarks/prove_damage.py flips 2,000 and cuts 500 times."""
    missed = damage_and_verify(sound, tmp_path / "x.clipdex", random.Random(seed), flips=50, cuts=0)
    assert missed == []


def test_every_cut_is_found(sound, tmp_path):
    assert damage_and_verify(sound, tmp_path / "x.clipdex", random.Random(9), flips=0, cuts=60) == []


@pytest.mark.parametrize("name", ["manifest.json", "rows.sqlite", "vectors.f16"])
def test_a_missing_file_is_damage(index, name):
    (index / name).unlink()
    assert verify_index(index).damages


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(clipdex.IndexNotFound):
        verify_index(tmp_path / "nothing")


# While something else happens


def pictures(first, count):
    return [Picture(b"/new/%d.jpg" % i, 1, 2, b"%016d" % i, 3, 4) for i in range(first, first + count)]


def once(monkeypatch, owner, name, before):
    """Have something happen before the first call of a function."""
    function = getattr(owner, name)

    def wrapped(*args, **options):
        monkeypatch.setattr(owner, name, function)
        before()
        return function(*args, **options)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("what", ["verify", "search", "compact"])
def test_ctrl_c_is_ctrl_c_and_no_damage(index, monkeypatch, what):
    """It falls into the checksum of a record, where it once came out as an error of SQLite."""
    crc32c = google_crc32c.value

    def interrupted(data):
        if bytes(158) not in data:  # the signature of row 0 is the one that is asked for first
            return crc32c(data)
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        return crc32c(data)

    monkeypatch.setattr(checksum, "google_crc32c", SimpleNamespace(value=interrupted))
    with pytest.raises(KeyboardInterrupt):
        if what == "verify":
            verify_index(index)
        elif what == "compact":
            compact_index(index)
        else:
            with Index.open(index) as opened:
                opened.search(unit_vectors(ROWS, DIM)[0], top_k=1)
    assert verify_index(index).damages == []


def test_a_commit_meanwhile_is_no_damage(index, monkeypatch):
    def commit():
        with IndexWriter(index) as writer:
            writer.append(pictures(0, 5), unit_vectors(5, DIM))

    once(monkeypatch, rows.RowStore, "record_count", commit)
    report = verify_index(index)
    assert (report.rows, report.damages) == (ROWS, [])
    assert verify_index(index).rows == ROWS + 5


def test_a_compaction_meanwhile_is_no_damage(index, monkeypatch):
    once(monkeypatch, verify, "_check_vectors", lambda: compact_index(index))
    report = verify_index(index)
    assert (report.rows, report.damages) == (ROWS - 1, [])


def test_a_side_file_made_meanwhile_is_no_damage(index, monkeypatch):
    def commit_and_optimize():
        with IndexWriter(index) as writer:
            writer.append(pictures(0, 5), unit_vectors(5, DIM))
        optimize_index(index)

    once(monkeypatch, verify, "_check_vectors", commit_and_optimize)
    assert verify_index(index).damages == []


# The WAL of a killed writer


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "x.clipdex"
    write_killed_index(path)
    return path


def frames(path):
    """The frames of a WAL -> (where each begins, how many bytes one has)."""
    raw = path.read_bytes()
    size = 24 + struct.unpack(">I", raw[8:12])[0]
    return list(range(32, len(raw) - size + 1, size)), size


def test_an_index_whose_writer_was_killed_is_sound(killed, tmp_path):
    index = shutil.copytree(killed, tmp_path / "x.clipdex")
    assert verify_index(index).damages == []
    assert verify_index(index).rows == ROWS


@pytest.mark.slow
def test_every_flipped_bit_in_the_wal_is_found(killed, tmp_path):
    assert damage_and_verify(killed, tmp_path / "x.clipdex", random.Random(5), flips=150, cuts=0) == []


def test_a_flip_in_the_log_of_thumbnails_that_loses_some_is_found(tmp_path):
    (tmp_path / "x").mkdir()
    store = ThumbnailStore.open(tmp_path / "x", write=True)
    assert store is not None
    for i in range(3):
        store.add({bytes([i]) * 16: bytes(500)})
    killed = shutil.copytree(tmp_path / "x", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    store.close()
    assert thumbnail_damages(killed) == []
    shutil.copytree(killed, tmp_path / "again")
    log = "thumbnails.sqlite-wal"
    flip(tmp_path / "again" / log, 32 + 24 + 100, 3)
    assert any(what.startswith(f"{log}: frame 0 is not what") for what in thumbnail_damages(tmp_path / "again"))


def test_a_flip_in_the_wal_is_named_and_a_run_makes_the_rows_again(killed, tmp_path, caplog):
    index = shutil.copytree(killed, tmp_path / "x.clipdex")
    starts, _ = frames(index / "rows.sqlite-wal")
    flip(index / "rows.sqlite-wal", starts[len(starts) // 2] + 100, 3)
    report = verify_index(index)
    assert report.rows < ROWS
    assert [damage.what for damage in report.damages] == [
        f"rows.sqlite-wal: frame {len(starts) // 2} is not what was written: "
        "SQLite takes it for the end, and all later commits are lost"
    ]
    with pytest.raises(clipdex.IndexDamaged, match=r"rows\.sqlite-wal"):
        compact_index(index)
    with IndexWriter(index) as writer:
        assert "rows.sqlite-wal: frame" in caplog.text
        writer.append(pictures(0, 5), unit_vectors(5, DIM))
    assert verify_index(index).damages == []


def test_a_wal_that_was_cut_off_while_it_was_written_is_no_damage(killed, tmp_path):
    """As a SIGKILL does; no commit that returned is in what is missing, so none is lost."""
    index = shutil.copytree(killed, tmp_path / "x.clipdex")
    raw = (index / "rows.sqlite-wal").read_bytes()
    starts, size = frames(index / "rows.sqlite-wal")
    for end in (0, 20, 32, 40, starts[-1] + 24, starts[-1] + 25, starts[-1] + size - 1, starts[3]):
        (index / "rows.sqlite-wal").write_bytes(raw[:end])
        assert not [damage for damage in verify_index(index).damages if "-wal" in damage.what]


def test_a_power_cut_in_the_last_commit_is_no_damage(killed, tmp_path):
    """Blocks of it are on disk and others are not: it was never acknowledged."""
    index = shutil.copytree(killed, tmp_path / "x.clipdex")
    raw = (index / "rows.sqlite-wal").read_bytes()
    starts, _ = frames(index / "rows.sqlite-wal")
    commits = [i for i, at in enumerate(starts) if raw[at + 4 : at + 8] != bytes(4)]
    first = starts[commits[-2] + 1] + 24
    for lost in range(-(-first // 4096) * 4096, len(raw), 4096):
        torn = raw[:lost] + bytes(min(4096, len(raw) - lost)) + raw[lost + 4096 :]
        (index / "rows.sqlite-wal").write_bytes(torn)
        assert verify_index(index).damages == []


@pytest.mark.slow
def test_a_writer_at_work_raises_no_false_alarm(index):
    """Its WAL is begun anew after every checkpoint, over the frames of before."""
    with IndexWriter(index) as writer:
        for i in range(60):
            writer.append(pictures(100 * i, 100), unit_vectors(100, DIM, seed=i))
            writer.fail(Failure(b"/bad/%d.jpg" % i, "broken", "", 1, 2))
            writer.commit()
            if i % 6 == 5:
                writer._store._db.execute("PRAGMA wal_checkpoint(RESTART)")
            if i % 5 == 0:
                assert verify_index(index).damages == []
