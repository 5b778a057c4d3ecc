"""Repositories of ready-made ONNX, in each layout, from small random checkpoints; needs torch.

Written after the public descriptions: the scripts of transformers.js and Optimum's configurations, Immich's model
exporter, FastEmbed's list of models. The names of files, inputs and outputs, the types of ids and the fixed batch
are theirs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tiny_families import (
    LENGTH,
    SIZE,
    open_clip_config,
    open_clip_model,
    write_hf_clip,
    write_siglip2,
    write_xlm_roberta_tokenizer,
)
from torch import nn

from clipdex_export.quiet import quiet

SETTINGS = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


def export(
    module: nn.Module,
    arguments: tuple[Any, ...],
    path: Path,
    inputs: Mapping[str, Mapping[int, str]],
    outputs: Mapping[str, Mapping[int, str]],
    *,
    opset: int = 14,
) -> None:
    """Trace a module as all of these tools do. inputs, outputs: their names and free dimensions."""
    import warnings

    path.parent.mkdir(parents=True, exist_ok=True)
    free = {name: dict(axes) for name, axes in [*inputs.items(), *outputs.items()] if axes}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=free,
            opset_version=opset,
            dynamo=False,
        )


class Vision(nn.Module):
    """transformers' vision model. projection: whether it is followed by the projection."""

    def __init__(self, model: Any, *, projection: bool = True, unit: bool = False) -> None:
        super().__init__()
        self.vision_model, self.unit = model.vision_model, unit
        self.visual_projection = getattr(model, "visual_projection", None) if projection else None

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.vision_model(pixel_values)
        pooled = output.pooler_output
        features = pooled if self.visual_projection is None else self.visual_projection(pooled)
        if self.unit:
            features = features / features.norm(dim=-1, keepdim=True)
        return features, output.last_hidden_state


class Text(nn.Module):
    """transformers' text model, with its causal mask written out: traced, its own would be of one length."""

    def __init__(self, model: Any, *, projection: bool = True, causal: bool = True) -> None:
        super().__init__()
        self.text_model, self.causal = model.text_model, causal
        self.text_projection = getattr(model, "text_projection", None) if projection else None

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        length = input_ids.shape[1]
        mask = torch.zeros(1, 1, length, length)
        if self.causal:
            places = torch.arange(length)
            mask = mask + (places[None, :] > places[:, None]).float() * -1e9
        if attention_mask is not None:
            mask = mask + ((1 - attention_mask.float()) * -1e9)[:, None, None, :]
        output = self.text_model(input_ids, attention_mask=mask)
        pooled = output.pooler_output
        return (
            pooled if self.text_projection is None else self.text_projection(pooled),
            output.last_hidden_state,
        )


