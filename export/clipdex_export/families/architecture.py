"""The fields of a model's config that change its vectors without changing its weights: part of the fingerprint.

Every field is listed here, so that new or renamed fields in a release of a library do not change fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["open_clip_model", "text_model", "transformer"]

# In OpenCLIP's configs: of a vision tower of timm, of a ResNet, of its ViT, of its own text transformer.
_TIMM = ("timm_model_name", "timm_pool", "timm_proj")
_RESNET = ("head_width",)
_BLOCKS = ("act_kwargs", "final_ln_after_pool", "norm_kwargs", "pool_type", "scaled_cosine_attn")
_VIT = (*_BLOCKS, "head_width", "attentional_pool", "attn_pooler_heads")
_TEXT = (*_BLOCKS, "heads", "no_causal_mask", "pad_id", "eos_id")
_BERT = ("hidden_act", "num_attention_heads", "layer_norm_eps", "is_decoder")
# By transformers' model_type. RoBERTa models number positions from the padding id on.
_TEXT_MODELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bert": _BERT,
        "roberta": (*_BERT, "pad_token_id"),
        "xlm-roberta": (*_BERT, "pad_token_id"),
        "distilbert": ("activation", "n_heads"),
        "mpnet": ("hidden_act", "num_attention_heads", "layer_norm_eps", "pad_token_id"),
        "t5": ("feed_forward_proj", "num_heads", "layer_norm_epsilon", "relative_attention_max_distance"),
        "mt5": ("feed_forward_proj", "num_heads", "layer_norm_epsilon", "relative_attention_max_distance"),
        "m2m_100": ("activation_function", "encoder_attention_heads", "scale_embedding", "pad_token_id"),
    }
)
# In every config, but without influence on the arithmetic.
_HOUSEKEEPING = (
    "_attn_implementation", "_name_or_path", "architectures", "attn_implementation", "auto_map",
    "chunk_size_feed_forward", "dtype", "id2label", "label2id", "output_attentions", "output_hidden_states",
    "problem_type", "return_dict", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip


def transformer(config: Any) -> dict[str, Any]:
    """Return the fields of a tower in transformers' CLIP or SigLIP."""
    return {
        "activation": config.hidden_act,
        "heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps,
    }


def text_model(config: Any) -> dict[str, Any]:
    """Return the fields of any text model of transformers; of an unlisted one, all that its config states."""
    kind: str = config.model_type
    if kind in _TEXT_MODELS:
        return {"model_type": kind} | _fields_of(config, _TEXT_MODELS[kind])
    # Too many fields may split one space in two; too few would merge two into one.
    stated = config.to_diff_dict()
    return {"model_type": kind} | {name: stated[name] for name in sorted(stated) if name not in _HOUSEKEEPING}


def open_clip_model(config: Mapping[str, Any], hugging_face: Any | None) -> dict[str, Any]:
    """Return the fields of OpenCLIP's model_cfg.

    Args:
        config: the model_cfg.
        hugging_face: the config of its text model, if that is one of transformers.
    """
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    gelu = {"quick_gelu": bool(config.get("quick_gelu", False))}
    if vision.timm_model_name:
        image = _fields_of(vision, _TIMM)
    elif isinstance(vision.layers, int):
        image = _fields_of(vision, _VIT) | gelu
    else:
        image = _fields_of(vision, _RESNET)
    if hugging_face is None:
        return {"image": image, "text": _fields_of(text, _TEXT) | gelu}
    return {"image": image, "text": text_model(hugging_face) | {"mask": "padding", "pooling": text.hf_pooler_type}}


def _fields_of(config: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}
