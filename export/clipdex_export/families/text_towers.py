"""Separate text towers, trained to match the pictures of a CLIP: sentence-transformers' and M-CLIP's.

Both are a text model of transformers, the mean of its output over all tokens but padding, and a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import CheckpointError
from clipdex_export import tokenizer_json as tokenizer
from clipdex_export.checkpoint import TextHalf, Vectors
from clipdex_export.families.architecture import text_model
from clipdex_export.families.checkpoint_json import peek_json, read_json
from clipdex_export.families.hugging_face import load_model
from clipdex_export.hub import CheckpointFiles
from clipdex_export.quiet import quiet
from clipdex_export.weights import Fit, adopt, check_fit, one_line, read_state, weights_sha256

if TYPE_CHECKING:
    import torch

    from clipdex_export.towers import Pooling

__all__ = ["TEXT_TOWERS", "LoadedText", "TextFamily"]

# M-CLIP sets no limit of its own; a query is shorter than this.
_MCLIP_LENGTH = 128
# No tower reads as many tokens; transformers states more if it knows no limit.
_ENDLESS = 1_000_000
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "mean": "mean",
    "cls": "first",
}
_ACTIVATIONS = {"Identity", "Tanh"}
_WITH_WEIGHTS = {"Transformer", "Dense"}


@dataclass
class LoadedText:
    """A loaded text half, with the hash and the fit of its weights."""

    half: TextHalf
    weights_sha256: str
    fit: Fit


@dataclass(frozen=True)
class TextFamily:
    """A family of separate text towers; the fields are as in `Family`.

    weights: a directory without its weights -> for each part with weights, their patterns.
    """

    marks: str
    recognises: Callable[[Path], bool]
    weights: Callable[[Path], list[tuple[str, ...]]]
    load: Callable[[CheckpointFiles, bool], LoadedText]


def load_sentence_transformer(files: CheckpointFiles, allow_random: bool) -> LoadedText:
    """Load a directory with modules.json: Transformer, Pooling, and optionally Dense and Normalize."""
    from torch import nn

    directory = files.directory
    modules = [(kind, directory / path) for kind, path in _listed(directory)]
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise CheckpointError(
            f"{directory}: modules.json lists {', '.join(kinds)}; expected Transformer, Pooling, Dense, Normalize"
        )
    model, fit = _load_transformer(modules[0][1], allow_random)
    settings = peek_json(modules[0][1] / "sentence_bert_config.json") or {}
    own = _load_tokenizer(modules[0][1])
    if settings.get("max_seq_length") is not None:
        length = _number(settings, "max_seq_length", modules[0][1] / "sentence_bert_config.json")
    else:
        length = min(own.model_max_length, getattr(model.config, "max_position_embeddings", _ENDLESS))
        if length >= _ENDLESS:
            raise CheckpointError(
                f"{directory} states no maximum text length: set max_seq_length in sentence_bert_config.json"
            )
    head = nn.Sequential()
    state = {f"transformer.{name}": weight for name, weight in model.state_dict().items()}
    for kind, path in modules[2:]:
        if kind == "Dense":
            layer, missing = _dense(path, allow_random)
            head.append(layer)
            fit = Fit((*fit.missing, *missing.missing), fit.mismatched, (*fit.unused, *missing.unused))
    state |= {f"head.{name}": weight for name, weight in head.state_dict().items()}
    pooling = _pooling(modules[1][1])
    half = _half(
        model,
        own,
        head.eval(),
        pooling=pooling,
        length=length,
        cleaning="lower" if settings.get("do_lower_case") else "none",
        where=directory,
    )
    return LoadedText(half, weights_sha256(state, _architecture(model, pooling)), fit)


def load_mclip(files: CheckpointFiles, allow_random: bool) -> LoadedText:
    """Load a directory like M-CLIP's: config.json names the base model; the weights include a matrix."""
    import torch
    from torch import nn

    directory = files.directory
    config = read_json(directory / "config.json")
    base, dims = str(config["modelBase"]), _number(config, "numDims", directory / "config.json")
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            from transformers import AutoConfig, AutoModel

            torch.manual_seed(0)
            shape = AutoConfig.from_pretrained(base, attn_implementation="eager", trust_remote_code=False)
            model = AutoModel.from_config(shape, trust_remote_code=False).float().eval()
            head = nn.Linear(model.config.hidden_size, dims).eval()
    except Exception as exc:
        raise CheckpointError(f"{directory}: its base model {base} cannot be built: {one_line(exc)}") from exc
    model.pooler = None
    whole = nn.ModuleDict({"transformer": model, "LinearTransformation": head})
    names = ("model.safetensors", "pytorch_model.bin")
    weights = next((directory / name for name in names if (directory / name).exists()), None)
    if weights is None:
        if not allow_random:
            raise CheckpointError(f"{directory} has no weights: expected {names[0]} or {names[1]}")
        fit = Fit(missing=tuple(sorted(whole.state_dict())))
    else:
        state = {n: t for n, t in read_state(weights).items() if not n.startswith("transformer.pooler.")}
        fit = check_fit(weights, adopt(whole, state), allow_random=allow_random)
    own = _load_tokenizer(directory)
    half = _half(model, own, head, pooling="mean", length=_MCLIP_LENGTH, cleaning="none", where=directory)
    return LoadedText(half, weights_sha256(whole.state_dict(), _architecture(model, "mean")), fit)


