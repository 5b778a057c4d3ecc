"""What pictures say of themselves in an index: written, filtered, found, refreshed, carried over, checked."""

import csv
import io
import json
import math
import random
import sqlite3
import tarfile
from contextlib import closing

import google_crc32c
import numpy as np
import pytest
from conftest import noise, unit_vectors
from drawn_index import drawn_index
from pictures_with_exif import bag, exif_block, packet, picture

import clipdex
from clipdex import Client, Collection, Exif, Index, InvalidArgument, Item, refresh_metadata
from clipdex.index import IndexWriter, Manifest, Picture, compact_index, verify_index
from clipdex.index.facets import Facets
from clipdex.index.merge import merge_indexes
from clipdex.index.near import EARTH_KM, Near
from clipdex.index.where import columns_read
from clipdex.testing import FakeTransport

MANIFEST = Manifest(fingerprint="f" * 64, model="demo", embedding_dim=4)
MUNICH, SYDNEY = (48.1371, 11.5754), (-33.8568, 151.2153)
SAID = Exif("2024-06-01T17:30:00", "+02:00", "Google", "Pixel 7", "wide", *MUNICH, 4, ("sea", "Käse"), "T", "D")


def row(i, exif=None, **more):
    return Picture(b"/%d.jpg" % i, 1, 1, bytes([i] * 16), 8, 8, exif=exif, **more)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        pictures = [row(0, SAID, metadata='{"taken":"mine"}'), row(1, Exif()), row(2, Exif(camera="R5")), row(3)]
        writer.append(pictures, unit_vectors(4, 4))
    return path


def said(path):
    """What is kept, by path, through the hits of a search."""
    with Index.open(path) as opened:
        vector = np.eye(1, opened.manifest.embedding_dim, dtype=np.float32)
        hits = opened.search(vector, len(opened))[0]
    return {hit.path: hit.exif for hit in hits}


def user_version(path):
    with closing(sqlite3.connect(path / "rows.sqlite")) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


@pytest.mark.thin
def test_a_hit_has_what_its_file_says_beside_its_own_metadata(index):
    assert said(index) == {"/0.jpg": SAID, "/1.jpg": None, "/2.jpg": Exif(camera="R5"), "/3.jpg": None}
    with Index.open(index) as opened:
        hits = opened.search(np.array([1, 0, 0, 0], np.float32), 4)[0]
    assert {hit.path: hit.metadata for hit in hits}["/0.jpg"] == {"taken": "mine"}


@pytest.mark.thin
def test_the_table_through_sqlite_alone(index):
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        first, second = db.execute("SELECT * FROM exif ORDER BY row")
    place = (481371000, 115754000)
    words = '["sea", "Käse"]'
    expected = (0, "2024-06-01T17:30:00", "+02:00", "Google", "Pixel 7", "wide", *place, 4, words, "T", "D")
    assert first[:-1] == expected
    texts = [(b"i" if isinstance(value, int) else b"t", str(value).encode()) for value in expected]
    written = b"".join(b"%b%d:%b" % (kind, len(text), text) for kind, text in texts)
    assert first[-1] == google_crc32c.value(written)
    assert second[:-1] == (2, None, None, None, "R5", *(7 * [None]))
    assert second[-1] == google_crc32c.value(b"i1:2nnnt2:R5nnnnnnn")


@pytest.mark.thin
def test_an_index_whose_pictures_say_nothing_is_as_it_was_before(tmp_path):
    drawn_index(tmp_path / "x")
    with IndexWriter(tmp_path / "x") as writer:
        writer.touch(row(0, Exif()))
    assert user_version(tmp_path / "x") == 1
    with closing(sqlite3.connect(tmp_path / "x" / "rows.sqlite")) as db:
        assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'exif'").fetchall() == []


@pytest.mark.thin
def test_the_first_picture_that_says_something_brings_an_old_index_up_to_date(tmp_path):
    path = drawn_index(tmp_path / "x")
    with Index.open(path) as reader:
        assert reader.where("camera IS NULL").tolist() == list(range(40))
        with IndexWriter(path) as writer:
            known = Picture(b"/p/odd/003.jpg", 103, 0, (3).to_bytes(16, "big"), 0, 0, exif=SAID)
            writer.touch(known)
        assert reader.where("camera = 'Pixel 7'").tolist() == []  # a view of what it was
        reader.refresh()
        assert reader.where("camera = 'Pixel 7'").tolist() == [3]
        with pytest.raises(InvalidArgument, match="may not"):  # the authorizer is there again
            reader.where("load_extension('x') IS NULL")
    assert user_version(path) == 2
    assert verify_index(path).damages == []


