"""Detection of checkpoints that were cloned without git-lfs, before a reader reports their files as broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clipdex.base.errors import CheckpointError
from clipdex.base.git_lfs import is_pointer_file, pointer_words

__all__ = ["refuse_pointers", "refuse_small_pointers", "refuse_weight_pointers"]

# The files that the families, transformers and OpenCLIP read besides the weights; others do not matter.
_SMALL = {
    "config.json": "the model's configuration",
    "modules.json": "the list of modules",
    "open_clip_config.json": "the model's configuration",
    "preprocessor_config.json": "the preprocessor",
    "processor_config.json": "the preprocessor",
    "added_tokens.json": "the tokenizer",
    "merges.txt": "the tokenizer",
    "special_tokens_map.json": "the tokenizer",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the tokenizer",
    "vocab.json": "the tokenizer",
    "vocab.txt": "the tokenizer",
    "model.safetensors.index.json": "the list of weights",
    "pytorch_model.bin.index.json": "the list of weights",
}
# sentence-transformers keeps its modules in 0_CLIPModel, 1_Pooling and so on.
_MODULES = "[0-9]*_*"


def refuse_pointers(paths: Iterable[Path], what: str) -> None:
    """Raise CheckpointError if one of the files is a git-lfs pointer and not `what`."""
    for path in sorted(paths):
        if is_pointer_file(path):
            raise CheckpointError(pointer_words(path, what))


def refuse_small_pointers(directory: Path) -> None:
    """Raise CheckpointError if a checkpoint's configuration or tokenizer files are git-lfs pointers."""
    for place in (directory, *sorted(directory.glob(_MODULES))):
        for name, what in _SMALL.items():
            refuse_pointers([place / name], what)
        refuse_pointers(place.glob("*.model"), "the tokenizer's SentencePiece model")


def refuse_weight_pointers(directory: Path, patterns: Sequence[str]) -> None:
    """Raise CheckpointError if the weights, the files of the first pattern that matches any, are pointers."""
    for pattern in patterns:
        if found := list(directory.glob(pattern)):
            return refuse_pointers(found, "the weights")
