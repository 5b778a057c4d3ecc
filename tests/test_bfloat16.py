"""What bfloat16 does to a tower, computed on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ml_dtypes = pytest.importorskip("ml_dtypes")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from clipdex.base.errors import InvalidArgument  # noqa: E402
from clipdex_export.bfloat16 import as_bfloat16  # noqa: E402
from clipdex_export.precisions import PRECISIONS, find_precision  # noqa: E402
from clipdex_export.sessions import open_session  # noqa: E402


def short(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def run(model: Any, **given: np.ndarray) -> np.ndarray:
    session = open_session(model.SerializeToString(), optimized=False)
    found: np.ndarray = session.run(None, given)[0]
    return found


def test_all_is_rounded_up_to_the_last_product_and_nothing_behind_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("MatMul", ["squares", "first"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["c"]),
        helper.make_node("Mul", ["c", "third"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("first", first), ("second", second), ("third", np.float32(0.1)))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.normal(size=(2, 6)).astype(np.float32) / 3
    a = short(short(x * x) @ short(first))
    c = short(short(np.exp(a)) @ short(second))
    expected = c * np.float32(0.1)
    np.testing.assert_allclose(run(as_bfloat16(tmp_path / "model.onnx"), x=x), expected, rtol=1e-6)
    assert np.abs(run(model, x=x) - expected).max() > 1e-4


@pytest.mark.parametrize("part", ["image", "text"])
def test_the_demo_towers_stay_close_and_are_not_the_same(part: str) -> None:
    path = MODEL_REPOSITORY / f"demo_{part}" / "1" / "model.onnx"
    rng = np.random.default_rng(0)
    given = (
        {"pixels": rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)}
        if part == "image"
        else {"token_ids": rng.integers(1, 200, (4, 32), dtype=np.int32)}
    )
    exact, rounded = run(onnx.load(path), **given), run(as_bfloat16(path), **given)
    cosines = (exact * rounded).sum(axis=1)
    assert 0.999 < cosines.min() < 0.999999
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-5)  # the L2 norm is not rounded


def test_bf16_is_for_cpus_and_says_so() -> None:
    assert PRECISIONS["bf16"].floor == 0.999
    for target in ("auto", "cpu", "openvino"):
        assert find_precision("bf16", target).name == "bf16"
    for target in ("cuda", "tensorrt"):
        with pytest.raises(InvalidArgument, match=f"the targets auto, cpu and openvino, not for {target}"):
            find_precision("bf16", target)
