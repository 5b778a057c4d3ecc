"""Writing and checking of ONNX files that every Triton since 24.10 can load."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = [
    "LARGEST_SINGLE_FILE",
    "MAX_IR_VERSION",
    "MAX_OPSET",
    "check_limits",
    "file_sha256",
    "save",
    "with_outputs",
    "write_tower",
]

# The ONNX Runtime of Triton 24.10 rejects anything newer.
MAX_OPSET = 21
MAX_IR_VERSION = 10

# 17 is the first opset with LayerNormalization as one node.
_OPSET = 17
# A protobuf file is limited to 2 GiB. Up to this size the weights stay inside; the rest is room for the graph.
LARGEST_SINGLE_FILE = (2 << 30) - (64 << 20)


def write_tower(
    tower: torch.nn.Module, example: torch.Tensor, path: Path, *, input_name: str, output_name: str
) -> None:
    """Trace `tower` on `example` and write it to `path`, with a dynamic batch and all other dimensions fixed.

    The weights of a tower above 2 GiB go to one external file, `model.onnx.data`.

    Raises:
        ExportError: the file exceeds the limits of the oldest supported Triton.
    """
    import torch

    tower.eval()
    with torch.inference_mode(), warnings.catch_warnings():
        # The TorchScript exporter is deprecated, but ONNX Runtime's fusion passes recognise the attention only in
        # its graphs; its other warnings are about shapes that are fixed here.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            tower,
            (example,),
            str(path),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_axes={input_name: {0: "batch"}, output_name: {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    _keep_large_weights_beside(path)
    check_limits(path)


def check_limits(path: Path, *, domains: Collection[str] = ("ai.onnx",)) -> None:
    """Raise ExportError if an ONNX file is invalid, too new for the oldest Triton, or uses other domains."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as exc:
        raise ExportError(f"{path.name} is not a valid ONNX file: {exc}") from exc
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    too_new = model.ir_version > MAX_IR_VERSION or opsets.get("ai.onnx", 0) > MAX_OPSET
    if too_new or not set(opsets) <= set(domains):
        raise ExportError(
            f"{path.name} has IR version {model.ir_version} and opsets {opsets}; Triton 24.10 reads up to IR "
            f"{MAX_IR_VERSION} and ai.onnx {MAX_OPSET}, and the only domains expected are {', '.join(domains)}"
        )


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with its weights inside if they fit in one file, else in one external file."""
    import onnx

    if model.ByteSize() <= LARGEST_SINGLE_FILE:
        onnx.save(model, path)
    else:
        onnx.save(
            model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=path.name + ".data"
        )


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Copy a model, with these tensors among its outputs."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return copy


def file_sha256(path: Path) -> str:
    """Return the sha256 of an ONNX file and its external weights, if any: 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    for file in (path, path.with_name(path.name + ".data")):
        if file.exists():
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    hashed.update(block)
    return hashed.hexdigest()


def _keep_large_weights_beside(path: Path) -> None:
    """Gather the weights in one external file, if the exporter wrote a file for each or one file near 2 GiB."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    scattered = _external_files(model)
    if not scattered and path.stat().st_size <= LARGEST_SINGLE_FILE:
        return
    model = onnx.load(path)
    path.unlink()
    for name in scattered:
        (path.parent / name).unlink()
    save(model, path)


def _external_files(model: Any) -> set[str]:
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