def _architecture(model: Any, pooling: Pooling) -> dict[str, Any]:
    """Return the fields for the fingerprint; a Dense's activation already shows in the names of the weights."""
    return {"text": text_model(model.config) | {"mask": "padding", "pooling": pooling}}


def _half(
    model: Any, own: Any, head: torch.nn.Module, *, pooling: Pooling, length: int, cleaning: str, where: Path
) -> TextHalf:
    from clipdex_export import towers
    from clipdex_export.families.hugging_face import LastHidden

    end_id = own.eos_token_id if own.eos_token_id is not None else own.sep_token_id
    if end_id is None or own.pad_token_id is None:
        raise CheckpointError(f"{where}: the tokenizer has no end token or no pad token")
    data = tokenizer.tokenizer_json(own)
    spec = tokenizer.spec_of(
        data,
        vocabulary=model.config.vocab_size,
        context_length=length,
        pad_id=own.pad_token_id,
        end_id=end_id,
        cleaning=cleaning,
    )
    tower = towers.TextTower(
        LastHidden(model),
        head,
        length=length,
        vocabulary=model.config.vocab_size,
        mask="padding",
        pooling=pooling,
        pad_id=own.pad_token_id,
    )
    weights = [weight for weight in head.parameters() if weight.ndim == 2]
    return TextHalf(
        embedding_dim=weights[-1].shape[0] if weights else model.config.hidden_size,
        tower=tower,
        layers=None,
        spec=spec,
        tokenizer_json=data,
        reference=_Reference(model, own, head, pooling, length, lower=cleaning == "lower"),
    )


class _Reference:
    """The tokenizer and the model with the tokenizer's mask, in the published arithmetic, as a `TextReference`."""

    def __init__(
        self, model: Any, own: Any, head: torch.nn.Module, pooling: Pooling, length: int, *, lower: bool
    ) -> None:
        self.model, self.tokenizer, self.head = model, own, head
        self.pooling, self.length, self.lower = pooling, length, lower

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """N texts -> int32 (N, L)."""
        ids: npt.NDArray[np.int32] = self._encoded(texts, "max_length")["input_ids"].numpy().astype(np.int32)
        return ids

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D)."""
        import torch

        with quiet(), torch.inference_mode():
            encoded = self._encoded(texts, "longest")
            hidden = self.model(**encoded).last_hidden_state
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            vectors: Vectors = self.head(mean if self.pooling == "mean" else hidden[:, 0]).numpy()
        return vectors

    def _encoded(self, texts: Sequence[str], padding: str) -> Any:
        given = [text.lower() for text in texts] if self.lower else list(texts)
        return self.tokenizer(given, padding=padding, truncation=True, max_length=self.length, return_tensors="pt")


def _listed(directory: Path) -> list[tuple[str, str]]:
    """List (kind, path inside) of each module in modules.json, in order."""
    listed = peek_json(directory / "modules.json")
    try:
        modules = [(entry["type"].rpartition(".")[2], PurePosixPath(entry["path"])) for entry in listed]
    except (TypeError, KeyError, AttributeError) as exc:
        raise CheckpointError(f"{directory / 'modules.json'} is not a list of modules") from exc
    for _, path in modules:
        if path.is_absolute() or ".." in path.parts:
            where = directory / "modules.json"
            raise CheckpointError(f"{where}: the path {str(path)!r} leads outside the directory")
    return [(kind, path.as_posix()) for kind, path in modules]


def _weights_of(path: str) -> tuple[str, ...]:
    """Return patterns of the weights in a part's directory, for the hub."""
    inside = "" if path in ("", ".") else f"{path}/"
    return f"{inside}model*.safetensors", f"{inside}pytorch_model*.bin"


