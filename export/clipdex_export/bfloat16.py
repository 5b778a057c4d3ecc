"""What bfloat16 arithmetic does to a tower, on any machine: for the gate.

An export in bf16 is the float32 file; OpenVINO multiplies in bfloat16 where the processor does so natively, and in
float32 elsewhere. What the gate finds must not depend on its machine. So it tests a copy that rounds to bfloat16
(8 significant bits) wherever OpenVINO may: every value up to the last product, and the products' weights. What
follows the last product, the L2 norm, stays float32, as in OpenVINO.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["as_bfloat16"]

_PRODUCTS = {"MatMul", "Gemm", "Conv"}
# Values that only move are rounded already; those of a quantized product are integers times a scale.
_NOT_ROUNDED = {
    "Constant", "Flatten", "Gather", "Reshape", "Transpose", "Slice", "Unsqueeze", "Squeeze", "Identity", "Concat",
    "Expand", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip


def as_bfloat16(path: Path) -> onnx.ModelProto:
    """Make a copy of a tower that rounds to bfloat16. It is for sessions without optimization.

    External weights stay where they are: the copy refers to them.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model)
    floats = {v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {output.name for output in model.graph.output}
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    before_a_product = _before_a_product(model.graph)
    nodes: list[Any] = []
    rounded: dict[str, str] = {}

    def round_off(name: str) -> str:
        """Add the nodes that round a tensor -> the rounded one's name."""
        if name not in rounded:
            short, rounded[name] = f"{name}/bfloat16", f"{name}/rounded"
            nodes.append(helper.make_node("Cast", [name], [short], to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [short], [rounded[name]], to=TensorProto.FLOAT))
        return rounded[name]

    for node in list(model.graph.node):
        product = node.op_type in _PRODUCTS
        for position, name in enumerate(node.input):
            if product and name in weights:
                node.input[position] = round_off(name)
            else:
                node.input[position] = rounded.get(name, name)
        nodes.append(node)
        for output in node.output:
            if output in floats and node.op_type not in _NOT_ROUNDED and (product or output in before_a_product):
                round_off(output)
    _keep_output_names(model.graph, nodes, rounded)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _before_a_product(graph: onnx.GraphProto) -> set[str]:
    """Find the tensors from which a product is computed, however far behind."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _PRODUCTS or not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def _keep_output_names(graph: onnx.GraphProto, nodes: list[Any], rounded: dict[str, str]) -> None:
    """Give the graph's outputs their names again, where a product gives one itself."""
    for output in graph.output:
        if output.name in rounded:
            for node in nodes:
                for names in (node.input, node.output):
                    for position, name in enumerate(names):
                        if name in (output.name, rounded[output.name]):
                            names[position] = f"{output.name}/exact" if name == output.name else output.name
