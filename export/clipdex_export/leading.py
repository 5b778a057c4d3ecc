"""Where TensorRT may begin: it knows no uint8, so ONNX Runtime may keep the first steps of a tower to itself."""

from __future__ import annotations

from pathlib import Path

__all__ = ["leading_tensors"]


def leading_tensors(path: Path, input_name: str, dims: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The tensors behind the input while values are only moved or cast: (name, dims without the batch) each."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    found: list[tuple[str, tuple[int, ...]]] = []
    name = input_name
    while True:
        users = [node for node in graph.node if name in node.input]
        if len(users) != 1 or users[0].op_type not in ("Transpose", "Cast"):
            return tuple(found)
        if users[0].op_type == "Transpose":
            order = next(attribute.ints for attribute in users[0].attribute if attribute.name == "perm")
            dims = tuple(dims[axis - 1] for axis in order[1:])  # the batch, axis 0, stays in front
        name = users[0].output[0]
        found.append((name, dims))