@pytest.mark.thin
def test_a_commit_that_fails_leaves_an_old_index_old(tmp_path, monkeypatch):
    from clipdex.index import rows

    path = drawn_index(tmp_path / "x")
    with IndexWriter(path) as writer:
        writer.touch(Picture(b"/p/odd/003.jpg", 103, 0, (3).to_bytes(16, "big"), 0, 0, exif=SAID))
        monkeypatch.setattr(rows, "exif_record", lambda *_: ("not a row",))
        with pytest.raises(clipdex.ClipdexError):
            writer.commit()
        monkeypatch.undo()
        writer._pending.touched.clear()
    assert user_version(path) == 1
    assert said(path)["/p/odd/003.jpg"] is None
    assert verify_index(path).damages == []


@pytest.mark.thin
def test_a_touched_file_keeps_what_was_not_read_again(index):
    with IndexWriter(index) as writer:
        writer.touch(row(0, None))
        writer.touch(row(1, Exif(rating=1)))
        writer.touch(row(2, Exif()))
    assert said(index) == {"/0.jpg": SAID, "/1.jpg": Exif(rating=1), "/2.jpg": None, "/3.jpg": None}


@pytest.mark.thin
def test_metadata_of_the_users_does_not_change_it(index):
    with IndexWriter(index) as writer:
        writer.annotate(b"/0.jpg", '{"camera":"mine"}')
    assert said(index)["/0.jpg"] == SAID
    with Index.open(index) as opened:
        assert opened.where("camera = 'Pixel 7' AND json_extract(meta, '$.camera') = 'mine'").tolist() == [0]


@pytest.mark.thin
def test_compacting_and_merging_carry_it_over(index, tmp_path):
    other = drawn_index(tmp_path / "y", rows=2, dim=4)
    merge_indexes([index, other], tmp_path / "z")
    assert {path: exif for path, exif in said(tmp_path / "z").items() if exif} == {
        "/0.jpg": SAID,
        "/2.jpg": Exif(camera="R5"),
    }
    with IndexWriter(index) as writer:
        writer.remove(b"/1.jpg")
    compact_index(index)
    assert said(index) == {"/0.jpg": SAID, "/2.jpg": Exif(camera="R5"), "/3.jpg": None}
    for path in (index, tmp_path / "z"):
        assert verify_index(path).damages == []


@pytest.mark.thin
def test_a_damaged_record_is_found_and_says_nothing(index):
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        db.execute("UPDATE exif SET rating = 5 WHERE row = 0")
        db.commit()
    (damage,) = verify_index(index).damages
    assert damage.what == "rows.sqlite: the record 0 of exif is damaged"
    assert said(index)["/0.jpg"] is None
    with IndexWriter(index) as writer:
        assert writer.known(b"/0.jpg") is None and writer.known(b"/2.jpg") is not None


