"""Token ids equal those of Hugging Face's CLIPTokenizer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from clipdex.model.card import TextSpec
from clipdex.model.tokenizer import Tokenizer

pytestmark = pytest.mark.torch
transformers = pytest.importorskip("transformers")

from tiny_clip import corpus  # noqa: E402

from clipdex_export.random_checkpoint import write_tokenizer  # noqa: E402
from clipdex_export.sentences import GATE_TEXTS  # noqa: E402
from clipdex_export.tokenizer_json import text_spec, tokenizer_json  # noqa: E402

DEMO = Path(__file__).parent.parent / "export" / "checkpoints" / "demo"
# Whole Unicode planes that people write in, and the places where normalisers differ.
RANGES = [
    (0x0020, 0x007F),
    (0x00A0, 0x024F),
    (0x0300, 0x036F),
    (0x0370, 0x05FF),
    (0x0600, 0x06FF),
    (0x0900, 0x097F),
    (0x0E00, 0x0E7F),
    (0x1E00, 0x1FFF),
    (0x2000, 0x206F),
    (0x2070, 0x218F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFB00, 0xFB4F),
    (0xFE00, 0xFE0F),
    (0x1F300, 0x1FAFF),
    (0xE0020, 0xE007F),
    (0x0000, 0x001F),
]


def texts() -> list[str]:
    """The gate's texts, 300 lines of prose, 300 seeded mixtures of scripts, and every length around the limit."""
    rng = random.Random(0)
    prose = [line for line in corpus() if line.strip()]
    mixtures = []
    for _ in range(300):
        low, high = rng.choice(RANGES)
        other_low, other_high = rng.choice(RANGES)
        letters = [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 25))]
        letters += [chr(rng.randint(other_low, other_high)) for _ in range(rng.randint(0, 10))]
        letters += [rng.choice([" ", "  ", "\n", "'s", "!", "7"]) for _ in range(rng.randint(0, 8))]
        rng.shuffle(letters)
        mixtures.append("".join(letters))
    lengths = ["cat " * n for n in range(1, 100)]
    return [*GATE_TEXTS, *rng.sample(prose, 300), *mixtures, *lengths]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A byte-level BPE of 4,000 merges in CLIP's format."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, corpus(), 4000)
    return transformers.CLIPTokenizer.from_pretrained(directory)


def ours(reference, length: int) -> Tokenizer:
    data = tokenizer_json(reference)
    config = transformers.CLIPTextConfig(
        vocab_size=len(reference), eos_token_id=reference.eos_token_id, max_position_embeddings=length
    )
    return Tokenizer(data, text_spec(reference, data, config))


def expected(reference, batch: list[str], length: int) -> np.ndarray:
    return reference(batch, padding="max_length", truncation=True, max_length=length, return_tensors="np")[
        "input_ids"
    ]


@pytest.mark.parametrize("length", [77, 16])
def test_a_trained_vocabulary(trained, length: int) -> None:
    batch = texts()
    assert len(batch) >= 500
    ids = ours(trained, length)(batch)
    assert ids.dtype == np.int32 and ids.shape == (len(batch), length)
    differing = [t for t, a, b in zip(batch, ids, expected(trained, batch, length), strict=True) if (a != b).any()]
    assert differing == []
    # The comparison means something: words are whole tokens, not bytes.
    assert len(set(ids.ravel().tolist())) > 1000


def test_one_text_at_a_time_is_the_same_as_many(trained) -> None:
    tokenizer = ours(trained, 77)
    batch = list(GATE_TEXTS)
    np.testing.assert_array_equal(np.concatenate([tokenizer([t]) for t in batch]), tokenizer(batch))


def test_a_pad_token_of_its_own(tmp_path: Path) -> None:
    """LAION's tokenizers pad with another token than the end token."""
    write_tokenizer(tmp_path, corpus(), 100)
    reference = transformers.CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")
    assert reference.pad_token_id != reference.eos_token_id
    np.testing.assert_array_equal(ours(reference, 77)(GATE_TEXTS), expected(reference, list(GATE_TEXTS), 77))


def test_cutting_and_padding_are_left_to_the_card(trained) -> None:
    """Even when transformers last used its backend with other settings."""
    before = tokenizer_json(trained)
    trained(["a"], padding="max_length", truncation=True, max_length=5)
    assert tokenizer_json(trained) == before
    assert ours(trained, 77)(["cat " * 50]).shape == (1, 77)


def test_the_demo_tokenizer() -> None:
    reference = transformers.CLIPTokenizer.from_pretrained(DEMO)
    config = transformers.CLIPConfig.from_pretrained(DEMO).text_config
    data = tokenizer_json(reference)
    spec: TextSpec = text_spec(reference, data, config)
    batch = texts()
    np.testing.assert_array_equal(Tokenizer(data, spec)(batch), expected(reference, batch, spec.context_length))
