"""Conversion of a float32 tower to half precision: weights and arithmetic of the network only.

What the tower itself computes stays float32: mean and std, the search for a text's end, and the L2 norm. So do
sums of squares inside the network: LayerNormalization computes them in float32 anyway (its stash_type), and an
RMSNorm, which ONNX has only as separate nodes, stays float32 from its square to the next product. So do floats
that are converted to integers, such as T5's logarithms of distances: rounded, they would give another position.
Inputs and output are unchanged.

ONNX Runtime honours LayerNormalization's stash_type. For TensorRT, which since version 11 computes exactly in the
types that a file states, its input and weights stay float32 too.

`as_rounded` makes a copy for the gate, since onnxruntime's CPU computes float16 in float32, without rounding.

onnxruntime's own converter is not used: it isolates every excluded node by two casts through float16, which rounds
what should stay exact, and leaves the nodes unsorted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipdex.base.errors import ExportError
from clipdex_export.onnx_files import save

if TYPE_CHECKING:
    import onnx

__all__ = ["LARGEST", "as_rounded", "to_float16"]

# The exporter names a node after its module: /vision_model/…/MatMul. With one slash it is the tower's own.
_TOWERS_OWN = re.compile(r"/[^/]+")
# These move values without computing, in whatever precision they get.
_MOVES = {"Flatten", "Gather", "Reshape", "Transpose", "Slice", "Unsqueeze", "Squeeze", "Identity", "Shape"}
_PRODUCTS = {"MatMul", "Gemm", "Conv"}
_SQUARES, _SUMS = {"Pow", "Mul"}, {"ReduceMean", "ReduceSum"}
_GIVE_NO_FLOATS = {"Shape", "ArgMax", "NonZero", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
LARGEST = float(np.finfo(np.float16).max)


def to_float16(path: Path, *, wide_norms: bool = False) -> None:
    """Rewrite the ONNX file of a tower in float16, in place. wide_norms: LayerNormalization stays float32.

    Raises:
        ExportError: the graph is not one of our towers: nothing in it can be converted.
    """
    import onnx

    # Types are inferred without the weights: the inference has a limit of 2 GiB.
    bare = onnx.load(path, load_external_data=False)
    _move_transposes_behind_products(bare.graph)
    inferred = onnx.shape_inference.infer_shapes(bare)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    model = onnx.load(path)
    _move_transposes_behind_products(model.graph)
    _Halving(model.graph, types, wide_norms=wide_norms).run()
    for suffix in ("", ".data"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    save(model, path)


def _move_transposes_behind_products(graph: onnx.GraphProto) -> None:
    """Multiply by a matrix of weights before axes are exchanged that it does not touch: the result is the same.

    ONNX Runtime 1.32 crashes when it loads a Cast, a Transpose and a product in float16, one after the other, as
    PyTorch's packed attention has them.
    """
    from onnx import helper

    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    makers = {output: node for node in graph.node for output in node.output}
    nodes: list[Any] = []
    for node in list(graph.node):
        before = makers.get(node.input[0]) if node.op_type == "MatMul" and node.input[1] in weights else None
        order = list(before.attribute[0].ints) if before is not None and before.op_type == "Transpose" else []
        if before is None or not order or order[-1] != len(order) - 1:
            nodes.append(node)
            continue
        product = f"{node.output[0]}/before"
        nodes.append(helper.make_node("MatMul", [before.input[0], node.input[1]], [product], name=node.name))
        nodes.append(
            helper.make_node("Transpose", [product], [node.output[0]], name=f"{before.name}/behind", perm=order)
        )
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    del graph.node[:]
    graph.node.extend(node for node in nodes if node.op_type != "Transpose" or node.output[0] in used)


def as_rounded(path: Path) -> onnx.ModelProto | None:
    """Make a copy of a tower that rounds wherever a GPU would, on any machine; None if nothing in it is float16.

    It is for sessions without optimization. onnxruntime's CPU has no float16 arithmetic: it computes between two
    casts, and removes those between neighbours even without optimization, as well as those around a single node
    that it supports in float16. Only between two such nodes is a tensor really float16: hence a pair of Identity
    after every node that computes. External weights stay where they are: the copy refers to them.
    """
    import onnx
    from onnx import TensorProto

    model = onnx.load(path, load_external_data=False)
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    rounded: dict[str, str] = {}
    nodes: list[Any] = []
    for node in list(model.graph.node):
        computes = node.op_type not in _MOVES | {"Constant"}
        if _gives_half(node, half):
            half.update(output for output in node.output if output)
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        for output in node.output if computes else ():
            if output in half:
                rounded[output] = f"{output}/rounded"
                nodes.append(onnx.helper.make_node("Identity", [output], [f"{output}/half"]))
                nodes.append(onnx.helper.make_node("Identity", [f"{output}/half"], [rounded[output]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model if rounded else None


def _gives_half(node: Any, half: set[str]) -> bool:
    """Return whether a node's float outputs are float16, given the tensors known to be."""
    from onnx import TensorProto

    stated = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Cast":
        return bool(stated["to"].i == TensorProto.FLOAT16)
    if node.op_type in ("Constant", "ConstantOfShape"):
        return "value" in stated and bool(stated["value"].t.data_type == TensorProto.FLOAT16)
    return node.op_type not in _GIVE_NO_FLOATS and any(name in half for name in node.input)