@pytest.mark.thin
def test_a_table_holds_it_as_json(index, tmp_path):
    with Index.open(index) as opened:
        clipdex.dump_table(opened, tmp_path / "t.csv")
    lines = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert json.loads(lines[0]["exif"]) == SAID.as_dict() and lines[1]["exif"] == ""


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("taken >= '2024-06' AND camera LIKE 'pixel%'", [0]),
        ("taken < '2024-06'", []),
        ("date(taken) = '2024-06-01' AND taken_offset = '+02:00'", [0]),
        ("make = 'Google' AND lens = 'wide'", [0]),
        ("camera IS NOT NULL", [0, 2]),
        ("rating >= 4", [0]),
        ("latitude BETWEEN 48 AND 49 AND longitude > 11", [0]),
        ("latitude IS NULL", [1, 2, 3]),
        ("has(keywords, 'sea')", [0]),
        ("has(keywords, 'Ka\u0308se')", [0]),
        ("has(keywords, 'se')", []),
        ("has(keywords, ', ')", []),
        ("has('[\"s\\u0065a\"]', 'sea') AND row = 2", [2]),
        ("has(keywords, 5) OR has(rating, 'sea')", []),
        ("NOT has(keywords, 'sea')", [1, 2, 3]),
        ("keywords LIKE '%käse%'", [0]),
        ("title = 'T' AND description = 'D'", [0]),
        ("near(48.1, 11.6, 5)", [0]),
        ("near(48.1, 11.6, 1) OR near(48.1, 11.6, 5)", [0]),
        ("NEAR (48.1, 11.6, 4.4)", []),
        ("near(48.1, 11.6, 5) IS NULL", [1, 2, 3]),
        ("NOT near(48.1, 11.6, 5)", []),
        ("near(:lat, :lon, 1 + 4)", [0]),
        ("near(48.1, 11.6, NULL)", []),
        ("title <> 'near(' AND near(48.1, 11.6, 5) -- near(", [0]),
        ("rating = 4 OR near(0, 0, 1)", [0]),
    ],
)
@pytest.mark.thin
def test_what_a_condition_says_of_it(index, condition, rows):
    with Index.open(index) as opened:
        params = {"lat": 48.1, "lon": 11.6} if ":lat" in condition else None
        assert opened.where(condition, params).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("near(91, 0, 1)", "the latitude is 91; expected degrees from -90 to 90"),
        ("near(0, '11', 1)", "the longitude is '11'; expected degrees"),
        ("near(0, 181, 1)", "the longitude is 181"),
        ("near(0, 0, -1)", "the distance is -1; expected kilometres"),
        ("near(0, 0, 'far')", "the distance is 'far'"),
        ("near(9e999, 0, 1)", "the latitude is inf"),
        ("near(0, 0)", "near takes the latitude, the longitude and a distance in km"),
        ("near(1, 2, 3, 4, 5)", "near takes the latitude"),
        ("near()", "is not a condition in SQL"),
        ("(SELECT 1 FROM exif)", "contains SELECT"),
        ("latitude_e7 > 1", "no such column"),
        ("item_id(camera) = 1", "may not call"),
    ],
)
@pytest.mark.thin
def test_a_condition_that_cannot_be_says_why(index, condition, says):
    with Index.open(index) as opened, pytest.raises(InvalidArgument, match=says.replace("(", r"\(")):
        opened.where(condition)


@pytest.mark.thin
def test_near_is_the_great_circle_distance():
    def distance(a, b):
        """By unit vectors and the angle between them: another way than the haversine."""
        (x1, y1, z1), (x2, y2, z2) = (
            (
                math.cos(math.radians(lat)) * math.cos(math.radians(lon)),
                math.cos(math.radians(lat)) * math.sin(math.radians(lon)),
                math.sin(math.radians(lat)),
            )
            for lat, lon in (a, b)
        )
        cross = math.hypot(y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2)
        return EARTH_KM * math.atan2(cross, x1 * x2 + y1 * y2 + z1 * z2)

    near = Near()
    assert 16_300 < distance(MUNICH, SYDNEY) < 16_330  # as other programs say
    dice = random.Random(0)
    pairs = [[(dice.uniform(-90, 90), dice.uniform(-180, 180)) for _ in "ab"] for _ in range(2_000)]
    pairs += [[(lat, lon), (lat + dice.uniform(-0.1, 0.1), lon)] for (lat, lon), _ in pairs if abs(lat) < 89]
    pairs += [[(0, 179.99), (0, -179.99)], [(90, 0), (90, 120)], [(90, 5), (-90, 70)], [MUNICH, MUNICH]]
    for a, b in pairs:
        km = distance(a, b)
        assert near(*a, *b, km * 1.000001 + 1e-5) == 1, (a, b)
        assert km < 1e-3 or near(*a, *b, km * 0.999999 - 1e-5) == 0, (a, b)
    assert near(None, None, 1, 1, 1) is None


