"""Following the batch through a graph that was traced for one row, and rewriting each node for any number of rows.

Every tensor that depends on the batch has it at one place: an axis of its own, or the outer or inner factor of
another axis (PyTorch's attention works on (L, B·heads, width) and (L·B, width)). At B = 1 that place does not
show; but a Reshape keeps the order in memory, so the batch stays behind the same number of elements. Constants
that meet it, such as the class token, are expanded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["Freeing", "Place"]

# Each gives a tensor of the same shape as its first input.
_ALIKE = {
    "Cast", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Neg", "Exp", "Identity", "Clip", "Gelu", "Reciprocal",
    "Not", "Abs", "LayerNormalization", "Softmax", "CumSum", "Sin", "Cos", "IsNaN", "Log", "Floor",
}  # fmt: skip
_BROADCAST = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Where", "Less", "Greater", "GreaterOrEqual", "And",
    "Or", "LessOrEqual", "Mod", "PRelu",
}  # fmt: skip
_INT64 = 7  # of ONNX's element types
_REDUCE = {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax"}


@dataclass(frozen=True)
class Place:
    """The place of the batch in a tensor: an axis, and whether it is that axis or its outer or inner factor."""

    axis: int
    part: Literal["own", "outer", "inner"] = "own"


class _Unknown(Exception):
    """The batch cannot be followed through a node."""


class Freeing:
    """One pass over the nodes, in order. places: of the tensors that depend on the batch."""

    def __init__(
        self, model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], inputs: Sequence[str], *, last: bool
    ) -> None:
        self.last = last
        self.graph = model.graph
        self.opset = model.opset_import[0].version
        self.shapes = shapes
        self.places = dict.fromkeys(inputs, Place(0))
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[Any] = []
        self.made = 0

    def run(self) -> None:
        """Follow the batch through the graph."""
        rules: dict[str, Callable[[Any], None]] = {
            "MatMul": self._matmul,
            "Gemm": self._first_axis,
            "Conv": self._first_axis,
            "AveragePool": self._first_axis,
            "MaxPool": self._first_axis,
            "GlobalAveragePool": self._first_axis,
            "BatchNormalization": self._first_axis,
            "Transpose": self._transpose,
            "Reshape": self._reshape,
            "Concat": self._concat,
            "Gather": self._gather,
            "GatherND": self._gather_nd,
            "GatherElements": self._gather_elements,
            "Flatten": self._reshape,
            "Unsqueeze": self._unsqueeze,
            "Squeeze": self._squeeze,
            "Split": self._split,
            "Slice": self._slice,
            "Expand": self._expand,
            "Shape": self._constant,
        }
        rules |= dict.fromkeys(_ALIKE, self._alike) | dict.fromkeys(_BROADCAST, self._broadcast)
        rules |= dict.fromkeys(_REDUCE, self._reduce)
        for node in list(self.graph.node):
            if any(name in self.places for name in node.input):
                if node.op_type not in rules:
                    raise _Unknown(node.op_type)
                rules[node.op_type](node)
            self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def _set(self, node: Any, place: Place) -> None:
        for output in node.output:
            if output:
                self.places[output] = place

    def _constant(self, node: Any) -> None:
        """Leave a Shape as it is: what is computed from it follows the batch anyway."""

    def _alike(self, node: Any) -> None:
        place = self._only(node)
        if node.op_type in ("Softmax", "CumSum", "LayerNormalization"):
            rank = len(self.shapes[node.input[0]])
            axis = _attribute(node, "axis", -1)
            if node.op_type == "CumSum":
                axis = int(self._value(node.input[1]))
            axis %= rank
            across = place.axis >= axis if node.op_type == "LayerNormalization" else place.axis == axis
            if across:
                raise _Unknown(node.op_type)
        self._set(node, place)

    def _expand(self, node: Any) -> None:
        place = self._only(node)
        given, rank = self.shapes[node.input[0]], len(self.shapes[node.output[0]])
        axis = place.axis + rank - len(given)
        if node.input[0] not in self.places or self.shapes[node.output[0]][axis] != given[place.axis]:
            raise _Unknown("Expand")
        self._set(node, Place(axis, place.part))

    def _only(self, node: Any) -> Place:
        found = {self.places[name] for name in node.input if name in self.places}
        if len(found) != 1:
            raise _Unknown(node.op_type)
        return found.pop()

    def _broadcast(self, node: Any) -> None:
        rank = len(self.shapes[node.output[0]])
        found = set()
        for name in node.input:
            if name in self.places:
                place = self.places[name]
                found.add(Place(place.axis + rank - len(self.shapes[name]), place.part))
        if len(found) != 1:
            raise _Unknown(node.op_type)
        (place,) = found
        model = next(name for name in node.input if name in self.places)
        for position, name in enumerate(node.input):
            if name and name not in self.places:
                axis = place.axis - rank + len(self.shapes[name])
                if axis >= 0 and self.shapes[name][axis] != 1:
                    node.input[position] = self._repeated(name, axis, model)
        self._set(node, place)

    def _matmul(self, node: Any) -> None:
        left, right = node.input
        ranks = len(self.shapes[left]), len(self.shapes[right])
        rank = max(ranks)
        found = set()
        for name, own in zip((left, right), ranks, strict=True):
            if name in self.places:
                place = self.places[name]
                contracted = own - 1 if name == left else own - 2
                if place.axis == contracted or (name == right and place.axis == own - 1):
                    raise _Unknown("MatMul")
                found.add(Place(place.axis + rank - own, place.part))
        if len(found) != 1 or rank < 2:
            raise _Unknown("MatMul")
        (place,) = found
        other, model = (right, left) if left in self.places else (left, right)
        axis = place.axis - rank + len(self.shapes[other])
        if other not in self.places and 0 <= axis < len(self.shapes[other]) - 2 and self.shapes[other][axis] != 1:
            node.input[0 if other == left else 1] = self._repeated(other, axis, model)
        self._set(node, place)

    def _repeated(self, constant: str, axis: int, model: str) -> str:
        """Repeat a constant for each row along an axis that has the batch as its outer factor."""
        place, length = self.places[model], self.shapes[constant][axis]
        if place.part != "outer" or self.shapes[model][place.axis] != length:
            raise _Unknown("a constant of its own for each row")
        both = [self._rows_of(model, place.axis), self._add_weight(np.array([length], np.int64))]
        rows = self._node("Div", both)
        ones = [
            self._add_weight(np.ones(count, np.int64)) for count in (axis, len(self.shapes[constant]) - axis - 1)
        ]
        return self._node("Tile", [constant, self._node("Concat", [ones[0], rows, ones[1]], axis=0)])

    def _first_axis(self, node: Any) -> None:
        place = self.places.get(node.input[0])
        if place is None or place.axis != 0 or any(name in self.places for name in node.input[1:]):
            raise _Unknown(node.op_type)
        if node.op_type == "Gemm" and _attribute(node, "transA", 0):
            raise _Unknown("Gemm")
        self._set(node, place)

    def _transpose(self, node: Any) -> None:
        place = self._only(node)
        order = list(_attribute(node, "perm", range(len(self.shapes[node.input[0]]))[::-1]))
        self._set(node, Place(order.index(place.axis), place.part))

    def _reshape(self, node: Any) -> None:
        place, given, wanted = self._only(node), self.shapes[node.input[0]], self.shapes[node.output[0]]
        before = math.prod(given[: place.axis + (place.part == "inner")])
        fitting = [axis for axis in range(len(wanted)) if math.prod(wanted[:axis]) == before]
        alone = [axis for axis in fitting if wanted[axis] == 1]
        if alone:
            new = Place(alone[-1 if self.last else 0])
        elif not fitting:
            raise _Unknown("Reshape")
        elif fitting[0] == len(wanted) - 1 and fitting[0] > 0:
            new = Place(fitting[0] - 1, "inner")  # the last axis is that of features
        else:
            new = Place(fitting[0], "outer")
        if len(node.input) > 1 and node.input[1] in self.weights:
            shape = list(wanted)
            shape[new.axis] = -1
            node.input[1] = self._add_weight(np.array(shape, np.int64))
        self._set(node, new)

    def _concat(self, node: Any) -> None:
        place = self._only(node)
        rank = len(self.shapes[node.output[0]])
        if place.part != "own" or _attribute(node, "axis", 0) % rank == place.axis:
            raise _Unknown("Concat")
        model = next(name for name in node.input if name in self.places)
        for position, name in enumerate(node.input):
            if name not in self.places:
                node.input[position] = self._for_each_row(name, model, place.axis, numbered=self._indexes(node))
        self._set(node, place)

    def _indexes(self, node: Any) -> bool:
        """Return whether a Concat makes the indices of a GatherND: a constant 0 in it is then the row's number."""
        return any(user.op_type == "GatherND" and user.input[1] == node.output[0] for user in self.graph.node)

    def _for_each_row(self, constant: str, model: str, axis: int, *, numbered: bool) -> str:
        """Repeat a constant along an axis, as often as another tensor is long there."""
        shape = self.shapes[constant]
        if shape[axis] != 1:
            raise _Unknown("Concat")
        rows = self._rows_of(model, axis)
        ones = [self._add_weight(np.array(part, np.int64)) for part in (shape[:axis], shape[axis + 1 :])]
        wanted = self._node("Concat", [ones[0], rows, ones[1]], axis=0)
        if not numbered:
            return self._node("Expand", [constant, wanted])
        if axis != 0 or math.prod(shape) != 1 or np.any(self._value(constant) != 0):
            raise _Unknown("GatherND")
        return self._node("Reshape", [self._numbers(rows), wanted])

    def _rows_of(self, name: str, axis: int) -> str:
        """Compute the length of a tensor along an axis: int64 (1,)."""
        return self._node("Gather", [self._node("Shape", [name]), self._add_weight(np.array([axis], np.int64))])

    def _numbers(self, rows: str) -> str:
        """Compute the row numbers 0, 1, …: int64 (B,)."""
        scalar = self._node("Reshape", [rows, self._add_weight(np.zeros(0, np.int64))])
        ends = [self._add_weight(np.array(end, np.int64)) for end in (0, 1)]
        return self._node("Range", [ends[0], scalar, ends[1]])

    def _gather(self, node: Any) -> None:
        data, indices = node.input
        axis = _attribute(node, "axis", 0) % len(self.shapes[data])
        if data in self.places and indices in self.places:
            return self._gather_of_each(node, axis)
        if indices in self.places:
            place = self.places[indices]
            return self._set(node, Place(place.axis + axis, place.part))
        place = self.places[data]
        if place.axis == axis:
            raise _Unknown("Gather")
        moved = len(self.shapes[indices]) - 1 if axis < place.axis else 0
        return self._set(node, Place(place.axis + moved, place.part))

    def _gather_of_each(self, node: Any, axis: int) -> None:
        """Choose one of the L places of each row, from those of all rows, (B·L, …): by B numbers below L."""
        data, indices = node.input
        each = self.shapes[data][0]
        if axis or self.places[data] != Place(0, "outer") or self.shapes[indices] != (1,):
            raise _Unknown("Gather")
        starts = self._node(
            "Mul", [self._numbers(self._rows_of(indices, 0)), self._add_weight(np.array(each, np.int64))]
        )
        node.input[1] = self._node("Add", [self._node("Cast", [indices], to=_INT64), starts])
        self._set(node, Place(0))

    def _gather_elements(self, node: Any) -> None:
        data, indices = node.input
        rank = len(self.shapes[data])
        axis = _attribute(node, "axis", 0) % rank
        place = self.places.get(indices)
        if place is None or place.part != "own" or place.axis == axis:
            raise _Unknown("GatherElements")
        if data not in self.places:
            node.input[0] = self._for_each_row(data, indices, place.axis, numbered=False)
        elif self.places[data] != place:
            raise _Unknown("GatherElements")
        self._set(node, place)

    def _gather_nd(self, node: Any) -> None:
        if {self.places.get(name) for name in node.input} != {Place(0)} or _attribute(node, "batch_dims", 0):
            raise _Unknown("GatherND")
        self._set(node, Place(0))

    def _unsqueeze(self, node: Any) -> None:
        place = self._only(node)
        rank = len(self.shapes[node.output[0]])
        new = sorted(axis % rank for axis in self._axes(node))
        kept = [axis for axis in range(rank) if axis not in new]
        self._set(node, Place(kept[place.axis], place.part))

    def _squeeze(self, node: Any) -> None:
        place = self._only(node)
        rank = len(self.shapes[node.input[0]])
        gone = [axis % rank for axis in self._axes(node)]
        if not gone or place.axis in gone:
            raise _Unknown("Squeeze")
        self._set(node, Place(place.axis - sum(axis < place.axis for axis in gone), place.part))

    def _split(self, node: Any) -> None:
        place = self._only(node)
        if _attribute(node, "axis", 0) % len(self.shapes[node.input[0]]) == place.axis:
            raise _Unknown("Split")
        self._set(node, place)

    def _slice(self, node: Any) -> None:
        place = self._only(node)
        rank = len(self.shapes[node.input[0]])
        axes = self._value(node.input[3]).tolist() if len(node.input) > 3 and node.input[3] else range(rank)
        if place.axis in [axis % rank for axis in axes]:
            raise _Unknown("Slice")
        self._set(node, place)

    def _reduce(self, node: Any) -> None:
        place = self._only(node)
        rank = len(self.shapes[node.input[0]])
        axes = [_attribute(node, "axis", 0)] if node.op_type == "ArgMax" else self._axes(node)
        gone = [axis % rank for axis in axes]
        if not gone or place.axis in gone:
            raise _Unknown(node.op_type)
        moved = 0 if _attribute(node, "keepdims", 1) else sum(axis < place.axis for axis in gone)
        self._set(node, Place(place.axis - moved, place.part))

    def _axes(self, node: Any) -> list[int]:
        """Return the axes of a node: an attribute in old opsets, an input in new ones."""
        if len(node.input) > 1 and node.input[1]:
            return [int(axis) for axis in self._value(node.input[1]).ravel()]
        return [int(axis) for axis in _attribute(node, "axes", ())]

    def _value(self, name: str) -> Any:
        from onnx import numpy_helper

        if name not in self.weights:
            raise _Unknown(name)
        return numpy_helper.to_array(self.weights[name])

    def _add_weight(self, value: Any) -> str:
        from onnx import numpy_helper

        self.made += 1
        name = f"free_batch/{self.made}"
        tensor = numpy_helper.from_array(value, name)
        self.graph.initializer.append(tensor)
        self.weights[name] = tensor
        self.shapes[name] = tuple(value.shape)
        return name

    def _node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        self.made += 1
        output = f"free_batch/{self.made}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}", **attributes))
        return output


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
