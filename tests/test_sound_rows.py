"""A row that is not finite or not of norm 1 has no cosine: it is never written, and never part of an answer."""

import numpy as np
import pytest
from conftest import unit_vectors
from search_cases import _commit

import clipdex
from clipdex.apps.dump_files import dump_npy
from clipdex.apps.duplicates import find_duplicates
from clipdex.index import Index, IndexWriter, Manifest, Picture, compact_index, optimize_index, verify_index
from clipdex.index.schema import connect

pytestmark = pytest.mark.thin

DIM, ROWS, BAD = 16, 300, 123
NAN = np.full(DIM, np.nan)
INFINITE = np.r_[np.inf, np.zeros(DIM - 1)]
LONG = np.full(DIM, 1.2)
SHORT = np.full(DIM, 0.05)
ZERO = np.zeros(DIM)


def picture(i):
    return Picture(b"/p/%d.jpg" % i, 1, 2, b"%016d" % i, 3, 4)


def index_with(directory, row, dtype="float16", *, dead=False):
    """An index whose row BAD is `row`, with a checksum that fits, as what another program wrote has."""
    vectors = unit_vectors(ROWS, DIM).astype(dtype)
    with IndexWriter.open_or_create(directory, Manifest("f" * 64, "drawn", DIM, dtype)) as writer:
        writer.append([picture(i) for i in range(ROWS)], vectors)
        writer.commit()
        if dead:
            writer.remove(picture(BAD).path)
    vectors[BAD] = row
    db = connect(directory / "rows.sqlite", write=True)
    db.execute("DELETE FROM extents")
    db.close()
    (directory / f"vectors.f{8 * vectors.itemsize}").write_bytes(b"")
    _commit(directory, Manifest.read(directory), 0, vectors)
    return directory


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("row", [NAN, INFINITE, LONG, SHORT, ZERO], ids=["nan", "inf", "long", "short", "zero"])
def test_verify_counts_a_row_that_is_no_unit_vector_and_search_refuses_it(tmp_path, dtype, row):
    directory = index_with(tmp_path / "x.clipdex", row, dtype)
    (damage,) = verify_index(directory).damages
    assert damage.rows == (BAD, BAD + 1)
    assert f"row {BAD} is not finite or not of norm 1" in damage.what
    with Index.open(directory) as index:
        for k in (1, ROWS):
            with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} .*clipdex verify"):
                index.search(unit_vectors(3, DIM, seed=9), k)
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            index.vector(BAD)
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            dump_npy(index, tmp_path / "x.npy")
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            find_duplicates(index, "semantic")


