"""OpenCLIP checkpoints: an architecture with published weights or a file, or a directory in its own format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import CheckpointError
from clipdex.base.extras import needs
from clipdex_export import tokenizer_json as tokenizer
from clipdex_export.checkpoint import Checkpoint, ImageHalf, TextHalf, Vectors
from clipdex_export.families.architecture import open_clip_model
from clipdex_export.families.family import Family
from clipdex_export.families.hugging_face import no_questions
from clipdex_export.families.open_clip_preprocessing import (
    CONFIG,
    OPEN_CLIP_PREFIX,
    common_preprocessing,
    image_spec,
)
from clipdex_export.families.open_clip_tokenizer import OpenClipTokens, convert
from clipdex_export.hub import CheckpointFiles
from clipdex_export.quiet import quiet
from clipdex_export.weights import Fit, adopt, check_fit, one_line, read_state, weights_sha256

__all__ = ["OPEN_CLIP", "OPEN_CLIP_PREFIX", "load_open_clip", "load_open_clip_named"]

_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class _Found:
    """A located model.

    name: for open_clip.create_model. weights: the file, if any. preprocess: settings other than the defaults.
    """

    name: str
    weights: Path | None
    preprocess: dict[str, Any]
    revision: str = ""


def load_open_clip(source: str, files: CheckpointFiles, allow_random: bool) -> Checkpoint:
    """Load a directory with open_clip_config.json, weights, and a tokenizer unless it is OpenCLIP's own."""
    from clipdex_export.families.checkpoint_json import read_json

    preprocess = read_json(files.directory / CONFIG).get("preprocess_cfg", {})
    weights = next((files.directory / n for n in _WEIGHT_FILES if (files.directory / n).exists()), None)
    found = _Found(f"local-dir:{files.directory}", weights, preprocess, files.revision)
    return _load(source, found, files.directory, allow_random)


