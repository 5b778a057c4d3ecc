"""Rewriting of a graph that was traced for one row: the 1 in its shapes becomes the size of the batch.

`batch_rules.py` follows the batch from the inputs to the output, by the shapes that a run on one row has. Whatever
it does not know leaves the graph as it was. What is freed proves itself: `adopted.py` runs it on several rows and
on each alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from clipdex_export.onnx_sources.batch_rules import Freeing, Place
from clipdex_export.sessions import open_session

if TYPE_CHECKING:
    import onnx

__all__ = ["free_batch"]


def free_batch(
    model: onnx.ModelProto, row: Mapping[str, npt.NDArray[Any]], output: str, *, last: bool = False
) -> bool:
    """Rewrite a sorted graph without Constant nodes, in place, for batches of any size -> whether that worked.

    If it did not, the model can no longer be used.

    Args:
        model: the graph, with its weights.
        row: its inputs, whose first axis is the batch, for one row.
        output: its output.
        last: of several axes of 1 that a Reshape makes where the batch is, take the last for it, not the first.
    """
    try:
        freeing = Freeing(model, _shapes(model, row), list(row), last=last)
        freeing.run()
    # ONNX Runtime raises its own errors, and a rule may meet what it was not written for.
    except Exception:
        return False
    for value in (*model.graph.input, *model.graph.output):
        if value.name in (*row, output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return freeing.places.get(output) == Place(0)


def _shapes(model: onnx.ModelProto, row: Mapping[str, npt.NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Run a graph on one row -> the shapes of all its tensors."""
    import onnx

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    known = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    session = open_session(watched.SerializeToString(), optimized=False)
    names = [value.name for value in session.get_outputs()]
    shapes |= {name: value.shape for name, value in zip(names, session.run(names, dict(row)), strict=True)}
    return shapes | {name: value.shape for name, value in row.items()}