def _number(settings: Mapping[str, Any], name: str, where: Path) -> int:
    """Return a field that must be a whole number above 0."""
    found = settings.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise CheckpointError(f"{where}: {name} is {found!r}; expected a whole number above 0")
    return found


def _load_transformer(directory: Path, allow_random: bool) -> tuple[Any, Fit]:
    from transformers import AutoConfig, AutoModel

    class Built:
        """AutoModel with the interface of a model class: it makes a model from a config by another method."""

        from_pretrained = AutoModel.from_pretrained

        def __new__(cls, config: Any) -> Any:
            return AutoModel.from_config(config, trust_remote_code=False)

    model, fit = load_model(directory, AutoConfig, Built, allow_random, unread=("pooler.",))
    model.pooler = None
    return model, fit


def _load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            own = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as exc:
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {one_line(exc)}") from exc
    if getattr(own, "backend_tokenizer", None) is None:
        raise CheckpointError(f"{directory}: a {type(own).__name__} cannot be written as a tokenizer.json")
    if own.padding_side != "right":
        raise CheckpointError(f"{directory}: the tokenizer pads on the {own.padding_side}; expected the right")
    return own


def _pooling(directory: Path) -> Pooling:
    """Read the pooling: older files have a flag for each kind, newer ones its name."""
    settings = read_json(directory / "config.json")
    named = settings.get("pooling_mode")
    chosen = (
        [named] if named else [key for key, on in settings.items() if on is True and key.startswith("pooling_")]
    )
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise CheckpointError(f"{directory}: pools by {', '.join(map(str, chosen))}; expected mean or cls")
    return _POOLINGS[chosen[0]]


def _dense(directory: Path, allow_random: bool) -> tuple[torch.nn.Module, Fit]:
    from torch import nn

    settings = read_json(directory / "config.json")
    activation = str(settings.get("activation_function", "Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise CheckpointError(f"{directory}: activates by {activation}; expected {' or '.join(_ACTIVATIONS)}")
    width, dims = (_number(settings, name, directory / "config.json") for name in ("in_features", "out_features"))
    linear = nn.Linear(width, dims, bias=bool(settings.get("bias", True)))
    path = next(
        (p for p in (directory / "model.safetensors", directory / "pytorch_model.bin") if p.exists()), None
    )
    if path is None:
        raise CheckpointError(f"{directory} has no weights: expected model.safetensors or pytorch_model.bin")
    state = {name.removeprefix("linear."): tensor for name, tensor in read_state(path).items()}
    fit = check_fit(path, adopt(linear, state), allow_random=allow_random)
    return nn.Sequential(linear, nn.Tanh()) if activation == "Tanh" else linear, fit


def _is_sentence_transformer(directory: Path) -> bool:
    listed = peek_json(directory / "modules.json")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return False
    return str(listed[0].get("type", "")).endswith(".Transformer")


def _is_mclip(directory: Path) -> bool:
    config = peek_json(directory / "config.json")
    return isinstance(config, dict) and "modelBase" in config


TEXT_TOWERS: tuple[TextFamily, ...] = (
    TextFamily(
        marks="modules.json of sentence-transformers that begins with a Transformer",
        recognises=_is_sentence_transformer,
        weights=lambda directory: [
            _weights_of(path) for kind, path in _listed(directory) if kind in _WITH_WEIGHTS
        ],
        load=load_sentence_transformer,
    ),
    TextFamily(
        marks='config.json with "modelBase", as M-CLIP writes it',
        recognises=_is_mclip,
        weights=lambda directory: [_weights_of("")],
        load=load_mclip,
    ),
)
