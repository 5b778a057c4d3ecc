"""Large JPEGs decoded at a reduced size: by how much, and where they then lie; an index keeps to its way."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise
from hazards import saved
from PIL import Image

import clipdex
from clipdex import Client, Collection, Index, InvalidArgument, Item, Query, index_pictures
from clipdex.apps.bench import measure_index
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import PartPlan
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, model_pixels, open_for_model, open_image
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.model.resizing import least_size, resized_reduced
from clipdex.pipeline import decode_worker
from clipdex.pipeline.decode_service import DecodeService
from clipdex.pipeline.plan import plan_run
from clipdex.pipeline.worker_service import Given
from clipdex.sinks.cursor import Cursor, Described
from clipdex.sources import open_source
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

FAST = PictureRules(decode="fast")
SPEC = FakeTransport().card.image  # 32 pixels, the shorter side resized to that
SPECS = {
    "shortest edge": SPEC,
    "crop smaller than the resize": replace(SPEC, size=24, resize_to=32),
    "squash": replace(SPEC, resize="squash", crop="none"),
    "longest edge": replace(SPEC, resize="longest_edge", crop="pad"),
}


@cache
def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth shapes with some grain, as a photograph has."""
    picture = noise(seed, (9, 7)).resize(size, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, 3, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


def jpeg(size: tuple[int, int], seed: int = 0, **options: Any) -> bytes:
    return saved(photo(size, seed), "JPEG", **({"quality": 92} | options))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def how_far(data: bytes, spec: ImageSpec = SPEC) -> float:
    """The mean difference between the pixels of both ways, in steps of 255."""
    one, other = (model_pixels(data, spec, rules).astype(float) for rules in (EXACT, FAST))
    return float(np.abs(one - other).mean())


# One picture


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize(
    ("size", "by"),
    [((127, 300), 1), ((128, 130), 2), ((255, 255), 2), ((256, 400), 4), ((511, 640), 4), ((640, 517), 8)],
)
def test_a_jpeg_is_reduced_as_far_as_it_keeps_twice_what_the_resize_gives(
    size: tuple[int, int], by: int, spec: ImageSpec
) -> None:
    if spec.resize == "longest_edge":  # the shorter side becomes less than 32
        size = (max(size) + 60, max(size))
        least = least_size(size, spec)
        by = next(scale for scale in (8, 4, 2, 1) if min(map(int.__floordiv__, size, least)) >= scale)
    opened = open_for_model(jpeg(size), spec, FAST)
    assert opened.size == size, "the record of the picture has its own size"
    assert opened.image.size == tuple(-(-side // by) for side in size)
    assert (opened.box is None) == (by == 1)
    enough = zip(opened.image.size, least_size(size, spec), strict=True)
    assert by == 1 or all(side >= least for side, least in enough)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("spec", [SPECS["shortest edge"], SPECS["longest edge"]], ids=["shortest", "longest"])
def test_a_reduced_picture_lies_where_the_whole_one_does_however_it_is_turned(
    orientation: int, spec: ImageSpec
) -> None:
    """513 × 277 is no multiple of the reduction: without the box of the reduced picture it would be stretched."""
    data = jpeg((513, 277), exif=turned(orientation))
    fast = open_for_model(data, spec, FAST)
    assert fast.box is not None and fast.size == open_for_model(data, spec).size
    assert fast.resized(spec).size == open_for_model(data, spec).resized(spec).size
    assert how_far(data, spec) < 1.0
    left, top, right, bottom = fast.box
    wrong = (
        fast.image.width - right,
        fast.image.height - bottom,
        fast.image.width - left,
        fast.image.height - top,
    )
    exact = model_pixels(data, spec).astype(float)
    stretched = center_crop(resized_reduced(fast.image, spec, fast.size, wrong), spec)
    assert how_far(data, spec) < np.abs(exact - stretched).mean(), "the box is turned with the picture"


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"restart_marker_blocks": 4}],
    ids=str,
)
def test_every_kind_of_jpeg_is_reduced(options: dict[str, Any]) -> None:
    data = jpeg((640, 480), **options)
    assert open_for_model(data, SPEC, FAST).box is not None
    assert how_far(data) < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_ink_are_reduced_and_converted_as_before(mode: str) -> None:
    data = saved(photo((640, 480)).convert(mode), "JPEG", quality=92)
    opened = open_for_model(data, SPEC, FAST)
    assert opened.box is not None and opened.image.mode == "RGB" and how_far(data) < 1.5


