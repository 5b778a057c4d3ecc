"""How the demo model is trained: the loss, the two half batches, the tokenizer, the script itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import CLIPTokenizer  # noqa: E402

from clipdex_export.demo.captions import full_caption  # noqa: E402
from demo_training import train as training  # noqa: E402
from demo_training.batches import make_batch, make_batches  # noqa: E402
from demo_training.heldout import draw_held_out  # noqa: E402
from demo_training.loss import AttributeHeads, PatchHeads, contrastive_loss  # noqa: E402
from demo_training.tokenizer import (  # noqa: E402
    CONTEXT_LENGTH,
    build_tokenizer,
    save_tokenizer,
    training_corpus,
)
from demo_training.torch_encoder import TorchEncoder  # noqa: E402

CYCLE = training.Cycle(((1, 8), (1, 4)), learning_rate=1e-3, heads_weight=1, short_weight=1, warm_up_pictures=8)
TINY = training.Recipe(cycles=(CYCLE, CYCLE), width=32, image_layers=1, text_layers=1)


@pytest.fixture
def threads():
    """Training sets the number of threads for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


# The loss


def test_with_one_match_a_row_the_loss_is_clips():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) * 3
    clip = sum(torch.nn.functional.cross_entropy(x, torch.arange(6)) for x in (logits, logits.T)) / 2
    assert contrastive_loss(logits, torch.eye(6, dtype=torch.bool)).item() == pytest.approx(clip.item(), abs=1e-6)


def test_matches_do_not_compete_with_one_another():
    matches = torch.tensor([[True, True, False], [False, False, True]])
    low, high = (torch.tensor([[1.0, rival, 0.0], [0.0, 0.0, 1.0]], requires_grad=True) for rival in (1.0, 9.0))
    contrastive_loss(low, matches).backward()
    contrastive_loss(high, matches).backward()
    # However well the second picture fits, the pull on the first, in its row, stays the same. What the
    # column adds to it is the same too, since its own column did not change.
    assert low.grad[0, 0].item() == pytest.approx(high.grad[0, 0].item(), abs=1e-7)
    assert low.grad[0, 0] < 0 < low.grad[0, 2]


def test_rows_without_a_match_do_not_count():
    logits = torch.tensor([[2.0, 0.0], [5.0, 5.0]])
    matches = torch.tensor([[True, False], [False, False]])
    row = math.log1p(math.exp(0.0 - 2.0))
    column = math.log1p(math.exp(5.0 - 2.0))
    assert contrastive_loss(logits, matches).item() == pytest.approx((row + column) / 2, abs=1e-6)


