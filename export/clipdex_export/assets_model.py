"""`NAME_assets`: the card and tokenizer, as a graph of one constant and one Slice.

Serving them this way needs no other backend on the server, and no other protocol in the client.
"""

from __future__ import annotations

from pathlib import Path

from clipdex_export.onnx_files import check_limits

__all__ = ["write_assets_model"]

_OPSET, _IR_VERSION = 17, 8


def write_assets_model(data: bytes, path: Path) -> None:
    """Write a graph that computes  bytes uint8 (n,) = data[start:end]  with start, end int64 (1,).

    As in Python, an `end` beyond the data means its end.
    """
    import onnx
    from onnx import TensorProto, helper

    zipped = helper.make_tensor("zip", TensorProto.UINT8, [len(data)], data, raw=True)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(
        [helper.make_node("Slice", ["zip", "start", "end", "axes"], ["bytes"])],
        "clipdex_assets",
        inputs=[
            helper.make_tensor_value_info("start", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("end", TensorProto.INT64, [1]),
        ],
        outputs=[helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["count"])],
        initializer=[zipped, axes],
    )
    model = helper.make_model(
        graph,
        producer_name="clipdex",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    onnx.save(model, path)
    check_limits(path)