def load_open_clip_named(source: str, allow_random: bool) -> Checkpoint:
    """Load `open_clip:ARCHITECTURE/TAG`, `…/FILE`, or `…/TAG/FILE`: a FILE with the preprocessing of TAG.

    FILE: .safetensors, .bin, .pt or .pth.
    """
    open_clip = _import_open_clip()
    architecture, _, weights = source.removeprefix(OPEN_CLIP_PREFIX).partition("/")
    if open_clip.get_model_config(architecture) is None:
        raise CheckpointError(
            f"OpenCLIP {open_clip.__version__} has no architecture {architecture!r}: expected "
            "open_clip:ARCHITECTURE/TAG or open_clip:ARCHITECTURE/FILE, as in open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    path = Path(weights).expanduser()
    tag, _, file = weights.partition("/")
    if not weights:
        found = _Found(architecture, None, {})
    elif path.is_file():
        found = _Found(architecture, path, common_preprocessing(open_clip, architecture, path))
    elif not open_clip.is_pretrained_cfg(architecture, tag):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise CheckpointError(
            f"{weights} is neither a local file nor a tag of OpenCLIP's {architecture}; its tags: {tags}"
        )
    elif file:
        path = Path(file).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{source}: the weights file {file} does not exist")
        found = _Found(architecture, path, _settings(open_clip, architecture, tag, f"/{file}"))
    else:
        found = _download(open_clip, architecture, tag)
    return _load(source, found, architecture, allow_random)


def _settings(open_clip: ModuleType, architecture: str, tag: str, file: str = "") -> dict[str, Any]:
    """Return OpenCLIP's settings for a tag, which must have been trained with the architecture's kind of GELU."""
    settings: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    quick = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
    other = architecture.removesuffix("-quickgelu") if quick else f"{architecture}-quickgelu"
    # If there is only one kind, as of roberta-ViT-B-32, OpenCLIP's list does not state the tag's kind.
    if quick != bool(settings.get("quick_gelu", False)) and other != architecture:
        raise CheckpointError(
            f"the weights {tag} were trained with {'plain ' if quick else 'Quick'}GELU, but {architecture} uses "
            f"{'Quick' if quick else 'plain '}GELU: export {OPEN_CLIP_PREFIX}{other}/{tag}{file}"
        )
    return settings


def _download(open_clip: ModuleType, architecture: str, tag: str) -> _Found:
    settings = _settings(open_clip, architecture, tag)
    try:
        with quiet():
            path = Path(open_clip.download_pretrained(settings))
    # The hub's client, urllib and OpenCLIP itself each raise their own kinds of errors.
    except Exception as exc:
        raise CheckpointError(
            f"the weights {tag} of OpenCLIP's {architecture} cannot be downloaded ({one_line(exc)}): download the "
            f"file on a machine with network access, and export {OPEN_CLIP_PREFIX}{architecture}/{tag}/FILE"
        ) from exc
    # In the hub's cache: …/snapshots/COMMIT/FILE.
    revision = path.parent.name if path.parent.parent.name == "snapshots" else ""
    return _Found(architecture, path, settings, revision)


def _load(source: str, found: _Found, where: object, allow_random: bool) -> Checkpoint:
    open_clip = _import_open_clip()
    model, own_tokenizer = _build(open_clip, found, where)
    fit = _fill(model, found, where, allow_random)
    preprocess = open_clip.transform.PreprocessCfg(
        **open_clip.transform.merge_preprocess_dict(model.visual.preprocess_cfg, found.preprocess)
        | {"size": model.visual.image_size}
    )
    transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
    pictures = image_spec(asdict(preprocess), where)
    tokens = convert(own_tokenizer)
    length = own_tokenizer.context_length
    text_spec = tokenizer.spec_of(
        tokens.tokenizer_json,
        vocabulary=_text_of(model).vocab_size,
        context_length=length,
        pad_id=tokens.pad_id,
        end_id=tokens.end_id,
        cleaning=tokens.cleaning,
    )
    from clipdex_export import towers
    from clipdex_export.families.open_clip_networks import image_network, layers_of

    config = open_clip.get_model_config(found.name)
    dim = int(config["embed_dim"])
    bias = getattr(model, "logit_bias", None)
    return Checkpoint(
        family=OPEN_CLIP.name,
        source=source,
        revision=found.revision,
        image=ImageHalf(
            embedding_dim=dim,
            tower=towers.ImageTower(image_network(model.visual), pictures),
            layers=layers_of(getattr(model.visual, "transformer", None)),
            spec=pictures,
            reference=_Images(model, transform),
        ),
        text=TextHalf(
            embedding_dim=dim,
            tower=_text_tower(model, tokens, length),
            layers=_layers_of_text(model),
            spec=text_spec,
            tokenizer_json=tokens.tokenizer_json,
            reference=_Texts(model, own_tokenizer),
        ),
        logit_scale=model.logit_scale.exp().item(),
        logit_bias=0.0 if bias is None else bias.item(),
        weights_sha256=weights_sha256(
            model.state_dict(), open_clip_model(config, getattr(_text_of(model), "config", None))
        ),
        random_weights=fit.made_up,
        unused_weights=fit.unused,
    )


def _build(open_clip: ModuleType, found: _Found, where: object) -> tuple[Any, Any]:
    """Build the model, without its weights, and the tokenizer."""
    import torch

    try:
        with quiet(), no_questions(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = open_clip.create_model(found.name, load_weights=False, pretrained_text=False)
            # This overrides a config that asks to run its own code. OpenCLIP's own tokenizer lacks the option.
            text = open_clip.get_model_config(found.name)["text_cfg"]
            options = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
            return model.float().eval(), open_clip.get_tokenizer(found.name, **options)
    # A text tower or tokenizer from another hub repository is downloaded here, and any wrong field raises.
    except Exception as exc:
        raise CheckpointError(f"{where}: OpenCLIP cannot build the model: {one_line(exc)}") from exc


def _fill(model: Any, found: _Found, where: object, allow_random: bool) -> Fit:
    from open_clip import convert as conversions

    if found.weights is None:
        if not allow_random:
            raise CheckpointError(f"{where} has no weights: expected {_WEIGHT_FILES[0]} or {_WEIGHT_FILES[2]}")
        return Fit(missing=tuple(sorted(model.state_dict())))
    state = conversions.convert_state_dict(model, read_state(found.weights))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        from open_clip.model import convert_to_custom_text_state_dict

        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # a scalar, or an array of one value
        if name in state and getattr(model, name, None) is not None:
            state[name] = state[name].reshape(getattr(model, name).shape)
    return check_fit(found.weights, adopt(model, state), allow_random=allow_random)


def _text_of(model: Any) -> Any:
    """Return the module with the text tower's parts; in OpenCLIP's older class that is the model itself."""
    return getattr(model, "text", model)


def _layers_of_text(model: Any) -> Any:
    """Return the layers that fusion must find in the text tower; None if it has another structure."""
    from clipdex_export.families.open_clip_networks import layers_of

    text = _text_of(model)
    known = hasattr(text, "token_embedding") and getattr(text, "cls_emb", None) is None
    return layers_of(text.transformer) if known else None


def _text_tower(model: Any, tokens: OpenClipTokens, length: int) -> Any:
    from clipdex_export import towers
    from clipdex_export.families import open_clip_networks as networks

    text = _text_of(model)
    if hasattr(text, "pooler"):
        return _hugging_face_tower(text, length)
    if getattr(text, "use_pad_mask", False):
        raise CheckpointError("the text tower hides padding by use_pad_mask, which clipdex cannot serve")
    if getattr(text, "cls_emb", None) is not None:
        return towers.TextTower(
            networks.WithClassToken(text),
            networks.text_head(text.text_projection),
            length=length,
            vocabulary=text.vocab_size,
            mask="none",
            pooling="network",
        )
    older = text is model
    pool = model.text_pool_type if older else text.pool_type
    poolings: dict[str, towers.Pooling] = {"argmax": "largest", "eos": "end", "first": "first", "last": "last"}
    if pool not in poolings:
        raise CheckpointError(f"the text tower pools by {pool!r}; clipdex knows {', '.join(poolings)}")
    return towers.TextTower(
        networks.Hidden(text),
        networks.text_head(text.text_projection),
        length=length,
        vocabulary=text.vocab_size,
        mask="none" if text.attn_mask is None else "causal",
        pooling=poolings[pool],
        end_id=(model.text_eos_id if older else text.eos_id) if pool == "eos" else tokens.end_id,
    )


def _hugging_face_tower(text: Any, length: int) -> Any:
    """Make the tower for a text model of transformers, such as XLM-R, with padding masked."""
    from clipdex_export import towers
    from clipdex_export.families.hugging_face import LastHidden

    pooler = type(text.pooler).__name__
    by_class: dict[str, towers.Pooling] = {"MeanPooler": "mean", "ClsLastHiddenStatePooler": "first"}
    if pooler == "ClsPooler" and getattr(text.transformer, "pooler", None) is None:
        by_class["ClsPooler"] = "first"
    if pooler not in by_class:
        raise CheckpointError(f"the text tower pools by {pooler}; clipdex knows {', '.join(by_class)}")
    # For the exported graph; OpenCLIP itself does not choose eager attention.
    text.transformer.set_attn_implementation("eager")
    return towers.TextTower(
        LastHidden(text.transformer),
        text.proj,
        length=length,
        vocabulary=text.vocab_size,
        mask="padding",
        pooling=by_class[pooler],
        pad_id=text.config.pad_token_id,
    )


class _Images:
    """OpenCLIP's own transform and model, as an `ImageReference`."""

    def __init__(self, model: Any, transform: Any) -> None:
        self.model = model
        self.transform = transform

    def pixels(self, images: Sequence[Any]) -> npt.NDArray[np.uint8]:
        """N pictures -> uint8 (N, S, S, 3), by the transform but for its last steps, tensor and normalisation."""
        steps = self.transform.transforms[:-2]
        rows = []
        for image in self._given(images):
            for step in steps:
                image = step(image)
            rows.append(np.asarray(image))
        return np.stack(rows)

    def vectors(self, images: Sequence[Any]) -> Vectors:
        """N pictures -> float32 (N, D)."""
        import torch

        with torch.inference_mode():
            batch = torch.stack([self.transform(image) for image in self._given(images)])
            vectors: Vectors = self.model.encode_image(batch).numpy()
        return vectors

    def _given(self, images: Sequence[Any]) -> list[Any]:
        """Convert to RGB: OpenCLIP resizes before it converts, which in palettes picks single pixels."""
        return [image.convert("RGB") for image in images]


class _Texts:
    """OpenCLIP's own tokenizer and model, as a `TextReference`."""

    def __init__(self, model: Any, own_tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = own_tokenizer

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """N texts -> int32 (N, L)."""
        ids: npt.NDArray[np.int32] = self.tokenizer(list(texts)).numpy().astype(np.int32)
        return ids

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D)."""
        import torch

        with torch.inference_mode():
            vectors: Vectors = self.model.encode_text(self.tokenizer(list(texts))).numpy()
        return vectors


def _import_open_clip() -> ModuleType:
    # OpenCLIP's tokenizer sets this for the whole process.
    parallelism = os.environ.get("TOKENIZERS_PARALLELISM")
    with needs("open_clip", "open_clip_torch", "open-clip", "exporting OpenCLIP's checkpoints"), quiet():
        import open_clip
    if parallelism is None:
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
    module: ModuleType = open_clip
    return module


OPEN_CLIP = Family(
    name="open-clip",
    title="OpenCLIP",
    examples="`open_clip:ViT-B-32/laion2b_s34b_b79k`, `open_clip:RN50-quickgelu/path/to/weights.bin`, "
    "`timm/vit_base_patch32_clip_224.openai`: ViT, ResNet and timm towers, CoCa, XLM-R texts",
    marks="open_clip_config.json",
    picture="as its preprocess_cfg says: shorter side and crop, squash, or longer side and black",
    text="its own BPE or a tokenizer of transformers, after its cleaning; causal, none, or padding hidden",
    fused="towers of plain transformers; not ResNet, timm or CoCa's texts",
    recognises=lambda directory: (directory / CONFIG).is_file(),
    weights=("open_clip*.safetensors", "open_clip*.bin"),
    load=load_open_clip,
)
