"""Channels evened out before int8: float32 vectors keep every bit, and large channels no longer spoil int8."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from conftest import MODEL_REPOSITORY
from onnx import TensorProto, helper, numpy_helper

from clipdex.base.errors import ExportError
from clipdex_export.demo.draw import draw
from clipdex_export.int8 import products_of, quantize, to_int8
from clipdex_export.retrieval_set import draw_scenes
from clipdex_export.sessions import open_session
from clipdex_export.smoothing import Smoother, smooth

Rows = npt.NDArray[Any]


def drawn(seed: str, count: int) -> Rows:
    """Pictures as the demo model takes them: uint8 (N, 64, 64, 3)."""
    return np.stack(
        [np.asarray(draw(scene, f"{seed}/{n}", size=64)) for n, scene in enumerate(draw_scenes(count, seed))]
    )


@pytest.fixture(scope="module")
def pixels() -> Rows:
    return drawn("calibrated on", 24)


@pytest.fixture(scope="module")
def unseen() -> Rows:
    return drawn("unseen", 64)


def copied(part: str, to: Path) -> Path:
    """The demo model's float32 tower, whose weights are trained, where a test may rewrite it."""
    path = to / f"demo_{part}" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    return Path(shutil.copy(MODEL_REPOSITORY / f"demo_{part}" / "1" / "model.onnx", path))


def run(path: Path, rows: Rows) -> Rows:
    session = open_session(path)
    vectors: Rows = session.run(None, {session.get_inputs()[0].name: rows})[0]
    return vectors


def products(path: Path) -> list[str]:
    return products_of(onnx.load(path).graph)[:-1]


def with_large_channels(path: Path) -> None:
    """Make five channels behind every normalisation 30 to 90 times as large, and their weights as much smaller."""
    model = onnx.load(path)
    smoother = Smoother(model.graph)
    for each in smoother.channels(products(path)):
        scales = np.ones(128, np.float32)
        scales[[3, 20, 47, 90, 101]] = 1 / np.array([30, 40, 50, 70, 90], np.float32)
        smoother.divide(each, scales)
    onnx.save(model, path)


@pytest.mark.parametrize("part", ["image", "text"])
def test_the_float32_tower_gives_the_same_vectors_to_the_last_bit(part: str, pixels: Rows, tmp_path: Path) -> None:
    path = copied(part, tmp_path)
    name, rows = "pixels", pixels
    if part == "text":
        name, rows = "token_ids", np.random.default_rng(0).integers(0, 774, (24, 32), dtype=np.int32)
    with_large_channels(path)
    before, found = run(path, rows), Smoother(onnx.load(path).graph).channels(products(path))
    # Of each layer, the two normalisations: four products of its six.
    assert len(products(path)) == 3 * len(found) and sum(len(each.products) for each in found) == 2 * len(found)
    old = path.read_bytes()
    smooth(path, name, rows, products(path))
    assert path.read_bytes() != old
    np.testing.assert_array_equal(run(path, rows), before)