class Joint(nn.Module):
    """CLIPModel as Optimum exports it: logits and both unit vectors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision, self.text, self.logit_scale = Vision(model), Text(model), model.logit_scale

    def forward(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        texts, images = self.text(input_ids, attention_mask)[0], self.vision(pixel_values)[0]
        texts, images = (x / x.norm(dim=-1, keepdim=True) for x in (texts, images))
        logits = texts @ images.t() * self.logit_scale.exp()
        return logits.t(), logits, texts, images


def hf_model(directory: Path) -> Any:
    from transformers import AutoModel

    with quiet():
        return AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def copy_settings(checkpoint: Path, to: Path) -> None:
    """The files of transformers beside the graphs, as its save_pretrained writes them."""
    from transformers import AutoTokenizer

    to.mkdir(parents=True, exist_ok=True)
    with quiet():
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(to)
    for name in SETTINGS:
        if (checkpoint / name).exists() and not (to / name).exists():
            shutil.copy(checkpoint / name, to / name)


B, BS = {0: "batch_size"}, {0: "batch_size", 1: "sequence_length"}
PIXELS = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}


def some_pixels(rows: int = 2, side: int = SIZE) -> torch.Tensor:
    return torch.randn(rows, 3, side, side)


def some_ids(rows: int = 2, length: int = LENGTH, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.arange(rows * length, dtype=dtype).reshape(rows, length) % 90


def write_vision(model: Any, path: Path, *, opset: int = 14, **options: Any) -> None:
    first = "image_embeds" if hasattr(model, "visual_projection") else "pooler_output"
    export(
        Vision(model, **options),
        (some_pixels(side=model.config.vision_config.image_size),),
        path,
        {"pixel_values": PIXELS},
        {first: B, "last_hidden_state": B},
        opset=opset,
    )


def write_text(
    model: Any, path: Path, *, ids: torch.dtype = torch.int64, mask: bool = False, opset: int = 14, **options: Any
) -> None:
    first = "text_embeds" if hasattr(model, "text_projection") else "pooler_output"
    length = model.config.text_config.max_position_embeddings
    given = (some_ids(length=length, dtype=ids), torch.ones(2, length, dtype=ids))[: 1 + mask]
    names = ("input_ids", "attention_mask")[: 1 + mask]
    export(
        Text(model, **options),
        given,
        path,
        dict.fromkeys(names, BS),
        {first: B, "last_hidden_state": BS},
        opset=opset,
    )


def write_transformers_js(directory: Path, checkpoint: Path) -> Path:
    model = hf_model(checkpoint)
    copy_settings(checkpoint, directory)
    write_vision(model, directory / "onnx" / "vision_model.onnx")
    write_text(model, directory / "onnx" / "text_model.onnx")
    return directory


def write_transformers_js_siglip(directory: Path, checkpoint: Path) -> Path:
    model = hf_model(checkpoint)
    copy_settings(checkpoint, directory)
    write_vision(model, directory / "onnx" / "vision_model.onnx")
    write_text(model, directory / "onnx" / "text_model.onnx", causal=False)
    return directory


def write_optimum(directory: Path, checkpoint: Path) -> Path:
    model = hf_model(checkpoint)
    copy_settings(checkpoint, directory)
    texts, images = {0: "text_batch_size", 1: "sequence_length"}, {**PIXELS, 0: "image_batch_size"}
    export(
        Joint(model),
        (some_ids(3), some_pixels(2), torch.ones(3, LENGTH, dtype=torch.int64)),
        directory / "model.onnx",
        {"input_ids": texts, "pixel_values": images, "attention_mask": texts},
        {
            "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
            "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
            "text_embeds": {0: "text_batch_size"},
            "image_embeds": {0: "image_batch_size"},
        },
        opset=18,
    )
    return directory


def write_fastembed(directory: Path, checkpoint: Path) -> Path:
    """Two repositories, DIRECTORY/vision and DIRECTORY/text."""
    model = hf_model(checkpoint)
    copy_settings(checkpoint, directory / "text")
    vision, text = directory / "vision", directory / "text"
    vision.mkdir(parents=True)
    shutil.move(text / "preprocessor_config.json", vision)
    shutil.copy(text / "config.json", vision)
    write_vision(model, vision / "model.onnx", unit=True)
    write_text(model, text / "model.onnx", mask=True)
    return directory


class _OpenClip(nn.Module):
    def __init__(self, model: Any, encode: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.encode(given, normalize=True)


def write_immich(directory: Path, *, free: bool = False, shape: Mapping[str, Any] | None = None) -> Path:
    """One row at a time, as Immich's exporter fixes it since OpenVINO could not handle free batches.

    shape: OpenCLIP's model_cfg.
    """
    from torch.backends import mha

    source = directory.parent / f"{directory.name}-open-clip"
    source.mkdir(parents=True)
    config = shape or open_clip_config(vocab_size=950)
    side, length = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    model = open_clip_model(source, config, {"interpolation": "bicubic"})
    axes: Mapping[int, str] = {0: "batch_size"} if free else {}
    fastpath = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    rows = 2 if free else 1
    try:
        export(
            _OpenClip(model, model.encode_image),
            (some_pixels(rows, side),),
            directory / "visual" / "model.onnx",
            {"image": axes},
            {"embedding": axes},
            opset=17,
        )
        export(
            _OpenClip(model, model.encode_text),
            (torch.ones(rows, length, dtype=torch.int32),),
            directory / "textual" / "model.onnx",
            {"text": axes},
            {"embedding": axes},
            opset=17,
        )
    finally:
        mha.set_fastpath_enabled(fastpath)
    preprocess = {
        "size": [side, side],
        "mode": "RGB",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    (directory / "visual" / "preprocess_cfg.json").write_text(json.dumps(preprocess))
    (directory / "config.json").write_text(json.dumps(config))
    write_xlm_roberta_tokenizer(directory / "textual")
    return directory


class _Multilingual(nn.Module):
    """M-CLIP's text tower as Immich exports it: the mean of all but padding, a matrix, the norm."""

    def __init__(self, model: nn.Module, width: int, dim: int) -> None:
        super().__init__()
        self.transformer, self.LinearTransformation = model, nn.Linear(width, dim)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = ((1 - attention_mask.float()) * -1e9)[:, None, None, :]
        states = self.transformer(input_ids, attention_mask=hidden).last_hidden_state
        kept = attention_mask.unsqueeze(2)
        mean = (states * kept).sum(dim=1) / attention_mask.sum(dim=1)[:, None]
        return nn.functional.normalize(self.LinearTransformation(mean), dim=-1)


def write_immich_multilingual(directory: Path) -> Path:
    """As XLM-Roberta-Large-Vit-B-32: ids and a mask, int32, and weights in files of their own."""
    from tiny_families import WIDTH, seeded, xlm_roberta_config
    from transformers import XLMRobertaModel

    write_immich(directory)
    (directory / "textual" / "model.onnx").unlink()
    config = xlm_roberta_config()
    config._attn_implementation = "eager"
    model = seeded(lambda: _Multilingual(XLMRobertaModel(config, add_pooling_layer=False), WIDTH, 24))
    ones = torch.ones(1, LENGTH, dtype=torch.int32)
    path = directory / "textual" / "model.onnx"
    export(model, (ones, ones), path, {"input_ids": {}, "attention_mask": {}}, {"embedding": {}}, opset=17)
    scatter_weights(path)
    return directory


def scatter_weights(path: Path) -> None:
    """Move every matrix to a file of its own, as PyTorch does with a large model."""
    import onnx

    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=512)


# name of the case -> (writes a repository from a checkpoint, which checkpoint)
LAYOUTS: Mapping[str, tuple[Callable[..., Path], Callable[[Path], str] | None]] = MappingProxyType(
    {
        "transformers_js": (write_transformers_js, write_hf_clip),
        "transformers_js_siglip": (write_transformers_js_siglip, write_siglip2),
        "optimum": (write_optimum, write_hf_clip),
        "fastembed": (write_fastembed, write_hf_clip),
        "immich": (write_immich, None),
        "immich_free": (partial(write_immich, free=True), None),
        "immich_multilingual": (write_immich_multilingual, None),
    }
)


def source_of(case: str, directory: Path) -> str:
    """What to give to an export."""
    return f"pair:{directory / 'vision'}+{directory / 'text'}" if case == "fastembed" else str(directory)


def write_layout(case: str, directory: Path) -> str:
    """Write a repository -> what to give to an export."""
    write, checkpoint = LAYOUTS[case]
    if checkpoint is None:
        write(directory)
    else:
        made = directory.parent / f"{directory.name}-checkpoint"
        checkpoint(made)
        write(directory, made)
    return source_of(case, directory)
