"""Approximate search: exact scores, no dead or filtered rows, all new ones, and nothing from what does not fit."""

import hashlib
import json
import sqlite3
from typing import Any

import google_crc32c
import numpy as np
import pytest
from conftest import present, unit_vectors

import clipdex
from clipdex.index import Index, IndexWriter, Manifest, Picture, compact_index, optimize_index, verify_index
from clipdex.index.side.ann_file import ANN_FILE, HEADER_BYTES
from clipdex.search.topk import top_k

pytest.importorskip("faiss")

from clipdex.ann import AnnIndex, build_ann

ROWS, DIM = 24_000, 16
PQ = 9984


def picture(i):
    return Picture(b"/photos/%06d.jpg" % i, 1, i, i.to_bytes(16, "big"), 9, 9)


def write(path, rows=ROWS, dtype="float16", first=0):
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM, dtype=dtype)) as writer:
        writer.append([picture(i) for i in range(first, first + rows)], unit_vectors(rows, DIM, seed=first))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index with a graph."""
    path = write(tmp_path_factory.mktemp("ann") / "x.clipdex")
    build_ann(path, links=8, chosen_from=40)
    return path


@pytest.fixture
def own(built, tmp_path):
    """One to be changed."""
    import shutil

    shutil.copytree(built, tmp_path / "own.clipdex")
    return tmp_path / "own.clipdex"


def rows_of(hits):
    return [hit.row for hit in hits]


def recall(index, queries, ann, **options):
    pairs = zip(index.search(queries, 10, ann=ann, **options), index.search(queries, 10, **options), strict=True)
    return np.mean([len(set(rows_of(a)) & set(rows_of(b))) / len(b) for a, b in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_finds_most_and_scores_exactly(tmp_path, kind, dtype):
    path = write(tmp_path / "x", PQ, dtype)
    made = build_ann(path, kind)
    assert made.header.rows == PQ
    assert made.file_bytes == (path / ANN_FILE).stat().st_size
    assert present(made.header.recall).source == "pictures of the index"
    queries = unit_vectors(40, DIM, seed=99)
    with Index.open(path) as index:
        ann = AnnIndex.open(index)
        assert ann.header == made.header
        assert recall(index, queries, ann) >= {"hnsw": 0.95, "ivf_pq": 0.7}[kind]
        exact = {hit.row: hit.score for hit in index.search(queries[0], PQ)[0]}
        found = index.search(queries[0], 10, ann=ann)[0]
        assert [hit.score for hit in found] == [exact[hit.row] for hit in found]
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@pytest.mark.slow
def test_it_is_loaded_as_it_was_built(built):
    """The graph is stored without its vectors; those are taken from the index."""
    assert (built / ANN_FILE).stat().st_size < ROWS * DIM * 2 + 150 * ROWS
    with Index.open(built) as index:
        ann = AnnIndex.open(index)
        some = np.arange(0, ROWS, 997)
        assert [rows_of(h)[0] for h in index.search(index.vectors[some], 1, ann=ann)] == some.tolist()


@pytest.mark.slow
def test_a_graph_with_few_links_shows_a_low_recall_and_more_effort_a_higher_one(built):
    queries = unit_vectors(60, DIM, seed=7)
    with Index.open(built) as index:
        little, much = (recall(index, queries, AnnIndex.open(index, effort)) for effort in (1, 400))
    assert little < much
    assert much > 0.95


def test_dead_rows_are_never_found(own):
    with Index.open(own) as index:
        best = rows_of(index.search(unit_vectors(1, DIM, seed=3)[0], 8)[0])
    with IndexWriter(own) as writer:
        for row in best:
            writer.remove(picture(row).path)
    with Index.open(own) as index:
        found = index.search(unit_vectors(1, DIM, seed=3)[0], 8, ann=AnnIndex.open(index))[0]
        assert len(found) == 8
        assert not set(best) & set(rows_of(found))
        assert recall(index, unit_vectors(40, DIM, seed=4), AnnIndex.open(index)) > 0.8


def test_rows_written_since_are_all_looked_at(own):
    write(own, 300, first=ROWS)
    new = unit_vectors(300, DIM, seed=ROWS)
    with Index.open(own) as index:
        ann = AnnIndex.open(index)
        assert [rows_of(hits)[0] for hits in index.search(new, 1, ann=ann)] == list(range(ROWS, ROWS + 300))


def test_a_reader_of_before_the_last_rows_is_told_to_refresh(tmp_path):
    """Its view has no vectors for the rest of the graph."""
    path = write(tmp_path / "x", 500)
    with Index.open(path) as index, Index.open(path) as other:
        write(path, 500, first=500)
        build_ann(path)
        with pytest.raises(clipdex.IndexFault, match="refresh"):
            AnnIndex.open(index)
        index.refresh()
        ann = AnnIndex.open(index)
        assert index.search(unit_vectors(500, DIM, seed=500), 3, ann=ann)
        with pytest.raises(clipdex.IndexFault, match="refresh"):
            other.search(unit_vectors(1, DIM), 3, ann=ann)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01], ids=str)
def test_filters_hold(built, share):
    allowed = np.flatnonzero(np.random.default_rng(1).random(ROWS) < share)
    queries = unit_vectors(40, DIM, seed=5)
    with Index.open(built) as index:
        ann = AnnIndex.open(index)
        found = index.search(queries, 10, ann=ann, where=allowed)
        assert set(np.concatenate([rows_of(hits) for hits in found])) <= set(allowed)
        assert recall(index, queries, ann, where=allowed) > 0.8


def test_a_minimum_score_and_pages(built):
    query = unit_vectors(1, DIM, seed=8)[0]
    with Index.open(built) as index:
        ann = AnnIndex.open(index, 400)
        ten = index.search(query, 10, ann=ann)[0]
        assert index.search(query, 5, offset=5, ann=ann)[0] == ten[5:]
        assert index.search(query, 10, min_score=ten[3].score, ann=ann)[0] == ten[:4]


@pytest.mark.parametrize(
    "where", [np.array([ROWS]), np.array([-1]), np.ones(ROWS - 1, bool), np.ones(1, bool)], ids=str
)
def test_a_filter_that_does_not_fit_is_refused(built, where):
    with Index.open(built) as index, pytest.raises(clipdex.InvalidArgument, match="the filter"):
        index.search(unit_vectors(1, DIM), 10, where=where, ann=AnnIndex.open(index))


@pytest.mark.parametrize("wanted", [1, 1500, ROWS])
def test_as_many_as_asked_for(built, wanted):
    with Index.open(built) as index:
        (found,) = index.search(unit_vectors(1, DIM)[0], wanted, ann=AnnIndex.open(index))
        assert len(found) == wanted


def test_a_tiny_index_can_have_a_graph(tmp_path):
    path = write(tmp_path / "x", 3)
    build_ann(path)
    with Index.open(path) as index:
        assert rows_of(index.search(index.vectors[2], 3, ann=AnnIndex.open(index))[0])[0] == 2


@pytest.mark.parametrize(
    "options",
    [{"kind": "flat"}, {"kind": "ivf_pq"}, {"links": 1}, {"chosen_from": 0}, {"effort": 0}],
    ids=str,
)
def test_what_cannot_be_built(tmp_path, options):
    path = write(tmp_path / "x", 100)
    with pytest.raises(clipdex.InvalidArgument):
        build_ann(path, **options)
    assert not list(path.glob("vectors.ann*"))


@pytest.mark.parametrize(
    "queries",
    [unit_vectors(2, DIM + 1), np.empty((0, DIM), np.float32), np.full((1, DIM), np.nan), np.ones((1, 2, DIM))],
    ids=["of another width", "none", "not finite", "too deep"],
)
def test_queries_that_cannot_be_measured_with(tmp_path, queries):
    path = write(tmp_path / "x", 100)

    def built(done, total):
        pytest.fail("it was refused too late")

    with pytest.raises(clipdex.InvalidArgument, match="to measure with"):
        build_ann(path, queries=queries, progress=built)
    assert not list(path.glob("vectors.ann*"))


def test_the_exact_search_it_is_compared_with_is_the_one_that_users_have(tmp_path, monkeypatch):
    """With the codes that `optimize` made, and norms that are kept."""
    path, seen = write(tmp_path / "x", 3000), []
    optimize_index(path)

    def watched(*args, codes=None, norms=None, **options):
        seen.append((codes.rows, norms))
        return top_k(*args, codes=codes, norms=norms, **options)

    monkeypatch.setattr("clipdex.ann.build.top_k", watched)
    assert present(build_ann(path, queries=unit_vectors(3, DIM)).header.recall).queries == 3
    assert [rows for rows, _ in seen] == [3000] * 4
    assert seen[0][1] is not None and len({id(norms) for _, norms in seen}) == 1


def test_an_empty_index_cannot_have_one(tmp_path):
    with pytest.raises(clipdex.InvalidArgument, match="search it exactly"):
        build_ann(write(tmp_path / "x", 0))


def test_the_file_is_as_documented(built):
    """docs/index-format.md, read without clipdex."""
    import faiss

    raw = (built / ANN_FILE).read_bytes()
    header = json.loads(raw[:4096])
    assert raw[4095:4096] == b"\n"
    assert (header["format"], header["format_version"], header["kind"]) == ("clipdex-ann", 1, "hnsw")
    db = sqlite3.connect(built / "rows.sqlite")
    extents = db.execute("SELECT first_row, row_count, vectors_crc32c FROM extents ORDER BY 1").fetchall()
    db.close()
    named = "".join(f"{first},{count},{crc32c};" for first, count, crc32c in extents)
    assert header["extents"] == hashlib.blake2b(named.encode(), digest_size=16).hexdigest()
    assert (header["rows"], header["fingerprint"], header["embedding_dim"]) == (ROWS, "f" * 64, DIM)
    assert (header["faiss_bytes"], header["faiss_crc32c"]) == (len(raw) - 4096, google_crc32c.value(raw[4096:]))
    crc32c = header.pop("crc32c")
    assert crc32c == google_crc32c.value(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    graph: Any = faiss.deserialize_index(np.frombuffer(raw[4096:], np.uint8))
    assert (graph.ntotal, graph.d, graph.storage) == (ROWS, DIM, None)


# A file that does not fit


def test_there_may_be_none(tmp_path):
    with Index.open(write(tmp_path / "x", 10)) as index, pytest.raises(clipdex.IndexFault, match="ann build"):
        AnnIndex.open(index)


@pytest.mark.slow
def test_after_a_compaction_there_is_none(own):
    with IndexWriter(own) as writer:
        writer.remove(picture(5).path)
    compact_index(own)
    with Index.open(own) as index, pytest.raises(clipdex.IndexFault, match="ann build"):
        AnnIndex.open(index)


@pytest.mark.slow
def test_one_that_was_loaded_before_a_compaction_is_refused(own):
    query = unit_vectors(1, DIM)[0]
    with IndexWriter(own) as writer:
        writer.remove(picture(5).path)
    with Index.open(own) as index:
        ann = AnnIndex.open(index)
        compact_index(own)
        assert index.search(query, 10, ann=ann)[0]  # the view of before
        index.refresh()
        with pytest.raises(clipdex.IndexFault, match="does not belong to the rows that"):
            index.search(query, 10, ann=ann)
        build_ann(own, links=4, chosen_from=8)
        with pytest.raises(clipdex.IndexFault, match="open it again"):
            index.search(query, 10, ann=ann)
        assert recall(index, unit_vectors(20, DIM, seed=4), AnnIndex.open(index)) > 0.5


@pytest.mark.slow
def test_a_loaded_one_is_good_for_the_same_rows_only(built, own, tmp_path):
    other = write(tmp_path / "x", ROWS, first=ROWS)
    with Index.open(built) as index, Index.open(own) as same, Index.open(other) as another:
        ann = AnnIndex.open(index)
        query = unit_vectors(1, DIM)[0]
        assert rows_of(same.search(query, 10, ann=ann)[0]) == rows_of(index.search(query, 10, ann=ann)[0])
        with pytest.raises(clipdex.IndexFault, match="does not belong to the rows"):
            another.search(query, 10, ann=ann)


@pytest.mark.slow
def test_one_of_other_rows_is_refused(own, built, tmp_path):
    (write(tmp_path / "x", ROWS, first=ROWS) / ANN_FILE).write_bytes((built / ANN_FILE).read_bytes())
    with Index.open(tmp_path / "x") as index, pytest.raises(clipdex.IndexFault, match="belongs to other rows"):
        AnnIndex.open(index)
    assert "belongs to other rows" in verify_index(tmp_path / "x").damages[0].what


def test_one_of_another_model_is_refused(built, tmp_path):
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("e" * 64, "demo", DIM)) as writer:
        writer.append([picture(0)], unit_vectors(1, DIM))
    (tmp_path / "x" / ANN_FILE).write_bytes((built / ANN_FILE).read_bytes())
    with Index.open(tmp_path / "x") as index, pytest.raises(clipdex.IndexFault, match="another index"):
        AnnIndex.open(index)


@pytest.mark.slow
def test_every_flipped_bit_and_every_cut_is_found(own):
    whole = (own / ANN_FILE).read_bytes()
    rng = np.random.default_rng(0)
    text = whole[:HEADER_BYTES].rstrip()
    places = [*rng.integers(len(text), size=40), *rng.integers(HEADER_BYTES, len(whole), size=20)]
    assert not verify_index(own).damages
    with Index.open(own) as index:
        for place in places:
            data = bytearray(whole)
            data[place] ^= 1 << int(rng.integers(8))
            (own / ANN_FILE).write_bytes(data)
            with pytest.raises(clipdex.IndexFault):
                AnnIndex.open(index)
        for length in (0, 5, HEADER_BYTES, len(whole) - 1):
            (own / ANN_FILE).write_bytes(whole[:length])
            with pytest.raises(clipdex.IndexFault):
                AnnIndex.open(index)
        (found,) = index.search(unit_vectors(1, DIM)[0], 1)
        assert found
    assert "clipdex ann build" in verify_index(own).damages[0].what


@pytest.mark.slow
def test_an_interrupted_build_leaves_the_old_one(own):
    before = (own / ANN_FILE).read_bytes()

    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_ann(own, progress=interrupted)
    assert (own / ANN_FILE).read_bytes() == before
    assert [path.name for path in own.glob("vectors.ann*")] == [ANN_FILE]


@pytest.mark.slow
def test_two_builds_at_once(own):
    def another(done, total):
        with pytest.raises(clipdex.IndexLocked):
            build_ann(own, links=4)

    build_ann(own, links=4, chosen_from=8, progress=another)


@pytest.mark.slow
def test_a_build_that_a_compaction_overtook_is_told(own):
    with IndexWriter(own) as writer:
        writer.remove(picture(5).path)
    times = iter([compact_index])

    def overtaken(done, total):
        for act in times:
            act(own)

    with pytest.raises(clipdex.IndexLocked, match="compacted meanwhile"):
        build_ann(own, links=4, chosen_from=8, progress=overtaken)
    assert not list(own.glob("vectors.ann*"))


# The command


@pytest.mark.slow
def test_the_command_builds_and_searches(run, fake, pictures, tmp_path, monkeypatch):
    from conftest import MODEL_REPOSITORY

    index, server = tmp_path / "x.clipdex", f"inproc:{MODEL_REPOSITORY}"
    assert run("index", pictures, "--out", index, "--server", server, "--workers", 1)[0] == 0
    status, out, err = run("ann", "build", index)
    assert (status, err) == (0, "")
    assert "hnsw of 12 rows" in out
    assert "recall@10 1.000 when built, measured with 12 pictures of the index" in out
    (tmp_path / "q.txt").write_text("a red circle\n\na blue square\n")
    status, out, err = run("ann", "build", index, "--queries", tmp_path / "q.txt", "--server", server)
    assert "measured with 2 texts of q.txt" in out
    plain = run("search", "a red circle", "--index", index, "--server", server)
    approximate = run("search", "a red circle", "--index", index, "--server", server, "--ann")
    assert approximate[:2] == plain[:2]
    assert "recall@10" in approximate[2]
    (index / ANN_FILE).unlink()
    status, out, err = run("search", "a red circle", "--index", index, "--server", server, "--ann")
    assert (status, out) == (1, "") and "clipdex ann build" in err and err.count("\n") == 1


def test_without_a_server_captions_are_not_measured_with(run, tmp_path):
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "demo", DIM)) as writer:
        told = [Picture(b"/%d" % i, 1, i, bytes([i] * 16), 9, 9, '{"txt":"a cat"}') for i in range(20)]
        writer.append(told, unit_vectors(20, DIM))
    status, out, err = run("ann", "build", tmp_path / "x", "--server", "localhost:1")
    assert status == 0
    assert "measured with pictures" in err
    assert "pictures of the index" in out


def test_without_faiss_the_extra_is_named(monkeypatch, built):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(clipdex.MissingExtra, match=r"\[faiss\]"):
        build_ann(built)
    with Index.open(built) as index, pytest.raises(clipdex.MissingExtra, match=r"\[faiss\]"):
        AnnIndex.open(index)