def test_heads_learn_attributes_from_an_embedding():
    batch = make_batch(0, 0, 32)
    attributes = torch.from_numpy(batch.attributes).long()
    torch.manual_seed(0)
    heads, embedding = AttributeHeads(64), torch.randn(32, 64)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = heads(embedding, attributes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 < 1.0 < losses[0]


def test_patch_heads_learn_what_covers_a_patch():
    batch = make_batch(0, 0, 8)
    owners, attributes = torch.from_numpy(batch.owners).long(), torch.from_numpy(batch.attributes).long()
    torch.manual_seed(0)
    heads, patches = PatchHeads(600), torch.randn(8, 64, 600)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = heads(patches, owners, attributes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


# Batches


def test_a_batch_depends_on_its_seed_and_step_alone():
    drawn = list(make_batches(3, [8, 8, 4], workers=1))
    assert [len(batch.full) for batch in drawn] == [8, 8, 4]
    for step, batch in enumerate(drawn):
        again = make_batch(3, step, len(batch.full))
        assert np.array_equal(batch.pixels, again.pixels)
        assert (batch.full, batch.short) == (again.full, again.short)
    assert drawn[0].full != drawn[1].full


def test_every_caption_of_a_batch_fits_its_own_picture():
    batch = make_batch(0, 1, 64)
    assert batch.pixels.shape == (64, 64, 64, 3) and batch.pixels.dtype == np.uint8
    assert batch.full_matches.diagonal().all() and batch.short_matches.diagonal().all()
    assert batch.short_matches.sum() > 2 * batch.full_matches.sum()  # short captions fit many


def test_two_half_batches_give_the_whole_batchs_gradient_again_and_again(threads, tokenizer):
    torch.manual_seed(0)
    model = training.build_model(TINY, tokenizer).train()
    batch = make_batch(0, 0, 8)
    halves = training.HalfBatches(model, tokenizer)

    def loss(pictures, patches, full, short):
        texts = (pictures @ full.T).square().mean() + (pictures @ short.T).square().mean()
        return texts + patches.square().mean()

    def gradients():
        model.zero_grad()
        value = halves.backward(batch, loss)
        return value, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    value, first = gradients()
    for _ in range(3):
        again, others = gradients()
        assert again == value
        assert all(torch.equal(one, other) for one, other in zip(first, others, strict=True))

    model.zero_grad()
    tokens = [tokenizer(texts, padding=True, return_tensors="pt") for texts in (batch.full, batch.short)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pictures = model.get_image_features(pixel_values=training._normalised(batch))
        texts = [model.get_text_features(**inputs).pooler_output.float() for inputs in tokens]
    whole = loss(pictures.pooler_output.float(), pictures.last_hidden_state[:, 1:].float(), *texts)
    whole.backward()
    assert whole.item() == pytest.approx(value, rel=1e-2)
    for one, parameter in zip(first, [p for p in model.parameters() if p.grad is not None], strict=True):
        distance = (one - parameter.grad).norm() / (parameter.grad.norm() + 1e-9)
        assert distance < 0.05 or parameter.grad.norm() < 1e-6


# The tokenizer


@pytest.mark.parametrize(
    "text", ["a black heart", "Größe", "漢字 und 🙂", "1234", "a\u0301 \u00df \u2028", "don't!"]
)
def test_any_string_has_tokens_and_none_is_unknown(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]  # the end token is also the unknown one
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "".join(
        tokenizer.backend_tokenizer.normalizer.normalize_str(text).split()
    )


def test_every_caption_fits_the_context_and_plain_words_are_one_token(tokenizer):
    texts = list(training_corpus(1, scenes=500))
    assert max(len(ids) for ids in tokenizer(texts)["input_ids"]) <= CONTEXT_LENGTH
    assert tokenizer.tokenize("a large turquoise crescent") == [
        "a</w>",
        "large</w>",
        "turquoise</w>",
        "crescent</w>",
    ]


def test_the_tokenizer_is_repeatable_and_survives_saving(tokenizer, tmp_path):
    assert build_tokenizer(0).get_vocab() == tokenizer.get_vocab()
    save_tokenizer(tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    }
    loaded = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in ("a pair of red stars", "Ünïcode 🙂", ""):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_learning_rate_rises_and_falls_to_nothing():
    (cycle, *_) = training.Recipe().cycles
    rates = [cycle.rate(seen) for seen in range(0, cycle.pictures + 1, 3200)]
    assert rates[0] == 0 and rates[1] == 0.5 and rates[2] == 1
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 1e-9


# The script


def test_training_repeats_and_can_go_on_after_its_first_cycle(threads, tmp_path, monkeypatch):
    validation = draw_held_out(tmp_path / "v", seed=0, unseen_scenes=20, unseen_combinations=5, short_queries=4)
    outputs = []
    for name in ("one", "two"):
        training.train(TINY, tmp_path / name, validation, workers=1, check_every=2)
        encoder = TorchEncoder(tmp_path / name)
        outputs.append(encoder.embed_images(validation.paths[:3]))
        assert encoder.embed_texts(["a red star"]).shape == (1, 32)
    assert np.array_equal(outputs[0], outputs[1])
    first = replace(TINY, cycles=(CYCLE,))
    training.train(first, tmp_path / "first", validation, workers=1, check_every=9)
    go_on = {"workers": 1, "check_every": 9, "done": 1, "checkpoint": tmp_path / "first"}
    training.train(TINY, tmp_path / "went-on", validation, **go_on)
    assert np.array_equal(TorchEncoder(tmp_path / "went-on").embed_images(validation.paths[:3]), outputs[0])
    assert np.allclose(np.linalg.norm(outputs[0], axis=1), 1, atol=1e-5)
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.bin"))


def test_a_full_caption_is_not_cut(tokenizer):
    from random import Random

    from clipdex_export.demo.scenes import Ground, Pair, Thing

    scene = Pair(Thing("diamond", "cyan"), Thing("crescent", "purple"), "left of", Ground(("orange", "black")))
    rng = Random(0)
    longest = max(len(tokenizer(full_caption(scene, rng).text)["input_ids"]) for _ in range(300))
    assert 20 < longest <= CONTEXT_LENGTH
