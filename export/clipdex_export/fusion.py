"""Fusion of a tower's attention, GELU and LayerNorm to ONNX Runtime's own operators, for CUDA.

ONNX Runtime fuses most of them itself when it loads a model, but CLIP's attention needs its offline optimizer. The
file then has operators of com.microsoft, which only ONNX Runtime can read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from clipdex.base.errors import ExportError
from clipdex_export.onnx_files import save
from clipdex_export.quiet import unlogged

__all__ = ["fuse"]

# The tower's buffer, and the name by which the optimizer recognises an addend of the scores as a mask.
_MASK, _MASK_FOR_OPTIMIZER = "causal_mask", "attention_mask"


def fuse(path: Path, *, heads: int, width: int, layers: int) -> None:
    """Fuse the ONNX file of a tower, in place.

    Raises:
        ExportError: the optimizer did not recognise every layer's attention.
    """
    import onnx

    model = onnx.load(path)
    causal = _rename_mask(model.graph)
    with unlogged():
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_model

        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            before = Path(scratch) / path.name
            save(model, before)
            # opt_level 0: what a session optimizes at its start anyway is left to the session.
            optimized = optimize_model(
                str(before),
                model_type="clip",
                num_heads=heads,
                hidden_size=width,
                optimization_options=FusionOptions("clip"),
                opt_level=0,
            )
    fused = [node for node in optimized.model.graph.node if node.op_type == "Attention"]
    if len(fused) != layers:
        raise ExportError(
            f"{path.parent.parent.name}: ONNX Runtime's optimizer fused the attention of {len(fused)} of {layers} "
            "layers: this version does not recognise the exported graph; export for the target auto instead"
        )
    if causal:
        for node in fused:
            _make_causal(node)
        _drop(optimized.model.graph, _MASK_FOR_OPTIMIZER)
    if not any(entry.domain == "com.microsoft" for entry in optimized.model.opset_import):
        optimized.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    for suffix in ("", ".data"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    optimized.topological_sort()
    save(optimized.model, path)


def _rename_mask(graph: Any) -> bool:
    """Give the causal mask, if any, the name that the optimizer looks for -> whether there is one."""
    masks = [tensor for tensor in graph.initializer if tensor.name.startswith(_MASK)]
    for tensor in masks:
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[position] = _MASK_FOR_OPTIMIZER
        tensor.name = _MASK_FOR_OPTIMIZER
    return bool(masks)


def _make_causal(node: Any) -> None:
    """Replace the mask by the operator's own flag: fast attention kernels do not support an addend."""
    from onnx import helper

    inputs = ["" if name == _MASK_FOR_OPTIMIZER else name for name in node.input]
    while inputs and not inputs[-1]:
        inputs.pop()
    del node.input[:]
    node.input.extend(inputs)
    kept = [attribute for attribute in node.attribute if attribute.name != "unidirectional"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("unidirectional", 1)])


def _drop(graph: Any, initializer: str) -> None:
    kept = [tensor for tensor in graph.initializer if tensor.name != initializer]
    del graph.initializer[:]
    graph.initializer.extend(kept)
