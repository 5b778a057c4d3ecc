"""Composition of a tower from an ONNX file: our input in front, the L2 norm behind, the graph between as it is.

    pixels uint8 (B, S, S, 3) ─▶ layout, mean, std ─▶ network ─▶ L2 norm ─▶ embedding float32 (B, D)
    token_ids int32 (B, L)    ─▶ ids, mask, zeros  ─▶ network ─▶ L2 norm ─▶ embedding float32 (B, D)

Every name of the network gets a prefix, to tell it from ours: float16.py keeps our nodes in float32. Our
arithmetic is that of towers.py.

A graph that was traced for one row cannot take several: it has 1 written into its shapes. free_batch.py frees it
if it can. Otherwise it becomes the body of a Scan, which runs it row by row: the vectors are right, but batching
gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import ExportError
from clipdex.model.card import ImageSpec, TextSpec
from clipdex_export.checkpoint import WrittenTower
from clipdex_export.onnx_files import LARGEST_SINGLE_FILE, MAX_IR_VERSION, MAX_OPSET, check_limits, save
from clipdex_export.onnx_sources.free_batch import free_batch
from clipdex_export.onnx_sources.graph import inputs_of, load_weights, read_graph
from clipdex_export.onnx_sources.tower_file import MaskRule, TowerFile
from clipdex_export.weights import one_line

if TYPE_CHECKING:
    import onnx

__all__ = ["ComposedImageTower", "ComposedTextTower", "freed_network"]

_PREFIX = "network/"
# Below 13, quantization per channel does not exist; CumSum and Scan as used here are older.
_LEAST_OPSET = 13
_WANTED_OPSET = 17
_LEAST_IR_VERSION = 8
_TINY = 1e-12  # as in towers.py: a vector of zeros stays zeros


@dataclass(frozen=True)
class ComposedImageTower(WrittenTower):
    """An image tower: pixels uint8 (B, S, S, 3) -> embedding float32 (B, D), L2 norm 1."""

    file: TowerFile
    spec: ImageSpec

    def write(self, path: Path) -> None:
        """Write the tower as an ONNX file."""
        from onnx import TensorProto

        side = self.spec.size
        parts = _Parts(_network(self.file, (3, side, side)))
        std = np.array(self.spec.std, np.float64)
        mean = np.array(self.spec.mean, np.float64)
        scale = (1 / (255 * std)).astype(np.float32).reshape(1, 3, 1, 1)
        shift = (-mean / std).astype(np.float32).reshape(1, 3, 1, 1)
        # The layout is changed while a sample is still one byte.
        name = parts.add("Transpose", ["pixels"], perm=[0, 3, 1, 2])
        name = parts.add("Cast", [name], to=TensorProto.FLOAT)
        name = parts.add("Mul", [name, parts.constant("scale", scale)])
        name = parts.add("Add", [name, parts.constant("shift", shift)])
        if self.file.given.kind != TensorProto.FLOAT:
            name = parts.add("Cast", [name], to=self.file.given.kind)
        parts.finish({self.file.given.name: (name, (3, side, side))}, self.file)
        parts.write(path, ("pixels", TensorProto.UINT8, (side, side, 3)))


@dataclass(frozen=True)
class ComposedTextTower(WrittenTower):
    """A text tower: token_ids int32 (B, L) -> embedding float32 (B, D), L2 norm 1."""

    file: TowerFile
    spec: TextSpec
    mask: MaskRule

    def write(self, path: Path) -> None:
        """Write the tower as an ONNX file."""
        from onnx import TensorProto

        length = (self.spec.context_length,)
        parts = _Parts(_network(self.file, length))
        ids = "token_ids"
        if self.file.given.kind != TensorProto.INT32:
            ids = parts.add("Cast", [ids], to=self.file.given.kind)
        feeds: dict[str, tuple[str, tuple[int, ...]]] = {self.file.given.name: (ids, length)}
        if self.file.mask is not None:
            feeds[self.file.mask.name] = (self._mask(parts, self.file.mask.kind), length)
        for tensor in self.file.zeros:
            zeros = parts.add("Mul", ["token_ids", parts.constant("zero", np.zeros(1, np.int32))])
            feeds[tensor.name] = (parts.add("Cast", [zeros], to=tensor.kind), length)
        parts.finish(feeds, self.file)
        parts.write(path, ("token_ids", TensorProto.INT32, length))

    def _mask(self, parts: _Parts, kind: int) -> str:
        """Add the nodes for an attention mask (B, L): 1 for a token that counts, 0 for padding."""
        from onnx import TensorProto

        if self.mask == "until_end":
            # Padding is the end token: all behind the first one.
            end = parts.constant("end_id", np.array([self.spec.end_id], np.int32))
            ends = parts.add("Cast", [parts.add("Equal", ["token_ids", end])], to=TensorProto.INT32)
            before = parts.add("CumSum", [ends, parts.constant("axis", np.array(1, np.int64))], exclusive=1)
            kept = parts.add("Equal", [before, parts.constant("none", np.zeros(1, np.int32))])
        elif self.mask == "ones":
            kept = parts.add("Equal", ["token_ids", "token_ids"])
        else:
            pad = parts.constant("pad_id", np.array([self.spec.pad_id], np.int32))
            kept = parts.add("Not", [parts.add("Equal", ["token_ids", pad])])
        return parts.add("Cast", [kept], to=kind)


class _Parts:
    """A model under construction around a network: what is added before `finish` comes in front of it."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self.model = network
        self._front: list[Any] = []
        self._behind: list[Any] = []
        self._nodes = self._front
        self._counted: dict[str, int] = {}
        self._constants: list[str] = []

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node of our own -> the name of its output. Its name has one slash (float16.py)."""
        from onnx import helper

        count = self._counted[op_type] = self._counted.get(op_type, -1) + 1
        name = f"/{op_type}" if not count else f"/{op_type}_{count}"
        output = output or f"{name}_output"
        self._nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant -> its name."""
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants.append(name)
            self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def finish(self, feeds: dict[str, tuple[str, tuple[int, ...]]], file: TowerFile) -> None:
        """Connect the network, and add the norm behind it.

        feeds: an input of the file -> our tensor for it, and its dimensions without the batch.
        """
        from onnx import TensorProto

        graph = self.model.graph
        output = _PREFIX + file.output
        if not file.row_by_row:
            _rename_inputs(graph, {_PREFIX + theirs: ours for theirs, (ours, _) in feeds.items()})
        else:
            output = self._row_by_row(feeds, output)
        self._nodes = self._behind
        if file.output_kind != TensorProto.FLOAT:
            output = self.add("Cast", [output], to=TensorProto.FLOAT)
        # As PyTorch writes it: axes are an attribute up to opset 17, an input from 18 on.
        if _opset(self.model) < 18:
            norm = self.add("ReduceL2", [output], axes=[-1], keepdims=1)
        else:
            axes = self.constant("axes", np.array([-1], np.int64))
            norm = self.add("ReduceL2", [output, axes], keepdims=1)
        norm = self.add("Max", [norm, self.constant("tiny", np.array([_TINY], np.float32))])
        self.add("Div", [output, norm], "embedding")

    def _row_by_row(self, feeds: dict[str, tuple[str, tuple[int, ...]]], output: str) -> str:
        """Make the network, which takes one row, the body of a Scan over the batch -> the name of its output."""
        from onnx import helper

        graph = self.model.graph
        types = {tensor.name: tensor.kind for tensor in inputs_of(self.model)}
        kind = next(value.type.tensor_type.elem_type for value in graph.output if value.name == output)
        body, rows = [], []
        for theirs, (_, dims) in feeds.items():
            name = _PREFIX + theirs
            rows.append(helper.make_tensor_value_info(f"{name}/row", types[name], dims))
            shape = self.constant(f"{name}/shape", np.array([1, *dims], np.int64))
            body.append(helper.make_node("Reshape", [f"{name}/row", shape], [name], name=f"{name}/Reshape"))
        flat = self.constant(f"{_PREFIX}flat", np.array([-1], np.int64))
        body += graph.node
        body.append(helper.make_node("Reshape", [output, flat], [f"{output}/row"], name=f"{output}/Reshape"))
        result = helper.make_tensor_value_info(f"{output}/row", kind, [None])
        inner = helper.make_graph(body, "row", rows, [result])
        ours = [ours for ours, _ in feeds.values()]
        del graph.node[:]
        graph.node.append(
            helper.make_node(
                "Scan", ours, [f"{output}/rows"], name=f"{_PREFIX}Scan", body=inner, num_scan_inputs=len(ours)
            )
        )
        return f"{output}/rows"

    def write(self, path: Path, given: tuple[str, int, tuple[int, ...]]) -> None:
        """Write the finished model. given: name, type, and dimensions without the batch, of its input."""
        from onnx import TensorProto, helper

        graph = self.model.graph
        between = list(graph.node)
        del graph.node[:]
        graph.node.extend([*self._front, *between, *self._behind])
        name, kind, dims = given
        for values, value in (
            (graph.input, helper.make_tensor_value_info(name, kind, ["batch", *dims])),
            (graph.output, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", None])),
        ):
            del values[:]
            values.append(value)
        del graph.value_info[:]
        _drop_what_nobody_uses(graph)
        save(self.model, path)
        check_limits(path)


def freed_network(file: TowerFile, dims: tuple[int, ...]) -> bytes | None:
    """Rewrite the graph of a tower for single rows so that it takes any batch -> the ONNX file, or None.

    dims: of its inputs, without the batch.
    """
    from onnx import helper

    tensors = (file.given, *((file.mask,) if file.mask else ()), *file.zeros)
    row = {t.name: np.ones((1, *dims), helper.tensor_dtype_to_np_dtype(t.kind)) for t in tensors}
    for last in (False, True):
        model = _plain_network(file)
        if model.ByteSize() <= LARGEST_SINGLE_FILE and free_batch(model, row, file.output, last=last):
            return bytes(model.SerializeToString())
    return None


def _network(file: TowerFile, dims: tuple[int, ...]) -> onnx.ModelProto:
    """Load a tower's graph, freed if the tower says so, with a prefix before every name."""
    import onnx
    from onnx import compose

    freed = freed_network(file, dims) if file.freed else None
    model = _plain_network(file) if freed is None else onnx.load_model_from_string(freed)
    prefixed: onnx.ModelProto = compose.add_prefix(model, _PREFIX, inplace=True)
    return prefixed


def _plain_network(file: TowerFile) -> onnx.ModelProto:
    """Load the part of a tower's graph that its embedding needs, with weights, in a version that we allow."""
    model = read_graph(file.path, file.where)
    load_weights(model, file.path, file.where)
    _sort(model.graph)
    _keep_only(model.graph, file.output)
    _constants_to_weights(model.graph)
    model = _with_allowed_version(model, file.where)
    inputs = inputs_of(model)  # without the weights that old files list
    kept = [value for value in model.graph.input if value.name in {tensor.name for tensor in inputs}]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    del model.metadata_props[:]
    model.doc_string = ""
    return model


def _sort(graph: Any) -> None:
    """Sort the nodes, each after those whose results it reads. Some tools write them in any order."""
    nodes = list(graph.node)
    makers = {output: position for position, node in enumerate(nodes) for output in node.output if output}
    reads = [{makers[name] for name in _all_inputs(node) if name in makers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for position, before in enumerate(reads):
        for maker in before:
            readers.setdefault(maker, []).append(position)
    waiting = [len(before) for before in reads]
    ready = [position for position, count in enumerate(waiting) if not count]  # a heap: sorted is one
    ordered = []
    while ready:
        position = heappop(ready)
        ordered.append(nodes[position])
        for reader in readers.get(position, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, reader)
    if len(ordered) == len(nodes):  # else there is a circle, which the checker refuses
        del graph.node[:]
        graph.node.extend(ordered)


def _keep_only(graph: Any, output: str) -> None:
    """Drop all nodes, outputs and inputs that one output does not need."""
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(_all_inputs(node))
    for items, chosen in (
        (graph.node, list(reversed(kept))),
        (graph.output, [value for value in graph.output if value.name == output]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in wanted]),
    ):
        del items[:]
        items.extend(chosen)
    del graph.value_info[:]


def _all_inputs(node: Any) -> set[str]:
    """Return all tensors that a node reads, including those that its inner graphs read."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                found |= _all_inputs(inner)
            found.update(value.name for value in attribute.g.output)
    return found


def _constants_to_weights(graph: Any) -> None:
    """Turn Constant nodes into initializers, whatever form their value has: later passes look for them there."""
    from onnx import numpy_helper

    kept = []
    for node in graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _constant(node: Any) -> npt.NDArray[Any] | None:
    from onnx import numpy_helper

    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for attribute in node.attribute:
        if attribute.name == "value":
            value: npt.NDArray[Any] = numpy_helper.to_array(attribute.t)
            return value
        if attribute.name in kinds:
            field = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
            return np.array(getattr(attribute, field[attribute.name]), kinds[attribute.name])
    return None


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _with_allowed_version(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Bring opset and IR version into our limits, and drop opsets of domains that no node uses."""
    from onnx import version_converter

    plain = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not plain:
        raise ExportError(f"{where} does not say which version of ONNX's operators it uses")
    kept = max(entry.version for entry in plain)
    del model.opset_import[:]
    model.opset_import.add(domain="", version=kept)
    if not _LEAST_OPSET <= kept <= MAX_OPSET:
        wanted = _WANTED_OPSET if kept < _LEAST_OPSET else MAX_OPSET
        try:
            model = version_converter.convert_version(model, wanted)
        # The converter is C++: it raises RuntimeError for what it cannot convert, and others beside.
        except Exception as exc:
            raise ExportError(
                f"{where} has opset {kept}; Triton 24.10 reads up to {MAX_OPSET}, and it cannot be converted to "
                f"{wanted}: {one_line(exc)}"
            ) from exc
    model.ir_version = min(max(model.ir_version, _LEAST_IR_VERSION), MAX_IR_VERSION)
    return model


def _rename_inputs(graph: Any, renamed: dict[str, str]) -> None:
    """Rename the tensors that nodes read, including nodes of inner graphs."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in renamed:
                node.input[position] = renamed[name]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_inputs(attribute.g, renamed)


def _drop_what_nobody_uses(graph: Any) -> None:
    used = {name for node in graph.node for name in _all_inputs(node)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
