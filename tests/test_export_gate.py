"""What must never reach a repository is caught by the gate, and leaves nothing behind."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipdex.base.errors import ExportError, ParityError

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from conftest import noise  # noqa: E402
from tiny_clip import everything_in, write_tiny  # noqa: E402

import clipdex  # noqa: E402
from clipdex.model.images import center_crop, resized  # noqa: E402
from clipdex_export import export_model, preprocessing, towers  # noqa: E402
from clipdex_export import gate as parity  # noqa: E402
from clipdex_export import tokenizer_json as tokenizer  # noqa: E402
from clipdex_export.verdict import (  # noqa: E402
    Floors,
    Side,
    Verdict,
    judge,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint"), merges=300)


@pytest.fixture
def refused(checkpoint: Path, tmp_path: Path) -> Callable[..., None]:
    """Export must raise a ParityError that says this, its table name these stages and no other that could be the
    cause, and the repository be as before.
    """
    repository = tmp_path / "repository"
    (repository / "other_image").mkdir(parents=True)

    def refused(message: str, *departing: str) -> None:
        before = everything_in(tmp_path)
        with pytest.raises(ParityError, match=message) as caught:
            export_model(checkpoint, name="tiny", repository=repository)
        assert "\n" not in str(caught.value)
        assert departing_in(caught.value.table) & CAUSES == {*departing}
        assert everything_in(tmp_path) == before

    return refused


CAUSES = {"resize", "tokens", "image tower", "text tower"}  # what is behind them departs with them


def departing_in(table: str) -> set[str]:
    return {line[:12].strip() for line in table.splitlines() if line[13:].startswith("DEPARTS")}


def wrong_spec(**changes: Any) -> Callable[..., Any]:
    right = preprocessing.image_spec
    return lambda *args: replace(right(*args), **changes)


@pytest.mark.slow
def test_bilinear_for_bicubic(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(interpolation="bilinear"))
    refused("the preprocessing departs from the checkpoint's own: .* pictures, worst '", "resize")


def test_a_resize_without_antialias(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenCV and torch's interpolate do by default: bicubic in the right places, of four pixels by four."""

    def aliased(image: Image.Image, spec: Any) -> Any:
        size = resized(image, spec).size
        across, down = image.width / size[0], image.height / size[1]
        # Unlike its resize, Pillow's transform averages nothing.
        small = image.transform(size, Image.Transform.AFFINE, (across, 0, 0, 0, down, 0), Image.Resampling.BICUBIC)
        return center_crop(small, spec)

    monkeypatch.setattr(parity, "to_pixels", aliased)
    refused("the preprocessing departs", "resize")


def test_a_resize_to_another_size(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(resize_to=72))
    refused("the preprocessing departs", "resize")


def test_another_mean(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(mean=(0.9, 0.1, 0.1)))
    refused(
        "the image tower departs from the checkpoint's own although its inputs are equal: cosine 0", "image tower"
    )


