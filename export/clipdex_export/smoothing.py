"""Evening out the channels that quantized products read, without changing what the float32 tower computes.

In int8 the input of a product has one range. If a few channels are tens of times larger than the others, as in
large trained transformers, the range is theirs, and the others are left with a few of its 256 steps. SmoothQuant
(Xiao et al. 2023, arXiv 2211.10438, equation 4) divides channel j of the input X by

    s_j = max|X_j|^a / max|W_j|^(1 - a)

and multiplies row j of the weights W by it, which leaves the product as it was. The maximum of X is over the
calibration, that of W over all products that read X. The strength a says how much of the unevenness the weights
take over. The division costs nothing at run time, since it is done to the gain and the bias of the normalisation
that computes X. So only the products behind one can have it: query, key and value, and the first of the MLP.

Here s_j is the nearest power of two: no number loses a digit, and the rewritten tower gives the same float32
vectors to the last bit. A tensor stays as it is if every s_j is within a factor of 2 of their median: rounding
would make it as uneven as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import ExportError
from clipdex_export.onnx_files import save, with_outputs
from clipdex_export.onnx_sources.graph import graphs_in
from clipdex_export.sessions import open_session
from clipdex_export.weights import one_line

if TYPE_CHECKING:
    import onnx

__all__ = ["STRENGTH", "Channels", "Smoother", "smooth"]

STRENGTH = 0.5
_UNEVEN = 2  # the least exponent of a scale that is worth a change
_BATCH = 4  # all tensors of a batch are in memory together

Array = npt.NDArray[np.float32]


def smooth(
    path: Path,
    input_name: str,
    rows: npt.NDArray[np.generic],
    products: Collection[str],
    *,
    strength: float = STRENGTH,
) -> None:
    """Rewrite the ONNX file of a float32 tower in place.

    Args:
        path: the file.
        input_name: the name of its input.
        rows: inputs for calibration: (N, …).
        products: the names of the nodes that will be quantized.
        strength: how much of the unevenness the weights take over, from 0 to 1.

    Raises:
        ExportError: the tower fails on these rows.
    """
    import onnx

    model = onnx.load(path)
    smoother = Smoother(model.graph)
    found = smoother.channels(products)
    if not found:
        return
    largest = _largest(path, input_name, rows, [each.name for each in found])
    scales = [_scales(largest[each.name], smoother.largest_weights(each), strength) for each in found]
    if all((each == 1).all() for each in scales):
        return
    for each, by in zip(found, scales, strict=True):
        smoother.divide(each, by)
    for suffix in ("", ".data"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    save(model, path)


@dataclass(frozen=True)
class Channels:
    """A tensor (…, C) that nothing but products reads, and whose channels constants alone can scale.

    name: the tensor's. gains: the constants (C,) that its channels are proportional to, each as a node and the
    position among its inputs. products: the nodes that multiply it by weights (C, …).
    """

    name: str
    gains: tuple[tuple[Any, int], ...]
    products: tuple[Any, ...]


class Smoother:
    """A graph in which channels are found and scaled."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        self._outputs: set[str] = set()
        for each in graphs_in(graph):  # a branch reads what is outside by its name
            self._outputs.update(output.name for output in each.output)
            for node in each.node:
                for name in node.input:
                    self._readers[name].append(node)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            # PyTorch's exporter writes equal tensors once, and the others as its Identity.
            if node.op_type == "Identity" and node.input[0] in self._constants:
                self._constants[node.output[0]] = self._constants[node.input[0]]

    def channels(self, products: Collection[str]) -> list[Channels]:
        """Find all tensors whose channels can be scaled, if of their readers these products are scaled too."""
        found = []
        for node in self._graph.node:
            for name in node.output[:1]:
                # A shape does not depend on values.
                readers = [reader for reader in self._readers[name] if reader.op_type != "Shape"]
                alone = bool(readers) and name not in self._outputs
                if alone and all(self._multiplies(reader, name, products) for reader in readers):
                    gains = self._gains(node, self._dims(readers[0].input[1])[:1])
                    if gains:
                        found.append(Channels(name, gains, tuple(readers)))
        return found

    def _multiplies(self, node: Any, name: str, products: Collection[str]) -> bool:
        """Return whether a node is one of the products, of this tensor and constant weights."""
        product = node.op_type == "MatMul" and node.name in products and node.input[0] == name
        return product and len(self._dims(node.input[1])) == 2

    def _gains(self, node: Any, dims: list[int]) -> tuple[tuple[Any, int], ...]:
        """Find the constants that the channels of a node's output are proportional to; none if there is more."""
        constant = [at for at, name in enumerate(node.input) if dims and self._dims(name) == dims]
        if node.op_type == "LayerNormalization" and constant == list(range(1, len(node.input))):
            return tuple((node, at) for at in constant)
        if node.op_type == "Mul" and len(constant) == 1:
            return ((node, constant[0]),)
        if node.op_type == "Add" and len(constant) == 1:
            # A normalisation in separate nodes ends in a gain and a bias.
            given = node.input[1 - constant[0]]
            before = self._makers.get(given)
            alone = self._readers[given] == [node] and given not in self._outputs
            if before is not None and before.op_type == "Mul" and alone:
                gain = self._gains(before, dims)
                return (*gain, (node, constant[0])) if gain else ()
        return ()

    def _dims(self, name: str) -> list[int]:
        """Return the dimensions of a constant; none of any other tensor."""
        return list(self._constants[name].dims) if name in self._constants else []

    def largest_weights(self, channels: Channels) -> Array:
        """Return the largest absolute weight of each channel: (C,)."""
        largest: Array = np.max([np.abs(self._values(node, 1)).max(axis=1) for node in channels.products], axis=0)
        return largest

    def divide(self, channels: Channels, scales: Array) -> None:
        """Divide the channels by scales (C,), and multiply what they are multiplied by."""
        for node, at in channels.gains:
            self._replace(node, at, self._values(node, at) / scales)
        for node in channels.products:
            self._replace(node, 1, self._values(node, 1) * scales[:, None])

    def _values(self, node: Any, at: int) -> Array:
        from onnx import numpy_helper

        values: Array = numpy_helper.to_array(self._constants[node.input[at]])
        return values

    def _replace(self, node: Any, at: int, values: Array) -> None:
        """Give a node another constant. Whatever else reads the one it had keeps that."""
        from onnx import numpy_helper

        name, readers = node.input[at], self._readers[node.input[at]]
        if len(readers) == 1 and self._constants[name].name == name:
            self._constants[name].CopyFrom(numpy_helper.from_array(values, name))
            return
        node.input[at] = f"{name}/{node.name}"
        self._graph.initializer.append(numpy_helper.from_array(values, node.input[at]))
        self._constants[node.input[at]] = self._graph.initializer[-1]
        self._readers[node.input[at]] = [node]
        readers.remove(node)
        if not readers:  # an Identity that nothing reads any more
            self._graph.node.remove(self._makers[name])


