"""A CLIP checkpoint with random weights in the shape of a real one.

Speed, memory and the equality of two implementations do not need trained weights: benchmarks and tests make their
checkpoints here, without a hub. `export_model` reads them like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from clipdex.base.errors import InvalidArgument
from clipdex_export.quiet import quiet

__all__ = ["SHAPES", "ClipShape", "write_random_checkpoint", "write_tokenizer"]

START, END = "<|startoftext|>", "<|endoftext|>"
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True)
class ClipShape:
    """The sizes of a CLIP, named as in its config.json. Attention heads are 64 wide, as in all of them."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    projection: int
    vocabulary: int = 49_408
    context_length: int = 77

    def cut_to(self, layers: int) -> ClipShape:
        """Return the same shape with fewer layers in both towers."""
        return replace(self, vision_layers=layers, text_layers=layers)


SHAPES: Mapping[str, ClipShape] = MappingProxyType(
    {
        "vit_b_32": ClipShape(224, 32, 768, 12, 512, 12, 512),
        "vit_b_16": ClipShape(224, 16, 768, 12, 512, 12, 512),
        "vit_l_14": ClipShape(224, 14, 1024, 24, 768, 12, 768),
        "vit_l_14_336": ClipShape(336, 14, 1024, 24, 768, 12, 768),
        # Its image tower exceeds the 2 GiB limit of one ONNX file.
        "vit_h_14": ClipShape(224, 14, 1280, 32, 1024, 24, 1024),
    }
)


def write_random_checkpoint(
    directory: Path,
    shape: ClipShape,
    *,
    corpus: Iterable[str] = (),
    merges: int = 0,
    seed: int = 0,
    weights: bool = True,
) -> None:
    """Write a Hugging Face CLIP checkpoint: config, preprocessor, tokenizer, random float32 weights.

    Args:
        directory: created if it does not exist.
        shape: its sizes; the tokenizer's entries must fit in `shape.vocabulary`.
        corpus, merges: text from which the tokenizer learns, and the most merges to learn.
        seed: of the weights.
        weights: false leaves them out, for `export_model(..., allow_random=True)` to fill in.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    directory.mkdir(parents=True, exist_ok=True)
    start_id, end_id = write_tokenizer(directory, corpus, merges)
    if end_id >= shape.vocabulary:
        raise InvalidArgument(f"{end_id + 1} tokens do not fit in a vocabulary of {shape.vocabulary}")
    config = CLIPConfig(
        text_config={
            "hidden_size": shape.text_width,
            "intermediate_size": 4 * shape.text_width,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.text_width // 64,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context_length,
            "bos_token_id": start_id,
            "eos_token_id": end_id,
            "pad_token_id": end_id,
        },
        vision_config={
            "hidden_size": shape.vision_width,
            "intermediate_size": 4 * shape.vision_width,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_width // 64,
            "image_size": shape.image_size,
            "patch_size": shape.patch_size,
        },
        projection_dim=shape.projection,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if weights:
            CLIPModel(config).save_pretrained(directory)
        else:
            config.save_pretrained(directory)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": shape.image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _STD,
        "do_convert_rgb": True,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def write_tokenizer(directory: Path, corpus: Iterable[str] = (), merges: int = 0) -> tuple[int, int]:
    """Write vocab.json, merges.txt and tokenizer_config.json in CLIP's format -> (start id, end id).

    The vocabulary has OpenAI's order: 256 bytes, the same at a word's end, the merges, start, end.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned: list[tuple[str, str]] = []
    if merges:
        learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        learner.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=len(alphabet) * 2 + merges,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        learner.train_from_iterator(corpus, trainer)
        learned = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]][:merges]
    tokens = alphabet + [byte + "</w>" for byte in alphabet] + [left + right for left, right in learned]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    rules = "".join(f"{left} {right}\n" for left, right in learned)
    (directory / "merges.txt").write_text("#version: 0.2\n" + rules, encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return vocabulary[START], vocabulary[END]
