"""CLIP in Hugging Face's format: OpenAI's, LAION's, MetaCLIP's, DFN's and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import CheckpointError
from clipdex_export import preprocessing
from clipdex_export import tokenizer_json as tokenizer
from clipdex_export.checkpoint import Checkpoint, ImageHalf, Layers, TextHalf
from clipdex_export.families.architecture import transformer
from clipdex_export.families.checkpoint_json import read_json
from clipdex_export.families.family import Family
from clipdex_export.families.hugging_face import HfImages, HfTexts, load_model, load_processor, model_type
from clipdex_export.hub import CheckpointFiles
from clipdex_export.quiet import quiet
from clipdex_export.weights import one_line, weights_sha256

if TYPE_CHECKING:
    import torch

__all__ = ["HF_CLIP", "load_hf_clip"]

_PROCESSORS = {"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"}
_TOKENIZERS = {"CLIPTokenizer", "CLIPTokenizerFast"}


def load_hf_clip(source: str, files: CheckpointFiles, allow_random: bool) -> Checkpoint:
    """Load a directory: config.json (model_type "clip"), weights, preprocessor_config.json and a CLIPTokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    directory = files.directory
    processor = load_processor(directory, CLIPImageProcessorPil, _PROCESSORS)
    own_tokenizer = _load_tokenizer(directory)
    model, fit = load_model(directory, CLIPConfig, CLIPModel, allow_random)
    config = model.config
    spec = preprocessing.image_spec(processor, config.vision_config.image_size)
    data = tokenizer.tokenizer_json(own_tokenizer)
    text = tokenizer.text_spec(own_tokenizer, data, config.text_config)
    return Checkpoint(
        family=HF_CLIP.name,
        source=source,
        revision=files.revision,
        image=ImageHalf(
            embedding_dim=config.projection_dim,
            tower=_image_tower(model, spec),
            layers=Layers.of(config.vision_config),
            spec=spec,
            reference=HfImages(processor, model),
        ),
        text=TextHalf(
            embedding_dim=config.projection_dim,
            tower=_text_tower(model, text.context_length),
            layers=Layers.of(config.text_config),
            spec=text,
            tokenizer_json=data,
            reference=HfTexts(
                lambda texts: own_tokenizer(
                    texts,
                    padding="max_length",
                    truncation=True,
                    max_length=config.text_config.max_position_embeddings,
                    return_tensors="pt",
                ),
                model,
                inputs=("input_ids", "attention_mask"),
            ),
        ),
        logit_scale=model.logit_scale.exp().item(),
        logit_bias=0.0,
        weights_sha256=weights_sha256(
            model.state_dict(),
            {
                "image": transformer(config.vision_config),
                # The vector is read at the end token, however the config says so (tokenizer_json.text_spec).
                "text": transformer(config.text_config) | {"mask": "causal", "pooling": "end"},
            },
        ),
        random_weights=fit.made_up,
        unused_weights=fit.unused,
    )


def _load_tokenizer(directory: Path) -> Any:
    from transformers import CLIPTokenizer

    settings = directory / "tokenizer_config.json"
    if settings.exists():
        kind = read_json(settings).get("tokenizer_class")
        if kind is not None and kind not in _TOKENIZERS:
            raise CheckpointError(f"{settings} is for a {kind}; expected a CLIPTokenizer")
    # Without its files transformers silently makes an empty tokenizer.
    if not (directory / "tokenizer.json").exists():
        for name in ("vocab.json", "merges.txt"):
            if not (directory / name).exists():
                raise CheckpointError(f"{directory} has no {name} and no tokenizer.json: the tokenizer is missing")
    try:
        with quiet():
            return CLIPTokenizer.from_pretrained(directory)
    except Exception as exc:
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {one_line(exc)}") from exc


def _image_tower(model: Any, spec: Any) -> torch.nn.Module:
    from clipdex_export import towers
    from clipdex_export.families.hugging_face import Pooled

    return towers.ImageTower(Pooled(model.vision_model, model.visual_projection), spec)


def _text_tower(model: Any, length: int) -> torch.nn.Module:
    from clipdex_export import towers
    from clipdex_export.families.hugging_face import LastHidden

    config = model.config.text_config
    # Padding needs no mask: attention is causal and the vector is read at the first end token, so nothing after it
    # can change the result.
    return towers.TextTower(
        LastHidden(model.text_model),
        model.text_projection,
        length=length,
        vocabulary=config.vocab_size,
        mask="causal",
        # CLIP checkpoints from before 2023 have 2 here; transformers then pools at the largest id.
        pooling="largest" if config.eos_token_id == tokenizer.LEGACY_END_ID else "end",
        end_id=config.eos_token_id,
    )


HF_CLIP = Family(
    name="hf-clip",
    title="CLIP in Hugging Face's format",
    examples="`openai/clip-vit-base-patch32` and B/16, L/14, L/14@336; LAION, MetaCLIP and DFN in that format",
    marks='config.json with model_type "clip"',
    picture="shorter side, crop",
    text="byte-level BPE; causal mask",
    fused="both towers",
    recognises=lambda directory: model_type(directory) == "clip",
    weights=("model*.safetensors", "pytorch_model*.bin"),
    load=load_hf_clip,
)