class _Halving:
    """One conversion pass over the nodes, in order.

    types: ONNX's element type of every node output.
    half: names of tensors that are float16 now. wide: tensors of the network that stay float32.
    casts: (name, type) -> the name of that tensor in that type.
    """

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int], *, wide_norms: bool) -> None:
        self.graph = graph
        self.wide_norms = wide_norms
        self.types = types
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.halved_weights: dict[str, str] = {}
        self.half: set[str] = set()
        self.wide: set[str] = set()
        self.summed = {node.input[0] for node in graph.node if node.op_type in _SUMS}
        self.indexing = self._behind_integers()
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[Any] = []

    def run(self) -> None:
        """Convert the graph."""
        from onnx import TensorProto

        own_outputs = {output.name for output in self.graph.output}
        products = 0
        for node in list(self.graph.node):
            if node.op_type == "Constant":
                self._note_constant(node)
                continue
            own = bool(_TOWERS_OWN.fullmatch(node.name))
            follows = node.op_type in _MOVES and (own or node.input[0] not in self.weights)
            if own and not (follows and node.input[0] in self.half):
                self._feed(node, TensorProto.FLOAT)
            elif own or (follows and not self._is_float(node.input[0])):
                self.half.update(output for output in node.output if self._is_float(output))
            elif self.wide_norms and node.op_type == "LayerNormalization":
                self._feed(node, TensorProto.FLOAT)  # what follows is float16 again
            elif self._stays_wide(node):
                self._feed(node, TensorProto.FLOAT)
                self.wide.update(output for output in node.output if self._is_float(output))
            else:
                self._feed(node, TensorProto.FLOAT16)
                self._halve_attributes(node)
                self.half.update(output for output in node.output if self._is_float(output))
                products += node.op_type in _PRODUCTS
            if own_outputs & self.half & set(node.output):
                raise ExportError(f"the tower ends inside a module ({node.name}): its L2 norm would be float16")
            self.nodes.append(node)
        if not products:
            raise ExportError("the tower has no product inside a module: its nodes are not named as expected")
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_what_nobody_uses()
        del self.graph.value_info[:]  # it states the old types

    def _note_constant(self, node: Any) -> None:
        """Treat a constant as a weight: its consumer determines the type."""
        for attribute in node.attribute:
            if attribute.name == "value":
                self.weights[node.output[0]] = attribute.t
        self.nodes.append(node)

    def _behind_integers(self) -> set[str]:
        """Find the floats that are converted to integers, and those they are computed from, back to a product."""
        from onnx import TensorProto

        found: set[str] = set()
        for node in reversed(self.graph.node):
            to_integer = node.op_type == "Cast" and node.attribute[0].i in (TensorProto.INT64, TensorProto.INT32)
            if to_integer or (node.op_type not in _PRODUCTS and not found.isdisjoint(node.output)):
                found.update(filter(self._is_float, node.input))
        return found

    def _stays_wide(self, node: Any) -> bool:
        """Return whether float16's range is too small for a node of the network, or for one before it."""
        # Squares to be summed leave float16's range long before the root of their sum does.
        squares = node.op_type in _SQUARES and node.output[0] in self.summed
        follows = node.op_type not in _PRODUCTS and not self.wide.isdisjoint(node.input)
        return squares or follows or not self.indexing.isdisjoint(node.output)

    def _is_float(self, name: str) -> bool:
        from onnx import TensorProto

        if name in self.weights:
            return bool(self.weights[name].data_type == TensorProto.FLOAT)
        return bool(self.types.get(name) == TensorProto.FLOAT)

    def _feed(self, node: Any, wanted: int) -> None:
        """Convert a node's float inputs to the wanted type."""
        from onnx import TensorProto

        for position, name in enumerate(node.input):
            if not self._is_float(name):
                continue
            if name in self.weights:
                if wanted == TensorProto.FLOAT16:
                    node.input[position] = self._halved_weight(name)
            elif (name in self.half) != (wanted == TensorProto.FLOAT16):
                node.input[position] = self._cast(name, wanted)

    def _halved_weight(self, name: str) -> str:
        if name not in self.halved_weights:
            self.halved_weights[name] = f"{name}_float16"
            self.graph.initializer.append(_halved(self.weights[name], f"{name}_float16"))
        return self.halved_weights[name]

    def _cast(self, name: str, to: int) -> str:
        from onnx import TensorProto, helper

        if (name, to) not in self.casts:
            suffix = "float16" if to == TensorProto.FLOAT16 else "float32"
            output = f"{name}_{suffix}"
            self.nodes.append(helper.make_node("Cast", [name], [output], name=f"{output}/Cast", to=to))
            self.casts[name, to] = output
        return self.casts[name, to]

    def _halve_attributes(self, node: Any) -> None:
        """Convert the value of a ConstantOfShape, and the target type of a Cast."""
        from onnx import TensorProto

        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16

    def _drop_what_nobody_uses(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        nodes = [node for node in self.graph.node if node.op_type != "Constant" or node.output[0] in used]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _halved(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Convert a float32 tensor to float16; values out of range, such as a mask's lowest number, are clipped."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(values.clip(-LARGEST, LARGEST).astype(np.float16), name)