def folder_of(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = exif_block(place=MUNICH, model="Pixel 7", offset="+02:00")
    (folder / "a.jpg").write_bytes(picture(exif=exif, seed=1))
    (folder / "b.png").write_bytes(picture("PNG", xmp=packet(bag("dc:subject", "sea")), seed=2))
    (folder / "c.jpg").write_bytes(picture(seed=3))
    (folder / "c.xmp").write_bytes(packet("", 'xmp:Rating="5"'))
    (folder / "d.jpg").write_bytes(picture(exif=b"Exif\0\0II*\0\xff\xff\xff\xff", seed=4))
    return folder


PIXEL = Exif("2024-06-01T17:30:00", "+02:00", camera="Pixel 7", latitude=MUNICH[0], longitude=MUNICH[1])


def by_name(path):
    return {name.rpartition("/")[2]: exif for name, exif in said(path).items()}


EXPECTED = {"a.jpg": PIXEL, "b.png": Exif(keywords=("sea",)), "c.jpg": Exif(rating=5), "d.jpg": None}


def test_a_run_reads_files_and_sidecars(update, tmp_path):
    report, embedded = update(folder_of(tmp_path))
    assert (report.indexed, report.failed, embedded) == (4, 0, 4)
    assert by_name(tmp_path / "x") == EXPECTED
    with Index.open(tmp_path / "x") as opened:
        assert opened.info().with_exif == 3


@pytest.mark.slow
def test_a_run_without_exif_keeps_nothing_and_a_refresh_reads_it_without_embedding(update, tmp_path, transport):
    folder = folder_of(tmp_path)
    update(folder, exif=False)
    assert set(by_name(tmp_path / "x").values()) == {None} and user_version(tmp_path / "x") == 1
    (folder / "new.jpg").write_bytes(picture(seed=5))
    (folder / "d.jpg").write_bytes(picture(exif=exif_block(), seed=6))
    (folder / "b.png").unlink()
    asked = len(transport.requests)
    done = refresh_metadata(folder, tmp_path / "x", workers=1)
    assert (done.refreshed, done.with_exif, done.changed, done.failed, done.unknown) == (2, 2, 1, 0, 1)
    assert len(transport.requests) == asked
    assert by_name(tmp_path / "x") == {"a.jpg": PIXEL, "b.png": None, "c.jpg": Exif(rating=5), "d.jpg": None}
    (folder / "c.xmp").write_bytes(packet("", 'xmp:Rating="1"'))
    assert update(folder, check="content")[1] == 2  # the new and the changed one, no other
    assert by_name(tmp_path / "x")["c.jpg"] == Exif(rating=1)
    assert verify_index(tmp_path / "x").damages == []


def test_a_copy_says_what_its_own_sidecar_says(update, tmp_path):
    folder = folder_of(tmp_path)
    (folder / "copy.jpg").write_bytes((folder / "c.jpg").read_bytes())
    update(folder)
    assert by_name(tmp_path / "x")["copy.jpg"] is None and by_name(tmp_path / "x")["c.jpg"] == Exif(rating=5)


def test_a_picture_in_a_tar_says_it_and_its_texts_stay_apart(update, tmp_path):
    data = picture(exif=exif_block(model="Pixel 7"), seed=1)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in (("a.jpg", data), ("a.json", b'{"camera": "mine"}'), ("a.xmp", b"not of a folder")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    update(tmp_path / "t.tar")
    with Index.open(tmp_path / "x") as opened:
        assert opened.picture(0).exif == Exif("2024-06-01T17:30:00", camera="Pixel 7")
        assert opened.where("camera = 'Pixel 7' AND meta LIKE '%mine%'").tolist() == [0]


@pytest.mark.slow
def test_the_command_refreshes_and_searches(run, tmp_path, monkeypatch):
    from clipdex.cli import connection_options as connection  # the thin install has no command line

    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    folder, index = folder_of(tmp_path), tmp_path / "x.clipdex"
    status, out, _ = run("index", folder, "-i", index, "--no-exif", "--workers", 1)
    assert status == 0
    status, out, err = run("index", folder, "-i", index, "--refresh-metadata", "--workers", 1)
    assert status == 0, err
    assert out.startswith("4 pictures read again, 3 with metadata of their own, in ")

    def no_server(*_, **__):
        raise AssertionError("a refresh needs no server")

    with monkeypatch.context() as away:
        away.setattr(connection, "connect", no_server)
        status, out, _ = run("index", folder, "-i", index, "--refresh-metadata", "--json", "--workers", 1)
    assert json.loads(out) | {"index": ""} == {
        **{"index": "", "dry_run": False, "refreshed": 4, "with_exif": 3, "changed": 0, "failed": 0, "unknown": 0}
    }
    condition = "near(48.1, 11.6, 5) AND taken >= '2024-06' AND camera LIKE 'Pixel%'"
    status, out, err = run("search", "a", "-i", index, "--where", condition, "--json")
    assert status == 0, err
    (hit,) = json.loads(out)[0]["hits"]
    assert hit["exif"] == PIXEL.as_dict()
    status, _, err = run("index", folder, "-i", index, "--refresh-metadata", "--dry-run")
    assert status and "give one of them" in err
    status, _, err = run("index", folder, "-i", tmp_path / "no.clipdex", "--refresh-metadata")
    assert status and "no such" in err and not (tmp_path / "no.clipdex").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_items_say_it_too_unless_the_collection_is_told_not_to(fake, tmp_path, workers):
    folder = folder_of(tmp_path)
    data = (folder / "a.jpg").read_bytes()
    with Collection.open(tmp_path / "x", client=fake, decode_workers=workers) as pictures:
        pictures.add([Item("bytes", data, metadata={"taken": "mine"}), Item("path", folder / "c.jpg")])
        pictures.add([Item("array", np.asarray(noise(9))), Item("plain", picture(seed=8))])
        kept = {each.id: each.exif for each in pictures}
        assert kept == {"bytes": PIXEL, "path": Exif(rating=5), "array": None, "plain": None}
        pictures.update_metadata("bytes", {"other": 1})
        stored = pictures.get("bytes")
        assert stored is not None and (stored.exif, stored.metadata) == (PIXEL, {"other": 1})
        (hit,) = pictures.search("a", where="near(48.1, 11.6, 5)")
        assert (hit.id, hit.exif) == ("bytes", PIXEL)
        (folder / "c.xmp").write_bytes(packet("", 'xmp:Rating="1"'))
        pictures.add(Item("path", folder / "c.jpg"))  # the same picture, another sidecar
        pictures.add(Item("bytes", (folder / "b.png").read_bytes()))  # another picture
        kept = {each.id: each.exif for each in pictures}
        assert kept["path"] == Exif(rating=1) and kept["bytes"] == Exif(keywords=("sea",))
    with Collection.open(tmp_path / "x", client=fake, decode_workers=workers, exif=False) as pictures:
        pictures.add([Item("told not to", data), Item("path", folder / "c.jpg")])
        kept = {each.id: each.exif for each in pictures}
        assert kept["told not to"] is None and kept["path"] == Exif(rating=1)


@pytest.mark.thin
def test_facets_and_columns_say_what_a_later_commit_was_the_first_to_bring(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([row(0)], unit_vectors(1, 4))
    with Index.open(path) as opened:
        facets = Facets(opened)
        assert facets.counts("camera").missing == 1 and "taken" not in there(facets)
        assert {each.name: each.kind for each in facets.columns()[0]}["keywords"] == "list"
        with IndexWriter(path) as writer:
            writer.append([row(1, SAID), row(2, Exif(keywords=("sea",), title="[draft]"))], unit_vectors(2, 4))
        assert facets.counts("camera").values == [("Pixel 7", 1, "camera = 'Pixel 7'")]
        assert facets.counts("taken").values == [("2024-06", 1, "substr(taken, 1, 7) = '2024-06'")]
        assert facets.counts("taken", unit="year").values == [("2024", 1, "substr(taken, 1, 4) = '2024'")]
        assert [each[:2] for each in facets.counts("keywords").values] == [("sea", 2), ("Käse", 1)]
        for by in ("camera", "taken", "keywords", "rating", "title"):
            for _, count, condition in facets.counts(by).values:
                assert len(opened.where(condition)) == count > 0, condition
        kinds = there(facets)
        wanted = {"taken": "time", "camera": "text", "keywords": "list", "latitude": "real", "rating": "integer"}
        assert kinds.items() >= (wanted | {"title": "text"}).items()


def there(facets):
    return {each.name: each.kind for each in facets.columns()[0] if each.there}


@pytest.mark.thin
@pytest.mark.parametrize("condition", ["near(48, 11, 5) OR folder = 'x'", "has(keywords, 'a') AND folder <> ''"])
def test_what_a_condition_reads_is_known_through_the_functions_of_places_and_keywords(condition):
    assert columns_read(condition, ("path", "folder")) == {"folder"}
    assert columns_read(condition.replace("folder", "title <> 'folder' AND name"), ("path", "folder")) == set()


@pytest.mark.thin
def test_an_unused_table_is_not_joined(index):
    """A filter over other columns costs nothing of it."""
    from clipdex.index.where import Where

    where = Where(index / "rows.sqlite")
    where._db.set_authorizer(None)
    plan = [line[-1] for line in where._db.execute("EXPLAIN QUERY PLAN SELECT row FROM pictures WHERE width > 1")]
    used = [line[-1] for line in where._db.execute("EXPLAIN QUERY PLAN SELECT row FROM pictures WHERE rating > 1")]
    where.close()
    assert not any("exif" in line for line in plan) and any("exif" in line for line in used)