def test_a_few_large_channels_do_not_spoil_int8(pixels: Rows, unseen: Rows, tmp_path: Path) -> None:
    path = copied("image", tmp_path)
    expected = run(path, unseen)
    with_large_channels(path)
    assert (run(path, unseen) * expected).sum(axis=1).min() > 0.99999
    bare = path.with_name("bare.onnx")
    quantize(path, bare, "pixels", pixels, products(path))
    assert (run(bare, unseen) * expected).sum(axis=1).min() < 0.95
    to_int8(path, "pixels", pixels)
    assert (run(path, unseen) * expected).sum(axis=1).min() > 0.998
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_a_tower_without_large_channels_stays(pixels: Rows, tmp_path: Path) -> None:
    """Its trained weights differ by less: scales in powers of two would even nothing out."""
    path = copied("image", tmp_path)
    before = path.read_bytes()
    smooth(path, "pixels", pixels, products(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(("gain", "evened"), [(7, False), (9, True)])
def test_how_uneven_is_worth_a_change(gain: float, evened: bool, tmp_path: Path) -> None:
    """The scale is the root of the gain, 2.6 or 3, and the nearest power of two 2 or 4."""
    gains, even = np.array([1, 1, 1, gain], np.float32), np.ones((C, 2), np.float32)
    rows = np.array([[1, -1, 1, -1]], np.float32)
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"], name="scale"), product()]
    path = written(tmp_path, nodes, {"gain": gains, "weight": even})
    smooth(path, "x", rows, ["product"])
    assert constants(path)["gain"].tolist() == ([1, 1, 1, gain / 4] if evened else gains.tolist())


# Small graphs: x (N, 4) → …

C = 4
WEIGHT = np.array([[1, -2], [0.5, 0.25], [4, 1], [-1, 0.125]], np.float32)
GAIN, BIAS = np.array([1, 64, 16, 0.125], np.float32), np.array([0.5, -8, 0, 1], np.float32)
ROWS = np.random.default_rng(1).normal(size=(64, C)).astype(np.float32)
NORM = helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["y"], name="norm", axis=-1)


def product(weight: str = "weight", of: str = "y", to: str = "z", name: str = "product") -> Any:
    return helper.make_node("MatMul", [of, weight], [to], name=name)


def written(
    to: Path, nodes: Sequence[Any], more: Mapping[str, Rows] | None = None, outputs: Sequence[str] = ("z",)
) -> Path:
    value = helper.make_tensor_value_info
    weights = {"weight": WEIGHT, "gain": GAIN, "bias": BIAS} | dict(more or {})
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, ["n", C])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    path = to / "small_image" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def constants(path: Path) -> dict[str, Rows]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def outputs(path: Path) -> list[Rows]:
    found: list[Rows] = open_session(path).run(None, {"x": ROWS})
    return found


def test_channels_are_divided_by_the_formula_in_powers_of_two(tmp_path: Path) -> None:
    path = written(tmp_path, [NORM, product()])
    y = open_session(written(tmp_path / "whole", [NORM, product()], outputs=["y"])).run(None, {"x": ROWS})[0]
    smooth(path, "x", ROWS, ["product"], strength=0.75)
    found = constants(path)
    scales = GAIN / found["gain"]
    exact = np.log2(np.abs(y).max(axis=0) ** 0.75 / np.abs(WEIGHT).max(axis=1) ** 0.25)
    assert (np.log2(scales) == np.rint(exact - np.median(exact))).all() and len(set(scales)) > 2
    np.testing.assert_array_equal(found["bias"] * scales, BIAS)
    np.testing.assert_array_equal(found["weight"], WEIGHT * scales[:, None])


def test_the_weights_of_all_products_that_read_a_channel_count(tmp_path: Path) -> None:
    other = np.array([[64], [64], [64], [64]], np.float32)
    nodes = [NORM, product(), product("other", to="v", name="second")]
    path = written(tmp_path, nodes, {"other": other}, ["z", "v"])
    before = outputs(path)
    largest = Smoother(onnx.load(path).graph)
    (channels,) = largest.channels(["product", "second"])
    assert largest.largest_weights(channels).tolist() == [64, 64, 64, 64]
    smooth(path, "x", ROWS, ["product", "second"])
    for now, then in zip(outputs(path), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not np.array_equal(constants(path)["other"], other)


def test_a_channel_that_is_always_zero_stays(tmp_path: Path) -> None:
    gain, bias, weight = GAIN.copy(), BIAS.copy(), WEIGHT.copy()
    gain[0] = bias[0] = 0
    gain[1] = 4096
    weight[3] = 0
    path = written(tmp_path, [NORM, product()], {"gain": gain, "bias": bias, "weight": weight})
    smooth(path, "x", ROWS, ["product"])
    found = constants(path)
    assert all(np.isfinite(each).all() for each in found.values())
    np.testing.assert_array_equal(found["weight"][0], weight[0])
    assert found["gain"][3] == gain[3] and found["gain"][1] != gain[1]


def test_a_normalisation_of_separate_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["scaled"], name="scale"),
        helper.make_node("Add", ["scaled", "bias"], ["y"], name="shift"),
        product(),
    ]
    assert_evened_out(written(tmp_path, nodes))


