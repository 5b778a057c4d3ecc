"""Rewrites a float32 tower for half precision: weights and arithmetic of the network, nothing around it.

What the tower itself computes stays float32: mean and std, the search for a text's end, and the L2 norm. So do
sums of squares inside the network: LayerNormalization has them in float32 by itself (its stash_type), and an
RMSNorm, which ONNX knows only as its parts, is kept from its square to the next product. And so do floats on their
way to an integer, such as T5's logarithms of distances: rounded, they would name another place. Inputs and output
are as before.

LayerNormalization's stash_type is ONNX Runtime's to honour. For TensorRT, which since version 11 computes in the
types that a file states and in no others, its input and weights stay float32 too.

`as_rounded` makes a copy for the gate, since onnxruntime's CPU computes float16 in float32 and rounds nothing.

onnxruntime's own converter is not used: it cuts every kept node off by two casts through float16, which rounds
what was to be kept, and leaves the nodes out of order.
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

# The exporter names a node after the module it is in: /vision_model/…/MatMul. One slash: the tower's own.
_TOWERS_OWN = re.compile(r"/[^/]+")
# They move values and compute none: of whatever precision they are given.
_MOVES = {"Flatten", "Gather", "Reshape", "Transpose", "Slice", "Unsqueeze", "Squeeze", "Identity", "Shape"}
_PRODUCTS = {"MatMul", "Gemm", "Conv"}
_SQUARES, _SUMS = {"Pow", "Mul"}, {"ReduceMean", "ReduceSum"}
_GIVE_NO_FLOATS = {"Shape", "ArgMax", "NonZero", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}
LARGEST = float(np.finfo(np.float16).max)


def to_float16(path: Path, *, wide_norms: bool = False) -> None:
    """Rewrite the ONNX file of a tower in place. `wide_norms`: LayerNormalization takes and gives float32.

    Raises:
        ExportError: the graph is not one of our towers: nothing in it can be halved.
    """
    import onnx

    # Types without weights: the inference has a limit of 2 GiB.
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    model = onnx.load(path)
    _Halving(model.graph, types, wide_norms=wide_norms).run()
    for suffix in ("", ".data"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    save(model, path)


def as_rounded(path: Path) -> onnx.ModelProto | None:
    """A copy of a tower that rounds wherever a GPU would, on any machine; None if nothing in it is float16.

    It is for sessions that optimize nothing. onnxruntime's CPU has no float16 arithmetic: it computes between two
    casts, and removes those between neighbours, however little it optimizes, also those around a single node that
    it has in float16. Between two such nodes a tensor is one: hence a pair of Identity behind whatever computes.
    Weights beside the file stay there: the copy names them.
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
    """Whether a node's floats are float16: of these tensors it is known."""
    from onnx import TensorProto

    stated = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Cast":
        return bool(stated["to"].i == TensorProto.FLOAT16)
    if node.op_type in ("Constant", "ConstantOfShape"):
        return "value" in stated and bool(stated["value"].t.data_type == TensorProto.FLOAT16)
    return node.op_type not in _GIVE_NO_FLOATS and any(name in half for name in node.input)


class _Halving:
    """One pass over the nodes, in order.

    types: ONNX's element type of every tensor that a node gives.
    half: names of tensors that are float16 now; wide: those of the network that stay float32.
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
        """Halve the graph."""
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
                self._feed(node, TensorProto.FLOAT)  # and what follows is half again
            elif self._stays_wide(node):
                self._feed(node, TensorProto.FLOAT)
                self.wide.update(output for output in node.output if self._is_float(output))
            else:
                self._feed(node, TensorProto.FLOAT16)
                self._halve_attributes(node)
                self.half.update(output for output in node.output if self._is_float(output))
                products += node.op_type in _PRODUCTS
            if own_outputs & self.half & set(node.output):
                raise ExportError(f"the tower ends within a module ({node.name}): its L2 norm would be float16")
            self.nodes.append(node)
        if not products:
            raise ExportError("the tower has no product inside a module: its nodes are not named as expected")
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._drop_what_nobody_uses()
        del self.graph.value_info[:]  # it states the types of before

    def _note_constant(self, node: Any) -> None:
        """A constant is a weight that has a node: whoever reads it says in which type."""
        for attribute in node.attribute:
            if attribute.name == "value":
                self.weights[node.output[0]] = attribute.t
        self.nodes.append(node)

    def _behind_integers(self) -> set[str]:
        """The floats that become integers, and those that these are computed from, up to the next product."""
        from onnx import TensorProto

        found: set[str] = set()
        for node in reversed(self.graph.node):
            to_integer = node.op_type == "Cast" and node.attribute[0].i in (TensorProto.INT64, TensorProto.INT32)
            if to_integer or (node.op_type not in _PRODUCTS and not found.isdisjoint(node.output)):
                found.update(filter(self._is_float, node.input))
        return found

    def _stays_wide(self, node: Any) -> bool:
        """Whether a node of the network is one of the few that float16 is too small for, or follows one."""
        # Squares that are to be summed leave its range long before their root does.
        squares = node.op_type in _SQUARES and node.output[0] in self.summed
        follows = node.op_type not in _PRODUCTS and not self.wide.isdisjoint(node.input)
        return squares or follows or not self.indexing.isdisjoint(node.output)

    def _is_float(self, name: str) -> bool:
        from onnx import TensorProto

        if name in self.weights:
            return bool(self.weights[name].data_type == TensorProto.FLOAT)
        return bool(self.types.get(name) == TensorProto.FLOAT)

    def _feed(self, node: Any, wanted: int) -> None:
        """Give a node its float inputs in the wanted type."""
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
        """What a ConstantOfShape gives, and a Cast's goal."""
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
    """A float32 tensor as float16; what is beyond float16, as a mask's lowest number, becomes its bound."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(values.clip(-LARGEST, LARGEST).astype(np.float16), name)
