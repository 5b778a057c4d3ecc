"""The answer is that of scoring every row exactly: the same rows in the same order, whatever the rows are like."""

import math
import sys

import numpy as np
import pytest
from conftest import unit_vectors
from search_cases import KINDS, MANY, WIDE, drawn_case, on_disk, small_pieces, wrong

from clipdex.index.side import int8_file as int8
from clipdex.search import kernels
from clipdex.search.estimates import FloatEstimates, RowNorms
from clipdex.search.exact import _sums, rank
from clipdex.search.int8_estimates import Int8Estimates, LoneEstimates
from clipdex.search.quantize import MemoryCodes, basis_of, quantize
from clipdex.search.selection import absent
from clipdex.search.spans import Span
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin


@pytest.fixture(params=["numkong", "numpy"])
def library(request, monkeypatch):
    """With NumKong's kernels, where it is installed, and with NumPy's."""
    if request.param == "numkong":
        pytest.importorskip("numkong")
    else:
        monkeypatch.setitem(sys.modules, "numkong", None)
    kernels._numkong.cache_clear()
    yield request.param
    kernels._numkong.cache_clear()


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("pieces", ["whole", "small pieces"])
def test_every_kind_of_rows(kind, pieces, library, monkeypatch):
    """Some 2,000 queries here; benchmarks/prove_search.py asks 10,000 and more."""
    if pieces == "small pieces":
        small_pieces(monkeypatch)
    for i in range(6):
        assert wrong(drawn_case(kind + len(KINDS) * i)) is None


@pytest.mark.slow
@pytest.mark.parametrize("dim", WIDE)
@pytest.mark.parametrize("pieces", ["whole", "small pieces"])
def test_wide_rows_and_more_queries_than_are_multiplied_at_once(dim, pieces, library, monkeypatch):
    """Codes for all rows, for some, and for none."""
    if pieces == "small pieces":
        small_pieces(monkeypatch)
    covered = set()
    for seed in (0, 2, 4, 5):
        case = drawn_case(seed, queries=MANY, rows=40, dims=[dim], fewest=20)
        covered.add(0 if case.codes is None else case.codes.rows / len(case.vectors))
        assert wrong(case) is None
    assert len(covered) >= 3


def test_codes_in_a_file(library, tmp_path, monkeypatch, caplog):
    """As `optimize` writes them: in several blocks, one of them damaged; for all rows or the first half."""
    monkeypatch.setattr(int8, "BLOCK_ROWS", 2048)
    for seed, blocks in ((3, 3), (24, 2), (27, 3)):
        case = drawn_case(seed, rows=5000, dims=[7], fewest=4200)
        case = on_disk(case, tmp_path / f"{seed}.clipdex", damaged=seed == 3)
        assert isinstance(case.codes, int8.Int8File) and case.codes.header.blocks == blocks
        assert wrong(case) is None
    assert "codes of rows 4096 to 4848 are not what was written" in caplog.text
    for seed in (5, 7, 9, 10):
        case = on_disk(drawn_case(seed, rows=100, dims=(33, 512)), tmp_path / f"small{seed}.clipdex")
        assert case.codes is not None
        assert wrong(case) is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_damaged_block_is_scanned_without_codes(library, count):
    vectors = unit_vectors(3000, 16).astype(np.float16)
    codes = MemoryCodes.of(vectors, block_rows=1024)
    damaged = MemoryCodes(codes.basis, [codes.block(0), None, codes.block(2)], codes.rows, codes.block_rows)
    queries = vectors[[5, 1500, 2999]][:count].astype(np.float32)
    right = top_k(vectors, queries, 10)
    for answer, expected in zip(top_k(vectors, queries, 10, codes=damaged), right, strict=True):
        assert answer.rows.tolist() == expected.rows.tolist()
        assert answer.scores.tolist() == expected.scores.tolist()


def test_blocks_that_are_scanned_together_may_be_coded_unevenly(library):
    """The best row is in a block whose codes say next to nothing, between two whose codes say much."""
    vectors = unit_vectors(3000, 16).astype(np.float16)
    codes = MemoryCodes.of(vectors, block_rows=1024)
    coarse = codes.blocks[1]
    assert coarse is not None
    apart = np.linalg.norm(vectors[1024:2048] - codes.basis.center.astype(np.float64), axis=1)
    coarse.code[:], coarse.scale[:], coarse.length[:], coarse.residual[:] = 0, 0, 0, 1.0001 * apart
    queries = vectors[1500:1501].astype(np.float32)
    assert (
        top_k(vectors, queries, 10, codes=codes)[0].rows.tolist() == top_k(vectors, queries, 10)[0].rows.tolist()
    )