@pytest.mark.parametrize("row", [NAN, LONG], ids=["nan", "long"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_filter_that_leaves_the_row_out_is_answered_and_one_that_does_not_is_refused(tmp_path, row, share):
    directory = index_with(tmp_path / "x.clipdex", row)
    allowed = np.arange(ROWS) < share * ROWS
    allowed[BAD] = False
    with Index.open(directory) as index:
        query = unit_vectors(1, DIM, seed=9)
        assert len(index.search(query, 5, where=allowed)[0]) == 5
        allowed[BAD] = True
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            index.search(query, 5, where=allowed)
        assert len(index.search(query, ROWS, exclude=[BAD])[0]) == ROWS - 1
        assert len(index.search(query, 5, where=f"row <> {BAD}")[0]) == 5


@pytest.mark.parametrize("row", [NAN, INFINITE, LONG], ids=["nan", "inf", "long"])
def test_a_row_that_is_dead_hinders_nothing(tmp_path, row):
    directory = index_with(tmp_path / "x.clipdex", row, dead=True)
    with Index.open(directory) as index:
        hits = index.search(unit_vectors(2, DIM, seed=9), ROWS - 1)
        assert all(abs(hit.score) < 1.001 for each in hits for hit in each)
    assert compact_index(directory) == 1
    assert verify_index(directory).damages == []


@pytest.mark.parametrize("row", [NAN, INFINITE, LONG, SHORT, ZERO], ids=["nan", "inf", "long", "short", "zero"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_row_that_has_no_int8_code_for_it_is_refused_too(tmp_path, dtype, row):
    directory = index_with(tmp_path / "x.clipdex", row, dtype)
    optimize_index(directory)
    with Index.open(directory) as index:
        assert index.codes() is not None
        for k in (1, ROWS):  # it would rank low, or vanish from the answer
            with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
                index.search(unit_vectors(3, DIM, seed=9), k)
        query = unit_vectors(1, DIM, seed=9)
        assert len(index.search(query, 5, where=f"row <> {BAD}")[0]) == 5
        assert len(index.search(query, ROWS, exclude=[BAD])[0]) == ROWS - 1


def test_a_dead_row_without_a_code_hinders_nothing(tmp_path):
    directory = index_with(tmp_path / "x.clipdex", SHORT, dead=True)
    optimize_index(directory)
    with Index.open(directory) as index:
        assert index.codes() is not None
        assert len(index.search(unit_vectors(1, DIM, seed=9), ROWS)[0]) == ROWS - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codes", "hnsw", "ivf_pq"])
def test_a_row_that_rots_later_is_refused_where_it_would_have_been_the_best(tmp_path, kind):
    rows = 10_000 if kind == "ivf_pq" else ROWS
    vectors = unit_vectors(rows, DIM).astype("float16")
    vectors[BAD + 1] = vectors[BAD]  # which would be the answer instead
    directory, ann = tmp_path / "x.clipdex", None
    with IndexWriter.open_or_create(directory, Manifest("f" * 64, "drawn", DIM)) as writer:
        writer.append([picture(i) for i in range(rows)], vectors)
    if kind == "codes":
        optimize_index(directory)
    else:
        pytest.importorskip("faiss")
        from clipdex.ann import AnnIndex, build_ann

        build_ann(directory, kind)
    with Index.open(directory) as index:
        if kind != "codes":
            ann = AnnIndex.open(index)
        query = index.vector(BAD)
        assert index.search(query, 1, ann=ann)[0][0].row == BAD
        changed = np.array(index.vectors)
        changed[BAD] *= np.float16(0.5)
        index._vectors = changed
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            index.search(query, 1, ann=ann)


@pytest.mark.parametrize("row", [NAN, LONG], ids=["nan", "long"])
def test_an_approximate_index_is_not_built_over_the_row(tmp_path, row):
    from clipdex.ann import AnnIndex, build_ann

    pytest.importorskip("faiss")
    directory = index_with(tmp_path / "x.clipdex", row)
    with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
        build_ann(directory)
    sound = index_with(tmp_path / "y.clipdex", unit_vectors(1, DIM, seed=3)[0])
    build_ann(sound)
    with Index.open(sound) as index:
        ann = AnnIndex.open(index)
        changed = np.array(index.vectors)
        changed[BAD] = row
        index._vectors = changed
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            index.search(unit_vectors(1, DIM, seed=9), ROWS, ann=ann)
        with pytest.raises(clipdex.IndexDamaged, match=f"row {BAD} "):
            AnnIndex.open(index)


def test_a_dead_row_hinders_no_approximate_index(tmp_path):
    from clipdex.ann import AnnIndex, build_ann

    pytest.importorskip("faiss")
    directory = index_with(tmp_path / "x.clipdex", LONG, dead=True)
    build_ann(directory)
    with Index.open(directory) as index:
        hits = index.search(unit_vectors(1, DIM, seed=9), 5, ann=AnnIndex.open(index))[0]
    assert len(hits) == 5
    assert BAD not in {hit.row for hit in hits}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("norm", [0, 0.5, 0.98, 0.987, 1.013, 1.02, 4.4, 1e30])
def test_the_writer_refuses_what_is_not_of_norm_1(tmp_path, dtype, norm):
    with IndexWriter.open_or_create(tmp_path / "x.clipdex", Manifest("f" * 64, "drawn", DIM, dtype)) as writer:
        some = unit_vectors(3, DIM)
        some[1] *= norm
        with pytest.raises(clipdex.InvalidArgument, match="vector 1 has norm"):
            writer.append([picture(i) for i in range(3)], some)
        assert writer.pending == 0
        some = unit_vectors(3, DIM) * np.array([[0.991], [1], [1.009]], np.float32)
        writer.append([picture(i) for i in range(3)], some)
    assert verify_index(tmp_path / "x.clipdex").damages == []
    with Index.open(tmp_path / "x.clipdex") as index:
        assert len(index.search(unit_vectors(1, DIM)[0], 3)[0]) == 3


@pytest.mark.parametrize("row", [NAN, LONG], ids=["nan", "long"])
def test_a_run_embeds_the_row_again_and_a_compaction_drops_it(tmp_path, row):
    directory = index_with(tmp_path / "x.clipdex", row)
    with IndexWriter(directory) as writer:
        assert writer.known(picture(BAD).path) is None
        assert writer.row_of_content(picture(BAD).content_hash) is None
        assert writer.known(picture(BAD - 1).path) is not None
        assert writer.known(picture(BAD + 1).path) is not None
        writer.append([picture(BAD)], unit_vectors(1, DIM, seed=3))
    with Index.open(directory) as index:
        assert len(index.search(unit_vectors(1, DIM)[0], ROWS)[0]) == ROWS
    compact_index(directory)
    assert verify_index(directory).damages == []