def test_a_normalisation_without_bias(tmp_path: Path) -> None:
    assert_evened_out(written(tmp_path, [helper.make_node("Mul", ["gain", "x"], ["y"], name="scale"), product()]))


def assert_evened_out(path: Path) -> None:
    before, old = outputs(path), constants(path)
    smooth(path, "x", ROWS, ["product"])
    assert not np.array_equal(constants(path)["gain"], old["gain"])
    np.testing.assert_array_equal(outputs(path)[0], before[0])


def test_what_others_read_of_shared_constants_stays(tmp_path: Path) -> None:
    """PyTorch's exporter writes equal constants once, and the others as its Identity."""
    nodes = [
        helper.make_node("Identity", ["gain"], ["same gain"], name="same"),
        helper.make_node("LayerNormalization", ["x", "same gain", "bias"], ["y"], name="norm", axis=-1),
        product(),
        helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["u"], name="other", axis=-1),
        product(of="u", to="v", name="not quantized"),
    ]
    path = written(tmp_path, nodes, outputs=["z", "v"])
    before = outputs(path)
    smooth(path, "x", ROWS, ["product"])
    for now, then in zip(outputs(path), before, strict=True):
        np.testing.assert_array_equal(now, then)
    found = constants(path)
    for name, values in {"gain": GAIN, "bias": BIAS, "weight": WEIGHT}.items():
        np.testing.assert_array_equal(found[name], values)
    assert not np.array_equal(found["same gain/norm"], GAIN) and not np.array_equal(
        found["weight/product"], WEIGHT
    )
    assert "same" not in [node.name for node in onnx.load(path).graph.node]


def residual() -> list[Any]:
    return [NORM, product(), helper.make_node("Add", ["y", "x"], ["sum"], name="sum")]


def no_product_of_int8() -> list[Any]:
    return [NORM, product(), product(to="sum", name="not quantized")]


def an_output() -> list[Any]:
    return [NORM, product(), helper.make_node("Identity", ["x"], ["sum"])]


def no_gain() -> list[Any]:
    return [helper.make_node("Relu", ["x"], ["y"]), product(), helper.make_node("Identity", ["x"], ["sum"])]


def a_bias_alone() -> list[Any]:
    return [helper.make_node("Add", ["x", "bias"], ["y"]), product(), helper.make_node("Identity", ["x"], ["sum"])]


def a_square_with_a_bias() -> list[Any]:
    return [
        helper.make_node("Mul", ["x", "x"], ["square"], name="square"),
        helper.make_node("Add", ["square", "bias"], ["y"], name="shift"),
        product(),
        helper.make_node("Identity", ["x"], ["sum"]),
    ]


def a_gain_that_others_read() -> list[Any]:
    return [
        helper.make_node("Mul", ["x", "gain"], ["sum"], name="scale"),
        helper.make_node("Add", ["sum", "bias"], ["y"], name="shift"),
        product(),
    ]


def a_branch() -> list[Any]:
    def inner(of: str) -> Any:
        node = helper.make_node("Neg", [of], [f"negative {of}"])
        value = helper.make_tensor_value_info(f"negative {of}", TensorProto.FLOAT, None)
        return helper.make_graph([node], of, [], [value])

    return [
        NORM,
        product(),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["sum"], then_branch=inner("y"), else_branch=inner("x")),
    ]


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        (residual, ()),
        (no_product_of_int8, ()),
        (an_output, ("y",)),
        (no_gain, ()),
        (a_bias_alone, ()),
        (a_square_with_a_bias, ()),
        (a_gain_that_others_read, ()),
        (a_branch, ()),
    ],
)
def test_what_cannot_be_evened_out_stays(
    nodes: Callable[[], list[Any]], more: Sequence[str], tmp_path: Path
) -> None:
    path = written(tmp_path, nodes(), outputs=["z", "sum", *more])
    before = path.read_bytes()
    outputs(path)  # it is a valid graph
    smooth(path, "x", ROWS, ["product"])
    assert path.read_bytes() == before


def test_a_tower_that_fails_on_the_calibration_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, [NORM, product()])
    with pytest.raises(ExportError, match="small_image fails on the calibration's rows: "):
        smooth(path, "x", ROWS[:, :3], ["product"])
