"""Quantization of a float32 tower to int8 for CPUs: only the matrix products of its layers.

Weights become int8, with a scale for each output channel; activations become uint8, with one range for each
product, found by running the tower on calibration rows. Before that, their channels are evened out (smoothing.py).
The products give float32 again, and everything else is unchanged: attention, LayerNorm, GELU, residual sums, the
embeddings, the last projection. docs/export.md has measurements of other choices.

The file has QuantizeLinear and DequantizeLinear around the products, which is plain ONNX: ONNX Runtime computes
such a group as one integer product.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import ExportError
from clipdex_export.onnx_files import LARGEST_SINGLE_FILE, save
from clipdex_export.quiet import unlogged
from clipdex_export.smoothing import smooth

if TYPE_CHECKING:
    import onnx

__all__ = ["products_of", "quantize", "to_int8"]

_BATCH = 8


def to_int8(path: Path, input_name: str, rows: npt.NDArray[np.generic]) -> None:
    """Quantize the ONNX file of a tower, in place.

    Args:
        path: a float32 tower.
        input_name: the name of its input.
        rows: inputs for calibration: (N, …).

    Raises:
        ExportError: it is not a transformer, or ONNX Runtime cannot run or quantize it.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    chosen = products_of(graph)[:-1]  # the last projects to the embedding: little work, and nothing evens it out
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    if len(chosen) <= convolutions:
        raise ExportError(
            f"{path.parent.parent.name}: int8 is for transformers, which consist of matrix products; this tower "
            f"has {len(chosen)} in its layers and {convolutions} convolutions: export it in fp32"
        )
    smooth(path, input_name, rows, chosen)
    quantize(path, path, input_name, rows, chosen)


def products_of(graph: onnx.GraphProto) -> list[str]:
    """List the names of the nodes that multiply by a matrix of weights, in order."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and node.input[0] not in weights
    ]


def quantize(
    source: Path,
    to: Path,
    input_name: str,
    rows: npt.NDArray[np.generic],
    products: list[str],
    *,
    method: str = "MinMax",
    options: dict[str, Any] | None = None,
) -> None:
    """Write the tower `source` to `to` with these products in 8 bits.

    method: of onnxruntime.quantization.CalibrationMethod. options: more of its extra_options.
    """
    import onnx

    with unlogged():
        from onnxruntime import quantization

        class Rows(quantization.CalibrationDataReader):  # type: ignore[misc]
            """One pass over the rows, in batches."""

            def __init__(self) -> None:
                self._batches = iter([rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)])

            def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
                batch = next(self._batches, None)
                return None if batch is None else {input_name: batch}

        with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
            written = Path(scratch) / "model.onnx"
            try:
                quantization.quantize_static(
                    str(source),
                    str(written),
                    Rows(),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=["MatMul", "Gemm"],
                    nodes_to_quantize=products,
                    per_channel=True,
                    # 7-bit weights: a processor without an 8-bit dot product (AVX2 without VNNI) adds pairs of
                    # products in 16 bits. With 8-bit weights they overflow: wrong vectors, and no error.
                    reduce_range=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    calibrate_method=getattr(quantization.CalibrationMethod, method),
                    use_external_data_format=_bytes_of(source) > LARGEST_SINGLE_FILE,
                    # A product's result stays float32: rounding it too would cost accuracy and gain nothing.
                    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"], **(options or {})},
                )
            # It raises many kinds of errors: ValueError, RuntimeError, onnxruntime's own.
            except Exception as exc:
                raise ExportError(
                    f"{source.parent.parent.name}: ONNX Runtime cannot quantize it: {' '.join(str(exc).split())}"
                ) from exc
            model = onnx.load(written)
    _restate(model, onnx.load(source, load_external_data=False))
    for suffix in ("", ".data"):
        to.with_name(to.name + suffix).unlink(missing_ok=True)
    save(model, to)


def _restate(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Restore what the quantizer rewrites to the source's: versions, inputs and outputs."""
    model.ir_version = source.ir_version
    for now, before in (
        (model.opset_import, source.opset_import),
        (model.graph.input, source.graph.input),
        (model.graph.output, source.graph.output),
    ):
        del now[:]
        now.extend(before)
    del model.graph.value_info[:]


def _bytes_of(path: Path) -> int:
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