def test_a_telephones_jpeg_with_more_pictures_in_its_file_is_reduced_for_models_and_thumbnails() -> None:
    """An MPO: its first picture counts."""
    plain = jpeg((640, 480))
    several = saved(photo((640, 480)), "MPO", save_all=True, append_images=[photo((64, 48), 1)], quality=92)
    opened = open_for_model(several, SPEC, FAST)
    assert opened.image.size == (160, 120)
    np.testing.assert_array_equal(model_pixels(several, SPEC, FAST), model_pixels(plain, SPEC, FAST))
    assert open_image(several, least_side=160).size == open_image(plain, least_side=160).size == (160, 120)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_other_formats_and_pixels_are_decoded_exactly(format: str) -> None:
    picture = photo((640, 480))
    data = saved(picture, format)
    assert open_for_model(data, SPEC, FAST).box is None and how_far(data) == 0
    for source in (picture, np.asarray(picture)):
        np.testing.assert_array_equal(model_pixels(source, SPEC, FAST), model_pixels(source, SPEC))


def test_a_very_long_picture_of_which_the_middle_counts_is_decoded_exactly() -> None:
    data = jpeg((130, 130 * 40))
    assert open_for_model(data, SPEC, FAST).box is None and how_far(data) == 0


def test_what_is_refused_exactly_is_refused_fast() -> None:
    whole = jpeg((640, 480))
    with pytest.raises(clipdex.ImageError, match="exceed the limit"):
        open_for_model(whole, SPEC, FAST, max_pixels=640 * 480 - 1)
    with pytest.raises(clipdex.ImageError, match="truncated"):
        open_for_model(whole[: len(whole) // 2], SPEC, FAST)
    without_end = whole[:-2]
    np.testing.assert_array_equal(model_pixels(without_end, SPEC, FAST), model_pixels(whole, SPEC, FAST))


def test_colours_are_converted_and_reduced_together() -> None:
    from hazards import display_p3

    data = jpeg((640, 480), icc_profile=display_p3())
    both = open_for_model(data, SPEC, PictureRules("srgb", "fast"))
    assert both.box is not None
    one = model_pixels(data, SPEC, PictureRules("srgb", "fast")).astype(float)
    assert np.abs(one - model_pixels(data, SPEC, PictureRules("srgb"))).mean() < 1.5
    assert np.abs(one - model_pixels(data, SPEC, FAST)).mean() > 1.5


def test_another_word_is_the_callers_mistake(fake: Client, tmp_path: Path) -> None:
    wrong: Any = "quick"
    for use in (
        lambda: fake.embed_images([], decode=wrong),
        lambda: fake.classify([], ["a", "b"], decode=wrong),
        lambda: index_pictures(fake, tmp_path, tmp_path / "x", decode=wrong),
        lambda: index_pictures(fake, tmp_path, tmp_path / "x", decode=wrong, parts=2),
        lambda: Collection.open(tmp_path / "x", client=fake, decode=wrong),
        lambda: plan_run(tmp_path, tmp_path / "x", decode=wrong),
    ):
        with pytest.raises(InvalidArgument, match="decode is 'quick'; expected exact or fast"):
            use()
    assert not (tmp_path / "x").exists()


# An index keeps to what it was made with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "large.jpg").write_bytes(jpeg((640, 480)))
    (folder / "turned.jpg").write_bytes(jpeg((513, 300), 1, exif=turned(6)))
    (folder / "small.jpg").write_bytes(jpeg((60, 50), 2))
    return folder


@pytest.fixture(scope="module")
def two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An exact index and a fast one of the same folder."""
    place = tmp_path_factory.mktemp("indexes")
    with Client(FakeTransport()) as client:
        index_pictures(client, folder, place / "exact", workers=1)
        index_pictures(client, folder, place / "fast", workers=1, decode="fast")
    return place / "exact", place / "fast"


def test_a_dry_run_refuses_what_the_run_would_refuse(
    run: Any, folder: Path, two: tuple[Path, Path], tmp_path: Path
) -> None:
    exact, fast = two
    for index, other in ((exact, "fast"), (fast, "exact")):
        status, _, err = run("index", folder, "-i", index, "--dry-run", "--decode", other)
        assert status == 1
        assert f"was created with decode {index.name}, but {other} is given" in err
    status, _, err = run("index", folder, "-i", exact, "--dry-run", "--icc", "srgb")
    assert status == 1 and "was created with icc off, but srgb is given" in err
    assert run("index", folder, "-i", fast, "--dry-run", "--decode", "fast")[0] == 0
    with Client(FakeTransport()) as client:
        index_pictures(client, folder, tmp_path / "parts", workers=1, parts=2, part=0)
    for part in (None, 0):
        with pytest.raises(InvalidArgument, match="was created with decode exact, but fast is given"):
            plan_run(folder, tmp_path / "parts", part=part, decode="fast")
    assert plan_run(folder, tmp_path / "new", decode="fast").new == 3


@pytest.mark.slow
def test_a_measured_run_and_its_bound_decode_as_is_asked(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measured(client: Client, source: Any, **options: Any) -> Any:
        seen.append(options["decode"])
        raise InvalidArgument("that was enough")

    monkeypatch.setattr("clipdex.cli.bench.bench_index.measure_index", measured)
    monkeypatch.setattr(
        "clipdex.cli.connection_options.connect",
        lambda address, model, **_: Client(FakeTransport(), model=model),
    )
    for words in ((), ("--decode", "fast")):
        assert "that was enough" in run("bench", "index", folder, *words)[2]
    assert seen == ["exact", "fast"]

    rules: list[PictureRules] = []
    decode_file, index_one = decode_worker.decode_file, index_pictures
    monkeypatch.setattr(
        measure_index,
        "decode_file",
        lambda *args, rules_seen=rules, **more: rules_seen.append(more["rules"]) or decode_file(*args, **more),
    )
    monkeypatch.setattr(
        measure_index,
        "index_pictures",
        lambda *args, **more: seen.append(more["decode"]) or index_one(*args, **more),
    )
    with Client(FakeTransport()) as client:
        source = open_source(folder)
        measure_index.measure_index(client, source, kind="sum", workers=1, encode_seconds=0.02, decode="fast")
    assert set(rules) == {FAST}
    assert seen[-1] == "fast"


@pytest.fixture
def mine(two: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to write to."""
    return tuple(shutil.copytree(each, tmp_path / each.name) for each in two)  # type: ignore[return-value]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(FakeTransport()) as client:
        yield client


def rows(path: Path) -> dict[str, tuple[Any, int, int]]:
    with Index.open(path) as index:
        pictures = {row: index.picture(row) for row, _ in index.live_paths()}
        return {
            Path(p.path.decode()).name.rstrip("\0"): (index.vectors[row].astype(float), p.width, p.height)
            for row, p in pictures.items()
        }


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(np.asarray(one, dtype=float), np.asarray(other, dtype=float), atol=1e-3))


def test_a_fast_index_has_the_vectors_of_fast_pictures_and_the_sizes_of_whole_ones(
    two: tuple[Path, Path], folder: Path, client: Client
) -> None:
    exact, fast = map(rows, two)
    assert {name: row[1:] for name, row in fast.items()} == {name: row[1:] for name, row in exact.items()}
    assert fast["turned.jpg"][1:] == (300, 513)
    assert same(fast["small.jpg"][0], exact["small.jpg"][0])
    for name in ("large.jpg", "turned.jpg"):
        assert not same(fast[name][0], exact[name][0]), "the fake model tells every pixel"
        assert same(client.embed_images([folder / name], decode="fast")[0], fast[name][0])
        assert same(client.embed_images([folder / name])[0], exact[name][0])


def test_the_manifest_of_an_exact_index_is_as_it_always_was(two: tuple[Path, Path]) -> None:
    exact, fast = ((path / "manifest.json").read_bytes() for path in two)
    assert b"decode" not in exact and b'"format_version": 1' in exact
    assert b'"decode": "fast"' in fast and b'"format_version": 3' in fast
    assert Manifest.read(two[0]).rules == EXACT and Manifest.read(two[1]).rules == FAST


GOLDEN_MANIFEST = b"""{
  "format": "clipdex-index",
  "format_version": 3,
  "fingerprint": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "model": "demo",
  "embedding_dim": 4,
  "dtype": "float16",
  "decode": "fast",
  "crc32c": 2267203961
}
"""


def test_the_manifest_and_the_plan_of_a_fast_index_byte_by_byte() -> None:
    manifest = Manifest("f" * 64, "demo", 4, decode="fast")
    assert manifest.to_json().encode() == GOLDEN_MANIFEST
    both = json.loads(Manifest("f" * 64, "demo", 4, icc="srgb", decode="fast").to_json())
    assert (both["format_version"], both["icc"], both["decode"]) == (3, "srgb", "fast")
    plan = json.loads(PartPlan.of(4, manifest, "/photos").to_json())
    assert (plan["format_version"], plan["decode"], plan["crc32c"]) == (2, "fast", 706286863)


@pytest.mark.slow
def test_a_later_run_goes_on_as_the_index_was_made_and_refuses_the_other_way(
    mine: tuple[Path, Path], folder: Path, client: Client
) -> None:
    for path, own, other in zip(mine, ("exact", "fast"), ("fast", "exact"), strict=True):
        before = (path / "manifest.json").read_bytes()
        with pytest.raises(InvalidArgument) as error:
            index_pictures(client, folder, path, decode=other)  # type: ignore[arg-type]
        assert str(error.value) == (
            f"{path} was created with decode {own}, but {other} is given: its rows could not be compared with the "
            "new ones; leave decode out, or build another index"
        )
        with pytest.raises(InvalidArgument, match=f"created with decode {own}"):
            Collection.open(path, client=client, decode=other)  # type: ignore[arg-type]
        more = path.parent / f"more-{own}"
        more.mkdir()
        (more / "later.jpg").write_bytes(jpeg((400, 700), 9))
        assert index_pictures(client, more, path, workers=1).indexed == 1
        assert same(rows(path)["later.jpg"][0], client.embed_images([more / "later.jpg"], decode=own)[0])  # type: ignore[arg-type]
        assert (path / "manifest.json").read_bytes() == before


def test_a_picture_asked_for_is_decoded_as_the_index_was(
    two: tuple[Path, Path], folder: Path, client: Client
) -> None:
    for path in two:
        own = rows(path)["large.jpg"][0]
        with Index.open(path) as index:
            (asked,) = Query().plus(image=folder / "large.jpg").embed(client, index)
        assert same(asked, own)
        with Collection.open(path, client=client, read_only=True) as collection:
            (hit, *_) = collection.search(image=folder / "large.jpg")
        assert hit.path.endswith("large.jpg") and hit.score == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["here", "in a worker"])
