"""TensorFloat-32: what it does to a tower, computed on any machine, and what an export for it asks a GPU for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from test_export_configs import accelerators, served  # noqa: E402

from clipdex.base.errors import InvalidArgument  # noqa: E402
from clipdex_export.precisions import PRECISIONS, find_precision  # noqa: E402
from clipdex_export.sessions import open_session  # noqa: E402
from clipdex_export.targets import TARGETS  # noqa: E402
from clipdex_export.tensorfloat32 import as_tensorfloat32  # noqa: E402
from clipdex_server.runtimes import serves_tf32  # noqa: E402


def short(values: Any) -> Any:
    """Round float32 to 11 significant bits, to even, by its bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = bits + np.uint64(0xFFF) + ((bits >> np.uint64(13)) & np.uint64(1))
    return (bits & ~np.uint64(0x1FFF)).astype(np.uint32).view(np.float32)


def run(model: Any, **given: Any) -> Any:
    return open_session(model.SerializeToString(), optimized=False).run(None, given)[0]


def test_the_factors_of_products_are_rounded_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, bias, third = (rng.normal(size=size).astype(np.float32) for size in ((6, 6), (6,), (6,)))
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "first"], ["c"]),
        helper.make_node("Mul", ["c", "third"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])],
        [numpy_helper.from_array(v, name) for name, v in (("first", first), ("bias", bias), ("third", third))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.normal(size=(2, 6)).astype(np.float32)
    b = np.exp(short(x) @ short(first) + bias)
    expected = (short(b) @ short(first)) * third
    np.testing.assert_allclose(run(as_tensorfloat32(tmp_path / "model.onnx"), x=x), expected, rtol=2e-6, atol=2e-6)
    assert np.abs(run(model, x=x) - expected).max() > 1e-4


def test_a_demo_tower_stays_close_and_is_not_the_same() -> None:
    path = MODEL_REPOSITORY / "demo_text" / "1" / "model.onnx"
    given = {"token_ids": np.random.default_rng(0).integers(1, 200, (4, 32), dtype=np.int32)}
    cosines = (run(onnx.load(path), **given) * run(as_tensorfloat32(path), **given)).sum(axis=1)
    assert 0.9999 < cosines.min() < 0.99999999


def test_tf32_is_for_cuda_alone_and_says_so() -> None:
    assert (PRECISIONS["tf32"].floor, find_precision("tf32", "cuda").convert) == (0.999, None)
    assert PRECISIONS["tf32"].rounding("cuda") is as_tensorfloat32
    for target in set(TARGETS) - {"cuda"}:
        with pytest.raises(InvalidArgument, match=f"precision tf32 is for the target cuda, not for {target}"):
            find_precision("tf32", target)


@pytest.mark.parametrize(("precision", "asked"), [("tf32", "1"), ("fp32", "0"), ("fp16", "0")])
def test_only_an_export_in_tf32_asks_a_gpu_to_round(precision: str, asked: str) -> None:
    for config in served("cuda", precision=precision).values():
        assert accelerators(config)["cuda"]["use_tf32"] == asked


def test_a_local_server_leaves_the_rounding_to_configurations_where_one_asks_for_it(tmp_path: Path) -> None:
    def put(name: str, target: str, precision: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(str(served(target, precision=precision)["image"]))

    put("exact", "cuda", "fp32")
    assert not serves_tf32(tmp_path, None)
    put("rounded", "cuda", "tf32")
    assert serves_tf32(tmp_path, None)
    assert not serves_tf32(tmp_path, ["exact"])
    put("engine", "tensorrt", "fp32")  # which only the variable keeps from rounding
    assert not serves_tf32(tmp_path, None)
    assert serves_tf32(tmp_path, ["exact", "rounded"])


def test_the_docs_say_that_no_gpu_has_run_it() -> None:
    text = (MODEL_REPOSITORY.parent / "docs" / "gpu.md").read_text()
    assert re.search(r"--precision tf32.*\*\*No GPU has run it\*\*", text, re.DOTALL)
