"""Training of the demo model's byte-pair encoding, in CLIP's own format."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from clipdex_export.demo.captions import full_caption, short_caption
from clipdex_export.demo.sampling import sample_where
from clipdex_export.demo.scenes import is_for_training

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_LENGTH = 32
_WORD_END = "</w>"
_MERGES = 360


def training_corpus(seed: int, scenes: int = 20_000) -> Iterable[str]:
    """Yield full and short captions of training scenes."""
    rng = Random(f"tokenizer/{seed}")
    for _ in range(scenes):
        scene = sample_where(rng, is_for_training)
        yield full_caption(scene, rng).text
        yield short_caption(scene, rng).text


def learn_merges(texts: Iterable[str], clip: CLIPTokenizer, count: int) -> list[tuple[str, str]]:
    """Learn the pairs to merge, most frequent first, for text that is normalised and split as by CLIP."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = clip.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + count,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges][:count]


def build_tokenizer(seed: int) -> CLIPTokenizer:
    """Make a CLIPTokenizer that can encode any string: every byte, alone and at a word's end, then the merges."""
    merges = learn_merges(training_corpus(seed), CLIPTokenizer(), _MERGES)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


def save_tokenizer(tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, and the vocab.json and merges.txt of the older format."""
    tokenizer.save_pretrained(str(directory))
    tokenizer.backend_tokenizer.model.save(str(directory))