def test_items_of_a_fast_collection_are_decoded_fast(
    folder: Path, tmp_path: Path, client: Client, workers: int
) -> None:
    data = (folder / "large.jpg").read_bytes()
    with Collection.open(tmp_path / "x", client=client, decode="fast", decode_workers=workers) as collection:
        collection.add([Item("bytes", image=data), Item("pixels", image=Image.open(io.BytesIO(data)))])
        assert same(collection.vector("bytes"), client.embed_images([data], decode="fast")[0])
        assert same(collection.vector("pixels"), client.embed_images([data])[0]), "pixels are decoded already"
        found = collection.search(image=data)
        assert found[0].id == "bytes" and found[0].score == pytest.approx(1, abs=1e-3)
    with Index.open(tmp_path / "x") as index:
        picture = index.picture(0)
    assert (picture.width, picture.height) == (640, 480) and Manifest.read(tmp_path / "x").decode == "fast"


@pytest.mark.slow
def test_a_worker_decodes_as_this_process_does(folder: Path) -> None:
    with DecodeService(SPEC, workers=1, rules=FAST) as made:
        found = made.decode(Given(path=str(folder / "turned.jpg").encode())).result(60)
    np.testing.assert_array_equal(found.pixels, model_pixels(folder / "turned.jpg", SPEC, FAST))
    assert (found.width, found.height) == (300, 513)