def _largest(path: Path, input_name: str, rows: npt.NDArray[np.generic], names: Sequence[str]) -> dict[str, Array]:
    """Run a tower -> the largest absolute value of each channel of these tensors: (C,)."""
    import onnx

    model = with_outputs(onnx.load(path, load_external_data=False), names)
    found: dict[str, Array] = {}
    try:
        session = open_session(model.SerializeToString(), weights_in=path.parent)
        for start in range(0, len(rows), _BATCH):
            tensors = session.run(list(names), {input_name: rows[start : start + _BATCH]})
            for name, tensor in zip(names, tensors, strict=True):
                largest = np.abs(tensor).reshape(-1, tensor.shape[-1]).max(axis=0)
                found[name] = np.maximum(found.get(name, largest), largest)
    # onnxruntime raises its own kinds of errors.
    except Exception as exc:
        raise ExportError(f"{path.parent.parent.name} fails on the calibration's rows: {one_line(exc)}") from exc
    return found


def _scales(inputs: Array, weights: Array, strength: float) -> Array:
    """Return what to divide the channels by: (C,), powers of two about 1; 1 for a channel that is always zero."""
    used = (inputs > 0) & (weights > 0)
    scales = np.ones_like(inputs)
    if used.any():
        exponents = strength * np.log2(inputs[used]) - (1 - strength) * np.log2(weights[used])
        exponents = np.rint(exponents - np.median(exponents))
        if np.abs(exponents).max() >= _UNEVEN:
            scales[used] = np.exp2(exponents)
    return scales
