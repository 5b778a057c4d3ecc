"""Reading of an ONNX file: its graph, its weights wherever they are stored, its inputs and outputs.

A file from a hub is data from a stranger: external weights are read from the file's own directory only, and only
as many bytes as their shape says. (The onnx package refuses symbolic links, which the hub's cache consists of.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import CheckpointError
from clipdex_export.weights import one_line

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Tensor",
    "external_files",
    "graph_sha256",
    "graphs_in",
    "inputs_of",
    "load_weights",
    "outputs_of",
    "read_graph",
]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph. kind: ONNX's element type. dims: None for a free one; None if unknown."""

    name: str
    kind: int
    dims: tuple[int | None, ...] | None

    @property
    def rank(self) -> int | None:
        """The number of dimensions, if it is known."""
        return None if self.dims is None else len(self.dims)


def read_graph(path: Path, where: str) -> onnx.ModelProto:
    """Read an ONNX file without external weights, and with the functions that it defines inlined.

    where: its name for messages.

    Raises:
        CheckpointError: it is not an ONNX file, or it has sparse weights.
    """
    import onnx
    from onnx import inliner

    try:
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            model = inliner.inline_local_functions(model)
    # protobuf raises its own kinds of errors.
    except Exception as exc:
        raise CheckpointError(f"{where} cannot be read as an ONNX file: {one_line(exc)}") from exc
    if not model.graph.node:
        raise CheckpointError(f"{where} cannot be read as an ONNX file: it has no nodes")
    if any(_has_sparse_weights(graph) for graph in graphs_in(model.graph)):
        raise CheckpointError(f"{where} has sparse weights; expected dense ones: export the model without them")
    return model


def inputs_of(model: onnx.ModelProto) -> tuple[Tensor, ...]:
    """List the inputs. Old files list their weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(_tensor(value) for value in model.graph.input if value.name not in weights)


def outputs_of(model: onnx.ModelProto) -> tuple[Tensor, ...]:
    """List the outputs."""
    return tuple(_tensor(value) for value in model.graph.output)


def _tensor(value: Any) -> Tensor:
    described = value.type.tensor_type
    dims: tuple[int | None, ...] | None = None
    if described.HasField("shape"):
        dims = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in described.shape.dim)
    return Tensor(value.name, described.elem_type, dims)


def external_files(model: onnx.ModelProto, where: str) -> tuple[str, ...]:
    """List the files beside the ONNX file that hold weights.

    Raises:
        CheckpointError: one of them is elsewhere.
    """
    found = {_location(tensor, where)[0] for tensor in _weights(model.graph) if _is_external(tensor)}
    return tuple(sorted(found))


def load_weights(model: onnx.ModelProto, path: Path, where: str) -> None:
    """Read external weights into the model, which lies at `path`.

    Raises:
        CheckpointError: a file is missing or shorter than the weights that it should hold.
    """
    for tensor in _weights(model.graph):
        _bring_in(tensor, path, where)


def graph_sha256(model: onnx.ModelProto, path: Path, where: str) -> str:
    """Hash what determines a graph's results -> 64 hexadecimal digits.

    Operators, their attributes and connections, inputs and outputs, and every weight's name, type, shape and
    bytes count; who wrote the file and whether its weights are inside do not.
    """
    digest = hashlib.sha256()
    for domain in sorted(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import):
        digest.update(f"opset {domain}\n".encode())
    for value in (*inputs_of(model), *outputs_of(model)):
        digest.update(f"value {value.name} {value.kind} {value.dims}\n".encode())
    for node in model.graph.node:
        bare = type(node)()
        bare.CopyFrom(node)
        bare.ClearField("doc_string")
        for tensor in _weights_of(bare):
            _bring_in(tensor, path, where)
        digest.update(b"node " + bare.SerializeToString(deterministic=True) + b"\n")
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(f"weight {tensor.name} {tensor.data_type} {list(tensor.dims)}\n".encode())
        if _is_external(tensor):
            digest.update(_bytes_of(tensor, path, where))
        else:
            digest.update(tensor.raw_data or _said(tensor))
    return digest.hexdigest()


def _said(tensor: Any) -> bytes:
    """Return the values that a tensor has in fields of their own; NumPy would give where texts are in memory."""
    from onnx import numpy_helper

    if tensor.string_data:
        return b"".join(len(text).to_bytes(8, "little") + text for text in tensor.string_data)
    return bytes(numpy_helper.to_array(tensor).tobytes())


def graphs_in(graph: Any) -> Iterator[Any]:
    """Iterate over a graph and all graphs inside it: the branches of If, the bodies of Loop and Scan."""
    yield graph
    for node in graph.node:
        yield from _graphs_of(node)


def _graphs_of(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            yield from graphs_in(inner)


def _weights(graph: Any) -> Iterator[Any]:
    """Iterate over all tensors that can be external: initializers and attributes, including inner graphs'."""
    yield from graph.initializer
    for node in graph.node:
        yield from _weights_of(node)


def _weights_of(node: Any) -> Iterator[Any]:
    yield from _tensors_of(node)
    for inner in _graphs_of(node):
        yield from inner.initializer
        for inner_node in inner.node:
            yield from _tensors_of(inner_node)


def _tensors_of(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _has_sparse_weights(graph: Any) -> bool:
    """Return whether a graph itself, without those inside it, has sparse weights."""
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    return bool(graph.sparse_initializer) or any(
        attribute.HasField("sparse_tensor") or attribute.sparse_tensors for attribute in attributes
    )


def _is_external(tensor: Any) -> bool:
    """Return whether a runtime reads the tensor from another file: a location alone does not make it do so."""
    from onnx import TensorProto

    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _bring_in(tensor: Any, path: Path, where: str) -> None:
    """Read a tensor's bytes into it if they are in another file."""
    if _is_external(tensor):
        tensor.raw_data = _bytes_of(tensor, path, where)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _location(tensor: Any, where: str) -> tuple[str, int, int | None]:
    """Return the file, offset and length of an external tensor."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    name = stated.get("location", "")
    parts = PurePosixPath(name).parts
    if not name or len(parts) != 1 or parts[0] in ("..", "/") or "\\" in name or "\0" in name:
        raise CheckpointError(f"{where}: its weights are in {name[:200]!r}; expected a file beside it")
    try:
        return name, int(stated.get("offset", 0)), int(stated["length"]) if "length" in stated else None
    except ValueError as exc:
        raise CheckpointError(f"{where}: the location of {tensor.name} cannot be read: {one_line(exc)}") from exc


def _bytes_of(tensor: Any, path: Path, where: str) -> bytes:
    from onnx import helper

    name, offset, length = _location(tensor, where)
    bits = {21: 4, 22: 4, 23: 4}.get(tensor.data_type)  # uint4, int4, float4: two in a byte
    count = math.prod(tensor.dims)
    try:
        each = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError) as exc:
        raise CheckpointError(f"{where}: {tensor.name} has an unknown type") from exc
    wanted = (count * bits + 7) // 8 if bits else count * each
    file = path.parent / name
    try:
        size = file.stat().st_size
        if wanted < 0 or offset < 0 or (length is not None and length != wanted) or offset + wanted > size:
            raise CheckpointError(
                f"{where}: {name} does not hold the {wanted:,} bytes of {tensor.name}: is it whole?"
            )
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(wanted)
    except OSError as exc:
        raise CheckpointError(f"{where}: its weights in {name} cannot be read: {exc.strerror or exc}") from exc