def test_a_swapped_tokenizer(refused, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    from transformers import CLIPTokenizer

    other = write_tiny(tmp_path_factory.mktemp("other"), merges=200)
    right, swapped = tokenizer.tokenizer_json, CLIPTokenizer.from_pretrained(other)
    monkeypatch.setattr(tokenizer, "tokenizer_json", lambda _: right(swapped))
    refused("the tokenizer departs from the checkpoint's own: .* texts, worst '", "tokens")


def test_a_tokenizer_that_does_not_lower_case(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tokenizer.tokenizer_json
    monkeypatch.setattr(tokenizer, "tokenizer_json", lambda t: right(t).replace(b',{"type":"Lowercase"}', b""))
    refused("the tokenizer departs", "tokens")


def test_a_layer_that_is_dropped(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(towers.ImageTower):
        def __init__(self, network: Any, spec: Any) -> None:
            super().__init__(copy.deepcopy(network), spec)
            vision: Any = self.network.vision_model
            vision.encoder.layers = torch.nn.ModuleList()

    monkeypatch.setattr(towers, "ImageTower", Lazy)
    refused("the image tower departs", "image tower")


def first_place(_: Any, ids: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
    """In place of where each text ends."""
    return torch.zeros(ids.shape[0], dtype=torch.int64)


def test_a_text_tower_that_pools_elsewhere(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers.TextTower, "_end_position", first_place)
    refused("the text tower departs from the checkpoint's own although its inputs are equal", "text tower")


def test_vectors_that_are_not_of_length_one(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "_unit", lambda vectors: vectors)
    refused("has L2 norm .*; expected 1", "image tower", "text tower")


# the verdict itself


def side(**changes: Any) -> Side:
    """Two pictures and two texts with equal, unit vectors."""
    vectors = np.eye(2, 4, dtype=np.float32)
    sound = Side(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 5), np.int32), vectors, vectors)
    return replace(sound, **changes)


PICTURES, TEXTS = ["first", "second"], ["one", "two"]


def verdict(found: Side, same_inputs: Side | None = None) -> Verdict:
    return judge(side(), found, same_inputs or found, PICTURES, TEXTS, Floors())


def turned(cosine: float) -> np.ndarray:
    """The second vector turned away from what was expected, out of the plane of the others."""
    vectors = np.eye(2, 4)
    vectors[1] = [0, cosine, np.sqrt(1 - cosine**2), 0]
    return vectors.astype(np.float32)


def test_a_report() -> None:
    passed = verdict(side())
    passed.require()
    report = passed.report
    assert (report.images, report.texts, report.pixel_mismatches, report.token_mismatches) == (2, 2, 0, 0)
    assert report.image_cosine_min == report.text_cosine_mean == report.top10_overlap == 1.0
    assert passed.problem is None and passed.to_dict()["forced"] is False
    assert departing_in(passed.table()) == set() and passed.table().count("holds") == 7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_no_number(bad: float) -> None:
    vectors = np.eye(2, 4, dtype=np.float32)
    vectors[1, 1] = bad
    with np.errstate(invalid="ignore"):
        found = verdict(side(text=vectors))
    with pytest.raises(ParityError, match=r"the text tower .* 'two'"):
        found.require()
    assert found.report.text_cosine_min == 0  # the card is JSON, which has no NaN


def test_a_vector_of_zeros() -> None:
    with pytest.raises(ParityError, match=r"the image tower departs .* cosine 0\.000000 for 'first'"):
        verdict(side(image=np.zeros((2, 4), np.float32))).require()


def test_just_below_and_just_above_the_floor() -> None:
    passed = verdict(side(image=turned(0.99991)))
    passed.require()
    assert passed.report.image_cosine_min >= 0.9999
    with pytest.raises(ParityError, match=r"0\.99989.* for 'second', the floor is 0\.9999"):
        verdict(side(image=turned(0.99989))).require()


def test_one_pixel_value_is_enough() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[1, 3, 3, 0] = 7
    found = verdict(side(pixels=pixels))
    with pytest.raises(ParityError, match="1 of 2 pictures, worst 'second' with 1 of 192 pixel values"):
        found.require()
    assert found.departing == ("resize",) and "by up to 7 of 255" in found.table()


def test_a_table_says_which_token_is_another() -> None:
    ids = np.zeros((2, 5), np.int32)
    ids[1, 3:] = 9
    found = verdict(side(token_ids=ids, text=turned(0.5)), same_inputs=side())
    assert found.departing == ("tokens", "texts")
    assert "worst 'two': 2 ids, the first at position 3: 9, expected 0" in found.table()


def test_pixels_of_another_shape() -> None:
    found = verdict(side(pixels=np.zeros((2, 4, 4, 3), np.uint8)))
    assert found.problem == "the preprocessing gives pixels of another shape: (4, 4, 3), expected (8, 8, 3)"


def test_rankings_have_a_floor_of_their_own() -> None:
    """Cosines of 0.99 can hide an order that is another one, where pictures are alike."""
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(40, 16)) * 0.01 + np.eye(1, 16)
    noise = rng.normal(size=(40, 16)) * 0.01

    def unit(vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    pixels, ids = np.zeros((40, 2, 2, 3), np.uint8), np.zeros((40, 5), np.int32)
    one, other = (Side(pixels, ids, unit(x), unit(alike[:40])) for x in (alike, alike + noise))
    names = [str(i) for i in range(40)]
    found = judge(one, other, other, names, names, Floors(cosine=0.99))
    assert found.departing == ("ranking",) and found.report.image_cosine_min >= 0.99
    with pytest.raises(ParityError, match=r"of the 10 best pictures of a text, \d+\.\d% are the same, .* is 95%"):
        found.require()
    judge(one, other, other, names, names, Floors(cosine=0.99, overlap=0)).require()


# installed all the same


@pytest.mark.slow
def test_force_installs_it_with_a_card_that_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(interpolation="bilinear"))
    words = ["export", checkpoint, "--name", "tiny", "--repository", tmp_path / "repository"]
    status, _, err = run(*words)
    lines = err.strip().splitlines()
    assert status == 1 and lines[-1].startswith("clipdex: the preprocessing departs")
    assert departing_in(err) & CAUSES == {"resize"}
    assert not (tmp_path / "repository").exists()

    status, _, err = run(*words, "--force")
    assert status == 0 and "installed although the preprocessing departs" in err
    with clipdex.connect(f"inproc:{tmp_path / 'repository'}") as client:
        parity = client.card.parity
        assert parity["forced"] is True and "resize" in parity["departs"] and parity["pixel_mismatches"] > 0
        assert client.card.below_floor == parity["problem"]


def test_what_was_forced_is_shown_wherever_it_is_used(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(interpolation="bilinear"))
    export_model(checkpoint, name="tiny", repository=tmp_path / "repository", force=True)
    server = ["--server", f"inproc:{tmp_path / 'repository'}"]
    index = tmp_path / "x.clipdex"
    for words in (["index", pictures, "--out", index], ["search", "a cat", "--index", index]):
        status, _, err = run(*words, *server)
        assert status == 0 and "the model tiny was installed although the preprocessing departs" in err
    assert "below the floor of its export: the preprocessing departs" in run("info", index)[1]
    assert json.loads(run("info", index, "--json")[1])["below_floor"].startswith("the preprocessing departs")


@pytest.mark.slow
def test_an_index_remembers_a_forced_model_that_added_to_it(
    checkpoint: Path, pictures: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """Made with a sound model, and searched with it; between, one with its fingerprint added a row."""
    index = tmp_path / "x.clipdex"
    sound, forced = tmp_path / "sound", tmp_path / "forced"
    export_model(checkpoint, name="tiny", repository=sound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            towers.TextTower, "_end_position", lambda _, ids: torch.zeros(ids.shape[0], dtype=torch.int64)
        )
        export_model(checkpoint, name="tiny", repository=forced, force=True)
    said = "x.clipdex holds vectors of a model that was installed although the text tower departs"

    def update(repository: Path) -> str:
        assert run("index", pictures, "--out", index, "--server", f"inproc:{repository}")[0] == 0
        status, _, err = run("search", "a cat", "--index", index, "--server", f"inproc:{sound}")
        assert status == 0
        return err

    assert said not in update(sound)
    assert said not in update(forced)  # it made no row
    noise(99).save(pictures / "new.png")
    assert said in update(forced)
    noise(100).save(pictures / "newer.png")
    assert said in update(sound)
    assert "below the floor of its export: the text tower departs" in run("info", index)[1]
    assert not list(index.glob("*.new")) and run("verify", index)[0] == 0


def test_force_changes_nothing_of_what_passes(checkpoint: Path, tmp_path: Path) -> None:
    report = export_model(checkpoint, name="tiny", repository=tmp_path / "repository", force=True)
    assert report.card.parity["forced"] is False and report.card.below_floor is None


def test_a_parity_error_is_an_export_error() -> None:
    assert issubclass(ParityError, ExportError)
