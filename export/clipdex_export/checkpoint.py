"""Reads a Hugging Face CLIP checkpoint, whole or not at all: no weight is ever made up unasked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.errors import CheckpointError
from clipdex_export.hub import find_checkpoint
from clipdex_export.quiet import quiet

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "load_checkpoint"]

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_PROCESSORS = {"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"}
_TOKENIZERS = {"CLIPTokenizer", "CLIPTokenizerFast"}
# Buffers that older releases of transformers wrote as if they were weights.
_NOT_WEIGHTS = ("position_ids",)


@dataclass
class Checkpoint:
    """A loaded checkpoint: the float32 model with its own image processor and tokenizer.

    random_weights: names initialised at random because `allow_random` let them be missing.
    unused_weights: names in the file that the architecture has no place for.
    """

    source: str
    revision: str
    model: Any  # transformers.CLIPModel
    processor: Any  # transformers.CLIPImageProcessorPil
    tokenizer: Any  # transformers.CLIPTokenizer
    weights_sha256: str
    random_weights: tuple[str, ...]
    unused_weights: tuple[str, ...]


def load_checkpoint(source: str, *, revision: str | None = None, allow_random: bool = False) -> Checkpoint:
    """Load a local directory or a hub id, in float32 with eager attention.

    Raises:
        CheckpointError: missing, unreadable, not a CLIP, or with weights missing or of other shapes
            than its config states.
    """
    files = find_checkpoint(source, revision)
    _check_config(files.directory)
    processor = _load_processor(files.directory)
    tokenizer = _load_tokenizer(files.directory)
    model, random_weights, unused_weights = _load_model(files.directory, allow_random)
    return Checkpoint(
        source=source,
        revision=files.revision,
        model=model,
        processor=processor,
        tokenizer=tokenizer,
        weights_sha256=_weights_sha256(model.state_dict()),
        random_weights=random_weights,
        unused_weights=unused_weights,
    )


def _check_config(directory: Path) -> None:
    config = _read_json(directory / "config.json", "a checkpoint has a config.json")
    model_type = config.get("model_type")
    if model_type != "clip":
        raise CheckpointError(
            f'{directory / "config.json"} says model_type {model_type!r}: expected "clip", the Hugging Face CLIP '
            "with both towers"
        )


def _load_processor(directory: Path) -> Any:
    from transformers import CLIPImageProcessorPil

    try:
        with quiet():
            settings, _ = CLIPImageProcessorPil.get_image_processor_dict(directory)
            kind = settings.get("image_processor_type", settings.get("feature_extractor_type"))
            processor = CLIPImageProcessorPil.from_pretrained(directory)
    # Any wrong type in the file surfaces as whatever the code meets it with.
    except Exception as exc:
        raise CheckpointError(f"{directory}: preprocessor_config.json cannot be read: {_line(exc)}") from exc
    if kind is not None and kind not in _PROCESSORS:
        raise CheckpointError(
            f"{directory}: preprocessor_config.json is for a {kind}; expected a CLIPImageProcessor"
        )
    return processor


def _load_tokenizer(directory: Path) -> Any:
    from transformers import CLIPTokenizer

    settings = directory / "tokenizer_config.json"
    if settings.exists():
        kind = _read_json(settings, "").get("tokenizer_class")
        if kind is not None and kind not in _TOKENIZERS:
            raise CheckpointError(f"{settings} is for a {kind}; expected a CLIPTokenizer")
    # Without its files transformers makes an empty tokenizer and says nothing.
    if not (directory / "tokenizer.json").exists():
        for name in ("vocab.json", "merges.txt"):
            if not (directory / name).exists():
                raise CheckpointError(f"{directory} has no {name} and no tokenizer.json: the tokenizer is missing")
    try:
        with quiet():
            return CLIPTokenizer.from_pretrained(directory)
    except Exception as exc:
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {_line(exc)}") from exc


def _load_model(directory: Path, allow_random: bool) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    import torch
    from transformers import CLIPConfig, CLIPModel

    no_weights = not any((directory / name).exists() for name in _WEIGHT_FILES)
    if no_weights and not allow_random:
        raise CheckpointError(f"{directory} has no weights: expected {_WEIGHT_FILES[0]} or {_WEIGHT_FILES[2]}")
    try:
        # Seeded, so that even a model of random weights has one fingerprint.
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if no_weights:
                config = CLIPConfig.from_pretrained(directory, attn_implementation="eager")
                model = CLIPModel(config).float().eval()
                return model, tuple(sorted(model.state_dict())), ()
            model, info = CLIPModel.from_pretrained(
                directory,
                dtype=torch.float32,
                # The exporter's graph of eager attention is the one that fusion passes know.
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    # safetensors, pickle, json and the config's own checks each raise their own kind.
    except Exception as exc:
        raise CheckpointError(f"{directory}: the checkpoint cannot be loaded: {_line(exc)}") from exc
    mismatched = sorted(
        f"{name} ({list(found)}, expected {list(wanted)})" for name, found, wanted in info["mismatched_keys"]
    )
    missing = sorted(info["missing_keys"])
    unused = sorted(name for name in info["unexpected_keys"] if not name.endswith(_NOT_WEIGHTS))
    if mismatched and not allow_random:
        raise CheckpointError(
            f"{directory}: weights of another shape than config.json states: {_names(mismatched)}"
        )
    if missing and not allow_random:
        hint = f"; it has {_names(unused)} instead" if unused else ""
        raise CheckpointError(f"{directory}: weights are missing: {_names(missing)}{hint}")
    made_up = {*missing, *(name for name, _, _ in info["mismatched_keys"])}
    return model.eval(), tuple(sorted(made_up)), tuple(unused)


def _weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """sha256 over (name, shape, little-endian float32 values) of every weight, sorted by name.

    It names the weights as loaded, so a checkpoint saved again in another file layout keeps its hash.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        weight = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(weight.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def _read_json(path: Path, why: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path.parent} is no checkpoint: {why}, and it has none") from exc
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {_line(exc)}") from exc
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return data


def _names(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _line(exc: BaseException) -> str:
    """An error's message on one line, short enough to be part of a sentence."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= 300 else text[:297] + "…"
