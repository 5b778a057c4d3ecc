"""The committed demo checkpoint: what it holds, and that it finds what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import CLIPModel, CLIPTokenizer  # noqa: E402

from clipdex.base.errors import CheckpointError  # noqa: E402
from clipdex_export.demo.questions import QUESTIONS, draw_demo_pictures  # noqa: E402
from clipdex_export.demo.scenes import Ground, Group, Pair, Single, Thing  # noqa: E402
from demo_training import evaluate  # noqa: E402
from demo_training.evaluate import count_right_questions, differences, measure  # noqa: E402
from demo_training.heldout import draw_held_out  # noqa: E402
from demo_training.tokenizer import build_tokenizer  # noqa: E402
from demo_training.torch_encoder import TorchEncoder  # noqa: E402
from demo_training.train import Recipe  # noqa: E402

CHECKPOINT = Path(__file__).parent.parent / "export" / "checkpoints" / "demo"
BLACK, WHITE = Ground(("black",)), Ground(("white",))
HEART, RING = Thing("heart", "red"), Thing("ring", "red")


@pytest.fixture(scope="module")
def encoder():
    return TorchEncoder(CHECKPOINT)


@pytest.fixture(scope="module")
def report(encoder, tmp_path_factory):
    held_out = draw_held_out(
        tmp_path_factory.mktemp("held-out"),
        seed="tests",
        unseen_scenes=320,
        unseen_combinations=80,
        short_queries=100,
    )
    return measure(encoder, held_out)


def test_full_captions_find_their_picture(report):
    assert report.pictures == 400
    assert report.recall_at_1["all"] >= 0.90
    assert report.recall_at_5["all"] >= 0.99


def test_unseen_combinations_are_found_too(report):
    assert report.recall_at_1["unseen combinations"] >= 0.85


def test_short_queries_are_answered_with_what_they_name(report):
    assert report.short_queries == 100
    assert report.precision_at_5 >= 0.95


def test_the_demos_questions_are_answered_right(encoder, tmp_path):
    assert count_right_questions(encoder, draw_demo_pictures(tmp_path, 300)) >= len(QUESTIONS) - 1


def test_the_checkpoint_is_a_plain_and_small_one():
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    }
    model = CLIPModel.from_pretrained(str(CHECKPOINT))
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_850_000
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8_000_000


def test_the_text_tower_pools_at_the_tokenizers_end_token():
    tokenizer = CLIPTokenizer.from_pretrained(str(CHECKPOINT))
    text = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    assert text["eos_token_id"] == tokenizer.eos_token_id != 2
    assert text["bos_token_id"] == tokenizer.bos_token_id
    assert text["vocab_size"] == len(tokenizer)
    assert text["max_position_embeddings"] == tokenizer.model_max_length == 32


def test_the_committed_tokenizer_is_what_the_script_makes():
    tokenizer = CLIPTokenizer.from_pretrained(str(CHECKPOINT))
    assert build_tokenizer(Recipe().seed).get_vocab() == tokenizer.get_vocab()


def test_wording_and_case_hardly_matter(encoder):
    plain, *others = encoder.embed_texts(["a purple crescent", "A VIOLET MOON", "a purple moon"])
    other_thing = encoder.embed_texts(["a purple star"])[0]
    assert all(plain @ other > plain @ other_thing for other in others)


@pytest.mark.parametrize(
    ("wanted", "found", "different"),
    [
        (Single(HEART, "small", "top", BLACK), Single(RING, "small", "top", BLACK), ["shape"]),
        (Single(HEART, "small", "top", BLACK), Single(HEART, "large", "left", WHITE), ["size", "place", "ground"]),
        (Group(HEART, 2, BLACK), Group(Thing("heart", "blue"), 3, BLACK), ["count", "colour"]),
        (Group(HEART, 2, BLACK), Single(HEART, "small", "top", BLACK), ["kind"]),
        (Pair(HEART, RING, "above", BLACK), Pair(RING, HEART, "above", BLACK), ["relation"]),
        (Pair(HEART, RING, "above", BLACK), Pair(HEART, RING, "left of", BLACK), ["relation"]),
        (
            Pair(HEART, RING, "above", BLACK),
            Pair(HEART, Thing("star", "blue"), "above", BLACK),
            ["shape", "colour"],
        ),
    ],
)
def test_misses_are_told_by_attribute(wanted, found, different):
    assert differences(wanted, found) == different


class _Blind:
    """An encoder that knows the pictures only by their order, and looks one too far."""

    def embed_images(self, images):
        self.pictures = len(images)
        return np.eye(self.pictures, dtype=np.float32)

    def embed_texts(self, texts):
        return np.roll(np.eye(self.pictures, dtype=np.float32), 1, axis=1)[: len(texts)]


def test_a_wrong_ranking_is_measured_as_one(tmp_path):
    held_out = draw_held_out(tmp_path, seed=0, unseen_scenes=30, unseen_combinations=10, short_queries=5)
    report = measure(_Blind(), held_out)
    assert report.recall_at_1["all"] == 0.0
    assert report.missed == 40 and sum(report.misses.values()) >= 40
    assert report.precision_at_5 < 0.6
    assert "40 held-out pictures" in report.table()


def test_a_directory_without_a_checkpoint_is_one_clear_sentence(tmp_path, capsys):
    with pytest.raises(CheckpointError, match=r"contains no model\.safetensors"):
        TorchEncoder(tmp_path)
    assert evaluate.main(["--checkpoint", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