def test_indexes_decoded_differently_are_not_mixed(
    mine: tuple[Path, Path], tmp_path: Path, client: Client
) -> None:
    exact, fast = mine
    for order in ([exact, fast], [fast, exact]):
        with pytest.raises(
            clipdex.FingerprintMismatch, match=r"decode fast.*decode exact|decode exact.*decode fast"
        ):
            clipdex.merge_indexes(order, tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with Collection.open(exact, client=client, lock="per_commit") as collection:
        shutil.rmtree(exact)
        fast.rename(exact)
        with pytest.raises(clipdex.FingerprintMismatch):
            collection.add(Item("a", image=noise(1)))


@pytest.mark.slow
def test_merges_splits_and_compactions_of_fast_indexes_are_fast(
    mine: tuple[Path, Path], tmp_path: Path, client: Client, folder: Path
) -> None:
    _, fast = mine
    clipdex.merge_indexes([fast, fast], tmp_path / "merged")
    clipdex.compact_index(fast)
    clipdex.split_index(fast, tmp_path / "parts", 2)
    assert Manifest.read(tmp_path / "merged").rules == Manifest.read(fast).rules == FAST
    assert PartPlan.read(tmp_path / "parts").decode == "fast"
    with pytest.raises(InvalidArgument, match="created with decode fast, but exact is given"):
        index_pictures(client, folder, tmp_path / "parts", decode="exact")
    report = index_pictures(client, folder, tmp_path / "parts", workers=1)
    assert (report.unchanged, report.indexed) == (3, 0)
    with Index.open(tmp_path / "parts") as index:
        assert index.manifest.rules == FAST
    assert clipdex.verify_index(tmp_path / "parts").decode == "fast"


@pytest.mark.slow
def test_new_parts_are_made_fast(folder: Path, tmp_path: Path, client: Client, two: tuple[Path, Path]) -> None:
    index_pictures(client, folder, tmp_path / "parts", workers=1, decode="fast", parts=2)
    assert same(rows(tmp_path / "parts")["large.jpg"][0], rows(two[1])["large.jpg"][0])
    assert {Manifest.read(part).decode for part in (tmp_path / "parts").glob("part-*")} == {"fast"}


def test_a_description_in_a_vector_database_says_how_pictures_were_decoded() -> None:
    cursor = Cursor(0, 0, None, True)
    exact, fast = Manifest("f" * 64, "demo", 4), Manifest("f" * 64, "demo", 4, decode="fast")
    told = Described.of(exact, (), cursor).text()
    assert "decode" not in told and '"format_version":1' in told
    of_fast = Described.of(fast, (), cursor)
    assert '"format_version":2' in of_fast.text() and Described.parse(of_fast.text(), "x") == of_fast
    assert Described.parse(told, "x").decode == "exact"
    of_fast.require(fast, "x")
    with pytest.raises(clipdex.FingerprintMismatch, match=r"decode fast\), not of .*decode exact"):
        of_fast.require(exact, "x")


def test_a_description_whose_decode_is_unknown_is_refused() -> None:
    told = Described.of(Manifest("f" * 64, "demo", 4, decode="fast"), (), Cursor(0, 0, None, True)).text()
    with pytest.raises(clipdex.ClipdexError):
        Described.parse(told.replace('"fast"', '"faster"'), "x")
