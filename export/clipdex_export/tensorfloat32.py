"""What TensorFloat-32 does to a tower, on any machine: for the gate.

An export in tf32 is the float32 file; a GPU of NVIDIA's Ampere generation or later rounds the factors of its
products to 11 significant bits, in float32's range, and sums in float32. What the gate finds must not depend on
its machine, so it tests a copy that rounds the factors: of fused attention, those of its first product.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["as_tensorfloat32"]

# Which inputs of a product are its factors: the others are added.
_FACTORS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (0, 1), "Attention": (0, 1)}
_SPLIT = 2.0**13 + 1.0  # takes 13 of float32's 24 significant bits away (Veltkamp)


def as_tensorfloat32(path: Path) -> onnx.ModelProto:
    """Make a copy of a tower that rounds to TensorFloat-32. It is for sessions without optimization.

    External weights stay where they are: the copy refers to them.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path, load_external_data=False)
    nodes: list[Any] = []
    rounded: dict[str, str] = {}

    def round_off(name: str) -> str:
        """Add the nodes that round a tensor -> the rounded one's name."""
        if name not in rounded:
            scaled, rest, rounded[name] = (f"{name}/tf32/{part}" for part in ("scaled", "rest", "rounded"))
            nodes.append(helper.make_node("Mul", [name, "tf32/split"], [scaled]))
            nodes.append(helper.make_node("Sub", [scaled, name], [rest]))
            nodes.append(helper.make_node("Sub", [scaled, rest], [rounded[name]]))
        return rounded[name]

    for node in list(model.graph.node):
        for position in _FACTORS.get(node.op_type, ()):
            node.input[position] = round_off(node.input[position])
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(helper.make_tensor("tf32/split", TensorProto.FLOAT, [], [_SPLIT]))
    return model