def test_scores_that_float64_cannot_tell_apart(library):
    """Sums whose order of adding decides in float64 are ordered by what they truly are."""
    vectors = np.array([[1, 2**-30, -1], [1, -1, 2**-30], [2**-30, 1, -1], [0, 0, 0], [1, -1, 0]], np.float32)
    query = np.array([2.0**60, 2.0**60, 2.0**60], np.float32)
    found = rank(vectors, query, np.arange(5), 5)
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.scores.tolist() == [2.0**30] * 3 + [0.0] * 2


def test_true_sums_are_those_of_fsum():
    """Of numbers of all sizes that cancel, of sums halfway between two float64, of rows that are not finite."""
    rng = np.random.default_rng(8)
    for dim in (1, 2, 7, 512):
        rows = rng.standard_normal((60, dim)) * 2.0 ** rng.integers(-60, 60, (60, dim))
        rows[20:40] = rng.integers(-4, 5, (20, dim)) + 2.0**-53 * rng.integers(-1, 2, (20, dim))
        rows[5] = 0
        rows[10:20] = 1 + rng.random((10, dim))  # every digit of them counts in their sum
        half = rows[:, : dim // 2]
        rows[40:50, -half.shape[1] or dim :] = -half[40:50]  # all cancel, but for one
        true = np.array([math.fsum(row) for row in rows.tolist()])
        rows[55:, 0] = np.inf, -np.inf, np.nan, np.inf, np.nan
        with np.errstate(all="ignore"):
            sums, unsure = _sums(rows)
        sure = np.setdiff1d(np.arange(55), unsure)
        assert (sums[sure] == true[sure]).all()
        assert np.isnan(sums[55:]).all()
        assert set(unsure) <= set(range(55))
    ordinary = rng.standard_normal((1000, 512)) * rng.standard_normal(512)
    assert len(_sums(ordinary)[1]) == 0


def test_sums_halfway_between_two_doubles_are_settled_at_once():
    """Of products of float16 with float32 one sum in some ten is; summing it again costs as much as the rest."""
    rng = np.random.default_rng(9)
    query = rng.standard_normal(512).astype(np.float32)
    rows = unit_vectors(2000, 512).astype(np.float16).astype(np.float64) * query
    sums, unsure = _sums(rows)
    assert len(unsure) == 0
    assert sums.tolist() == list(map(math.fsum, rows.tolist()))


def test_the_bounds_of_codes_hold(library):
    """Exactly: in sums of fractions, for rows of all sizes."""
    rng = np.random.default_rng(3)
    vectors = (unit_vectors(500, 24) * 10.0 ** rng.integers(-4, 4, (500, 1))).astype(np.float32)
    vectors[7] = 0
    block = quantize(vectors, basis := basis_of(vectors))
    wide = basis.spread.astype(np.float64) * block.code * block.scale.astype(np.float64)[:, None]
    left = vectors - (basis.center.astype(np.float64) + wide)
    assert all(
        math.hypot(*row) <= bound for row, bound in zip(left.tolist(), block.residual.tolist(), strict=True)
    )
    lengths = [
        float(scale) * math.hypot(*code) for scale, code in zip(block.scale, block.code.tolist(), strict=True)
    ]
    assert (np.array(lengths) <= block.length).all()


def test_dot_products_are_as_close_as_they_say(library):
    rng = np.random.default_rng(4)
    for dtype in (np.float16, np.float32):
        for count in (1, 3, 9):
            rows = rng.standard_normal((200, 700)).astype(dtype)
            queries = rng.standard_normal((count, 700))
            queries /= 2 * abs(queries).max(axis=1, keepdims=True)
            dots = kernels.FloatDots(queries, np.dtype(dtype))
            true = rows.astype(np.float64) @ queries.T
            off = abs(dots(rows) - true) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
            assert (off <= dots.error).all()


@pytest.mark.parametrize("dim", [1, 64, 1500])
def test_dot_products_of_codes_are_exact(library, dim):
    rng = np.random.default_rng(5)
    codes, queries = (rng.integers(-127, 128, (n, dim)).astype(np.int8) for n in (100, 70))
    codes[0], queries[0] = -127, 127
    true = codes.astype(np.int64) @ queries.T.astype(np.int64)
    for some in (queries[:1], queries):
        for start, sums in kernels.Int8Dots(some).parts(codes):
            np.testing.assert_allclose(sums, true[:, start : start + sums.shape[1]], rtol=1e-7)
            if library == "numkong" or dim <= 1024:
                assert (sums == true[:, start : start + sums.shape[1]]).all()
    alone = np.empty(100, np.float32)
    kernels.Int8Dots(queries[:1]).single(codes, alone)
    np.testing.assert_array_equal(alone, true[:, 0].astype(np.float32))


@pytest.mark.parametrize("library", ["numkong"], indirect=True)
def test_a_library_whose_products_are_cut_off_instead_of_rounded_is_not_used(library, monkeypatch):
    """As float32, where int8 have a sum that float32 has not."""
    import numkong

    def dot(rows, queries, *, out):
        numkong.dot(rows, queries, out=out)
        if rows.dtype == np.int8 and out.dtype == np.float32:
            whole = np.empty(len(out), np.int32)
            numkong.dot(rows, queries, out=whole)
            out[:] = np.where(out > whole, np.nextafter(out, np.float32(0)), out)

    assert kernels._keeps_its_word(Strange("dot", numkong.dot))
    assert not kernels._keeps_its_word(Strange("dot", dot))


@pytest.mark.parametrize("library", ["numkong"], indirect=True)
@pytest.mark.parametrize("several", [False, True], ids=["one query", "row by row"])
def test_a_library_whose_products_of_floats_are_rounded_before_they_are_summed_is_not_used(library, several):
    import numkong

    def dot(rows, queries, *, out):
        numkong.dot(rows, queries, out=out)
        if rows.dtype == np.float32 and (len(queries) > 1) == several:
            out[:] = np.add.reduce(rows * queries, axis=1, dtype=np.float64)

    assert not kernels._keeps_its_word(Strange("dot", dot))


def test_halves_become_floats_as_numpy_makes_them(library):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    converted, right = kernels.as_float32(every), every.astype(np.float32)
    finite = np.isfinite(right)
    assert (converted[finite] == right[finite]).all()
    assert not np.isfinite(converted[~finite]).any()


def floats_around_each_half():
    """Each float16, half-way to the next, just beside both, what is too large or small, and some drawn bits."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = halves[:-1] + np.diff(np.append(halves[:-1], np.float32(65536))) / 2
    bits = np.concatenate([halves, between]).view(np.uint32)
    drawn = np.random.default_rng(5).integers(0, 0x7F80_0001, 100_003, dtype=np.uint32)
    bits = np.concatenate([bits, bits[1:] - 1, bits[:-1] + 1, drawn])
    return np.concatenate([bits, bits | 0x8000_0000]).view(np.float32)


def test_floats_become_halves_as_numpy_makes_them(library):
    """benchmarks/half_bits.py compares all numbers."""
    numbers, half = floats_around_each_half(), np.dtype(np.float16)
    with np.errstate(all="ignore"):
        right = numbers.astype(np.float16).view(np.uint16)
    assert (kernels.rounded(numbers, half).view(np.uint16) == right)[~np.isnan(numbers)].all()
    numbers.flags.writeable = False  # as a server's answer
    for length in (1, 7, 31, 33, 64, 511):
        rows, expected = numbers[: 9 * length].reshape(9, length), right[: 9 * length].reshape(9, length)
        assert (kernels.rounded(rows, half).view(np.uint16) == expected).all()
        assert (kernels.rounded(rows[::2], half).view(np.uint16) == expected[::2]).all()
        assert (kernels.rounded(rows.astype(np.float64), half).view(np.uint16) == expected).all()
        assert (kernels.rounded(rows, np.dtype(np.float32)) == rows).all()
    assert np.isnan(kernels.rounded(np.full((1, 5), np.nan, np.float32), half)).all()
    assert kernels.rounded(numbers[:0].reshape(0, 5), half).shape == (0, 5)


def test_a_library_that_cuts_where_numpy_rounds_does_not_make_the_halves(monkeypatch, caplog):
    numkong = pytest.importorskip("numkong")

    def cut(rows, dtype, *, out):
        if dtype == "float16":
            rows = (rows.view(np.uint32) & 0xFFFF_E000).view(np.float32)
        numkong.astype(rows, dtype, out=out)

    monkeypatch.setitem(sys.modules, "numkong", Strange("astype", cut))
    kernels._numkong.cache_clear()
    assert kernels._numkong() is not None
    numbers = floats_around_each_half()
    with np.errstate(all="ignore"):
        right = numbers.astype(np.float16)
    found = kernels.rounded(numbers, right.dtype)
    assert np.array_equal(found.view(np.uint16), right.view(np.uint16))
    assert caplog.text.count("does not round to float16 as NumPy does") == 1
    kernels._numkong.cache_clear()


class Strange:
    """A NumKong that can be imported, and lacks one function, or takes other arguments for it."""

    __version__ = "99"

    def __init__(self, name, other):
        numkong = pytest.importorskip("numkong")
        for known in ("dot", "dots_pack", "dots_packed", "astype"):
            if known != name:
                setattr(self, known, getattr(numkong, known))
        if other is not None:
            setattr(self, name, other)


@pytest.mark.parametrize("name", ["dot", "dots_pack", "dots_packed", "astype"])
@pytest.mark.parametrize("other", [None, lambda rows: rows], ids=["lacks", "takes others for"])
def test_a_library_that_differs_is_not_used_and_ends_no_search(monkeypatch, caplog, name, other):
    monkeypatch.setitem(sys.modules, "numkong", Strange(name, other))
    kernels._numkong.cache_clear()
    for seed in range(4):
        assert wrong(drawn_case(seed)) is None
    assert caplog.text.count("numkong is not used") == 1
    kernels._numkong.cache_clear()


def test_a_library_that_cannot_be_loaded_is_not_used(monkeypatch, caplog, tmp_path):
    """Its file is there, but made for another machine."""
    (tmp_path / "numkong.py").write_text("raise ImportError('undefined symbol: nk_dot')")
    monkeypatch.delitem(sys.modules, "numkong", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    kernels._numkong.cache_clear()
    assert wrong(drawn_case(0)) is None
    assert "undefined symbol" in caplog.text
    sys.modules.pop("numkong", None)
    kernels._numkong.cache_clear()


def test_a_library_that_sums_too_coarsely_is_not_used(monkeypatch, caplog):
    numkong = pytest.importorskip("numkong")

    class Coarse:
        dots_pack, dots_packed, astype = numkong.dots_pack, numkong.dots_packed, numkong.astype

        @staticmethod
        def dot(rows, query, out):
            out[:] = np.add.reduce(rows * query, axis=1, dtype=rows.dtype if rows.dtype != np.int8 else np.int32)

    kernels._numkong.cache_clear()
    monkeypatch.setitem(sys.modules, "numkong", Coarse)
    assert kernels._numkong() is None
    assert "less accurate" in caplog.text
    kernels._numkong.cache_clear()


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_each_query_leaves_out_its_own_rows(library, coded, count):
    """A row that one query leaves out is another's best; with what is left out, k would be reached sooner."""
    vectors = unit_vectors(3000, 16).astype(np.float16)
    queries = vectors[:count].astype(np.float32)
    dead = np.array([7, 2999])
    codes = MemoryCodes.of(vectors, block_rows=1024) if coded else None
    for k, after in ((20, 1), (1, 0)):
        excluded = [np.array([(q + after) % count, 50 + q]) for q in range(count)]
        scores = vectors.astype(np.float64) @ queries.T.astype(np.float64)
        found = top_k(vectors, queries, k, codes=codes, dead=dead, excluded=excluded)
        for q, (rows, gone) in enumerate(zip((answer.rows for answer in found), excluded, strict=True)):
            scores[dead, q] = scores[gone, q] = -np.inf
            assert rows.tolist() == np.argsort(-scores[:, q], kind="stable")[:k].tolist()


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_no_row_is_dropped_that_may_be_among_the_best_of_its_span(library, coded, count):
    """All whose upper bound reaches the k-th best lower bound are found, and fewer than all."""
    vectors = unit_vectors(4000, 16).astype(np.float16)
    if not coded:
        vectors[:2000] = np.nextafter(vectors[0], np.float16(1))
        vectors[1:2000, 3] = vectors[0, 3]
    queries, span = unit_vectors(count, 16, seed=2).astype(np.float64), Span(0, 4000)
    estimates = (
        LoneEstimates(MemoryCodes.of(vectors), queries[0])
        if coded and count == 1
        else Int8Estimates(MemoryCodes.of(vectors), queries)
        if coded
        else FloatEstimates(vectors, queries, RowNorms(), lambda rows: None)
    )
    no_floor, k = np.full(count, -np.inf), np.arange(count) + 20
    with np.errstate(all="ignore"):
        every, found = estimates.sift(span, no_floor), estimates.sift(span, no_floor, k)
    assert len(every) == 4000 * count > len(found)
    for q in range(count):
        mine = every.where(every.query == q)
        kth = np.sort(mine.lower)[-k[q]]
        assert set(mine.row[mine.upper >= kth].tolist()) <= set(found.row[found.query == q].tolist())


def test_what_is_left_out_is_flagged_as_numpy_does_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        asked = rng.integers(-5, 30, rng.integers(0, 12))
        left_out = np.sort(rng.integers(-5, 30, rng.integers(0, 12)))
        assert absent(asked, left_out).tolist() == (~np.isin(asked, left_out)).tolist()
