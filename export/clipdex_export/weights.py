"""Reading, checking and hashing of a checkpoint's weights. None is random unless that was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import CheckpointError
from clipdex_export.pointers import refuse_pointers

if TYPE_CHECKING:
    import torch

__all__ = ["Fit", "adopt", "check_fit", "one_line", "read_state", "weights_sha256"]

# Buffers that older releases of transformers saved like weights.
_NOT_WEIGHTS = ("position_ids",)


@dataclass(frozen=True)
class Fit:
    """The fit of a file's weights to a model.

    missing: names that the file lacks. mismatched: "NAME ([found], expected [wanted])". unused: names that the
    model lacks.
    """

    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def made_up(self) -> tuple[str, ...]:
        """Names of the weights that did not come from the file."""
        return tuple(sorted({*self.missing, *(text.split(" (")[0] for text in self.mismatched)}))


def check_fit(where: object, fit: Fit, *, allow_random: bool) -> Fit:
    """Check a fit -> the fit, without buffers that are not weights.

    Raises:
        CheckpointError: weights are missing or have another shape, and `allow_random` is false.
    """
    fit = Fit(
        missing=tuple(sorted(name for name in fit.missing if not name.endswith(_NOT_WEIGHTS))),
        mismatched=tuple(sorted(fit.mismatched)),
        unused=tuple(sorted(name for name in fit.unused if not name.endswith(_NOT_WEIGHTS))),
    )
    if fit.mismatched and not allow_random:
        raise CheckpointError(
            f"{where}: weights do not have the shapes that config.json states: {_names(fit.mismatched)}"
        )
    if fit.missing and not allow_random:
        hint = f"; it has {_names(fit.unused)} instead" if fit.unused else ""
        raise CheckpointError(f"{where}: weights are missing: {_names(fit.missing)}{hint}")
    return fit


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a .safetensors file, or of a pickle that contains nothing but weights.

    Raises:
        CheckpointError: it cannot be read, or only by running code.
    """
    import torch
    from safetensors.torch import load_file

    refuse_pointers([path], "the weights")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    # Each format's reader raises its own kinds of errors.
    except Exception as exc:
        raise CheckpointError(f"{path} cannot be loaded as plain weights: {one_line(exc)}") from exc
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # as training scripts write it, with the optimizer's state
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise CheckpointError(f"{path} does not contain named weights")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def adopt(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> Fit:
    """Copy the weights whose names and shapes agree into a model -> the fit."""
    import torch

    own = model.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    with torch.no_grad():
        model.load_state_dict(fitting, strict=False)
    mismatched = [
        f"{name} ({list(tensor.shape)}, expected {list(own[name].shape)})"
        for name, tensor in state.items()
        if name in own and name not in fitting
    ]
    return Fit(
        missing=tuple(name for name in own if name not in state),
        mismatched=tuple(mismatched),
        unused=tuple(name for name in state if name not in own),
    )


def weights_sha256(state: Mapping[str, torch.Tensor], architecture: Mapping[str, Any]) -> str:
    """Hash the architecture and every weight's name, shape and little-endian float32 values, sorted by name.

    It covers the weights as loaded, so a checkpoint saved again in another file layout keeps its hash.

    Args:
        state: the weights.
        architecture: other settings that vectors depend on, such as activation (families/architecture.py).
    """
    import torch

    stated = json.dumps(architecture, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(f"{stated}\n".encode())
    for name in sorted(state):
        weight = state[name].detach().to(torch.float32).contiguous()
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(weight.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def one_line(exc: BaseException) -> str:
    """Return an error's message on one line, short enough to be part of a sentence."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    if "trust_remote_code" in text:  # transformers' advice is for its own callers
        return "it needs its own code, which clipdex never runs"
    return text if len(text) <= 300 else text[:297] + "…"


def _names(names: Sequence[str] | Collection[str], shown: int = 4) -> str:
    listed = list(names)
    rest = len(listed) - shown
    return ", ".join(listed[:shown]) + (f" and {rest} more" if rest > 0 else "")
