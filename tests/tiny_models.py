"""Model repositories of a few kilobytes, in the shapes of design.md: NAME_image, NAME_text, NAME_assets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

BLOB = b"the assets of a tiny model " * 500
TABLE = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)

IMAGE_CONFIG = """
name: "NAME"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "pixels" data_type: TYPE_UINT8 dims: [ 4, 4, 3 ] } ]
output [ { name: "embedding" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { kind: KIND_AUTO count: 1 } ]
dynamic_batching { max_queue_delay_microseconds: 2000 }
"""
TEXT_CONFIG = """
name: "NAME"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "token_ids" data_type: TYPE_INT32 dims: [ 6 ] } ]
output [ { name: "embedding" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { kind: KIND_AUTO count: 1 } ]
dynamic_batching { max_queue_delay_microseconds: 300000 }
"""
ASSETS_CONFIG = """
name: "NAME"
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "start" data_type: TYPE_INT64 dims: [ 1 ] }, { name: "end" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "bytes" data_type: TYPE_UINT8 dims: [ -1 ] } ]
instance_group [ { kind: KIND_AUTO count: 1 } ]
"""

Shape = Sequence[int | str]
Values = Mapping[str, tuple[int, Shape]]  # element type and shape of each input or output


def write_model(
    repository: Path,
    name: str,
    config: str,
    nodes: Sequence[NodeProto],
    inputs: Values,
    outputs: Values,
    constants: Mapping[str, np.ndarray] | None = None,
    file: str = "model.onnx",
) -> Path:
    """Write NAME/config.pbtxt and NAME/1/model.onnx; "NAME" in `config` becomes `name`."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *value) for key, value in inputs.items()],
        [helper.make_tensor_value_info(key, *value) for key, value in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = repository / name / "1" / file
    path.parent.mkdir(parents=True)
    onnx.save(model, str(path))
    (repository / name / "config.pbtxt").write_text(config.replace("NAME", name))
    return repository


def image_model(repository: Path, name: str = "tiny_image", config: str = IMAGE_CONFIG) -> Path:
    """The mean colour: pixels UINT8 (B, 4, 4, 3) -> embedding FP32 (B, 3)."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["embedding"], axes=[1, 2], keepdims=0),
    ]
    inputs: Values = {"pixels": (TensorProto.UINT8, ["b", 4, 4, 3])}
    return write_model(repository, name, config, nodes, inputs, {"embedding": (TensorProto.FLOAT, ["b", 3])})


def text_model(
    repository: Path, name: str = "tiny_text", config: str = TEXT_CONFIG, file: str = "model.onnx"
) -> Path:
    """The mean of rows of TABLE: token_ids INT32 (B, 6) -> embedding FP32 (B, 4). An id above 49 is an error."""
    nodes = [
        helper.make_node("Gather", ["table", "token_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["embedding"], axes=[1], keepdims=0),
    ]
    inputs: Values = {"token_ids": (TensorProto.INT32, ["b", 6])}
    outputs: Values = {"embedding": (TensorProto.FLOAT, ["b", 4])}
    return write_model(repository, name, config, nodes, inputs, outputs, {"table": TABLE}, file)


def assets_model(repository: Path, name: str = "tiny_assets", config: str = ASSETS_CONFIG) -> Path:
    """A range of BLOB: start, end INT64 (1,) -> bytes UINT8 (n,)."""
    nodes = [helper.make_node("Slice", ["blob", "start", "end"], ["bytes"])]
    inputs: Values = {"start": (TensorProto.INT64, [1]), "end": (TensorProto.INT64, [1])}
    outputs: Values = {"bytes": (TensorProto.UINT8, ["n"])}
    blob = np.frombuffer(BLOB, np.uint8)
    return write_model(repository, name, config, nodes, inputs, outputs, {"blob": blob})


def slow_model(repository: Path, name: str = "slow", size: int = 256) -> Path:
    """`rounds` products of a matrix with itself, one after the other: as slow as one asks it to be."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "weights"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("Squeeze", ["rounds"], ["count"]),
        helper.make_node("Loop", ["count", "", "weights"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["sum"], keepdims=0),
        helper.make_node("Unsqueeze", ["sum", "axis"], ["result"]),
    ]
    config = """
name: "NAME"
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "rounds" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "result" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
    constants: dict[str, np.ndarray] = {"weights": np.eye(size, dtype=np.float32), "axis": np.array([0], np.int64)}
    inputs: Values = {"rounds": (TensorProto.INT64, [1])}
    return write_model(repository, name, config, nodes, inputs, {"result": (TensorProto.FLOAT, [1])}, constants)


def tiny_repository(repository: Path) -> Path:
    """tiny_image, tiny_text and tiny_assets."""
    for write in (image_model, text_model, assets_model):
        write(repository)
    return repository
