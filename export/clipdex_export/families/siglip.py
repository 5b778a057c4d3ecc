"""SigLIP and SigLIP 2 in Hugging Face's format: squashed pictures, texts padded to one length, a sigmoid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export import preprocessing
from clipdex_export import tokenizer_json as tokenizer
from clipdex_export.checkpoint import Checkpoint, ImageHalf, Layers, TextHalf
from clipdex_export.families.architecture import transformer
from clipdex_export.families.family import Family
from clipdex_export.families.hugging_face import HfImages, HfTexts, load_model, load_processor, model_type
from clipdex_export.families.sentence_piece import unigram_json
from clipdex_export.hub import CheckpointFiles
from clipdex_export.quiet import quiet
from clipdex_export.weights import one_line, weights_sha256

__all__ = ["SIGLIP", "load_siglip"]

_PROCESSORS = {"SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil"}


def load_siglip(source: str, files: CheckpointFiles, allow_random: bool) -> Checkpoint:
    """Load a directory: config.json (model_type "siglip"), weights, preprocessor_config.json and a tokenizer."""
    from torch import nn
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    from clipdex_export import towers
    from clipdex_export.attention import with_eager_attention
    from clipdex_export.families.hugging_face import LastHidden, Pooled

    directory = files.directory
    processor = load_processor(directory, SiglipImageProcessorPil, _PROCESSORS)
    own_tokenizer, data, cleaning = _load_tokenizer(directory)
    model, fit = load_model(directory, SiglipConfig, SiglipModel, allow_random)
    vision, text = model.config.vision_config, model.config.text_config
    if not vision.vision_use_head:
        raise CheckpointError(f"{directory}: vision_use_head is false, so the model gives no vector for a picture")
    image_spec = preprocessing.squash_spec(processor, vision.image_size)
    text_spec = tokenizer.spec_of(
        data,
        vocabulary=text.vocab_size,
        context_length=text.max_position_embeddings,
        pad_id=own_tokenizer.pad_token_id,
        end_id=own_tokenizer.eos_token_id,
        cleaning=cleaning,
    )
    return Checkpoint(
        family=SIGLIP.name,
        source=source,
        revision=files.revision,
        image=ImageHalf(
            embedding_dim=vision.hidden_size,
            tower=towers.ImageTower(Pooled(with_eager_attention(model.vision_model), nn.Identity()), image_spec),
            layers=Layers.of(vision),
            spec=image_spec,
            reference=HfImages(processor, model),
        ),
        text=TextHalf(
            embedding_dim=text.projection_size,
            tower=towers.TextTower(
                LastHidden(model.text_model),
                model.text_model.head,
                length=text_spec.context_length,
                vocabulary=text.vocab_size,
                mask="none",
                pooling="last",
            ),
            layers=Layers.of(text),
            spec=text_spec,
            tokenizer_json=data,
            reference=HfTexts(
                lambda texts: own_tokenizer(
                    texts,
                    padding="max_length",
                    truncation=True,
                    max_length=text.max_position_embeddings,
                    return_tensors="pt",
                ),
                model,
                # As in training: padding is not masked, and the vector is read at the last position.
                inputs=("input_ids",),
            ),
        ),
        logit_scale=model.logit_scale.exp().item(),
        logit_bias=model.logit_bias.item(),
        weights_sha256=weights_sha256(
            model.state_dict(),
            {"image": transformer(vision), "text": transformer(text) | {"mask": "none", "pooling": "last"}},
        ),
        random_weights=fit.made_up,
        unused_weights=fit.unused,
    )


def _load_tokenizer(directory: Path) -> tuple[Any, bytes, str]:
    """Load the tokenizer -> it, its tokenizer.json, and the cleaning before it.

    SigLIP's is SentencePiece with cleaning in Python; SigLIP 2's comes as a tokenizer.json.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            own = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as exc:
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {one_line(exc)}") from exc
    for kind in ("eos", "pad"):
        if getattr(own, f"{kind}_token_id") is None:
            raise CheckpointError(f"{directory}: the tokenizer has no {kind} token")
    if own.padding_side != "right":
        raise CheckpointError(
            f"{directory}: the tokenizer pads on the {own.padding_side}; expected padding_side right, which "
            "SigLIP was trained with: set it in tokenizer_config.json"
        )
    if type(own).__name__ == "SiglipTokenizer":
        cleaning = "lower punctuation whitespace" if own.do_lower_case else "punctuation whitespace"
        return own, unigram_json(Path(own.vocab_file), own.eos_token), cleaning
    if getattr(own, "backend_tokenizer", None) is None:
        raise CheckpointError(f"{directory}: a {type(own).__name__} cannot be written as a tokenizer.json")
    return own, tokenizer.tokenizer_json(own), "none"


SIGLIP = Family(
    name="siglip",
    title="SigLIP and SigLIP 2 in Hugging Face's format",
    examples="`google/siglip-base-patch16-224`, `google/siglip2-base-patch16-256`; not the naflex models",
    marks='config.json with model_type "siglip"',
    picture="squash",
    text="SentencePiece, or the checkpoint's tokenizer.json; no mask, read at the last place",
    fused="both towers",
    recognises=lambda directory: model_type(directory) == "siglip",
    weights=("model*.safetensors", "pytorch_model*.bin"),
    load=load_siglip,
)
