"""Half precision and fused operators: what is rewritten, what stays float32, and that the numbers hold."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.base.errors import ExportError, InvalidArgument, ParityError

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_clip import TINY, edit_json, everything_in, write_tiny  # noqa: E402

import clipdex  # noqa: E402
from clipdex.wire.model_config import read_config  # noqa: E402
from clipdex_export import ExportReport, export_model, onnx_files, precisions  # noqa: E402
from clipdex_export import gate as parity  # noqa: E402
from clipdex_export.accelerators import leading_tensors  # noqa: E402
from clipdex_export.float16 import to_float16  # noqa: E402
from clipdex_export.fusion import fuse  # noqa: E402
from clipdex_export.precisions import PRECISIONS, Precision  # noqa: E402
from clipdex_export.targets import TARGETS  # noqa: E402

LAYERS = 2
TARGET_NAMES = ["auto", "cuda", "tensorrt"]
TOWERS = ["image", "text"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint"), merges=100, shape=TINY.cut_to(LAYERS))


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    repository = tmp_path_factory.mktemp("repository")
    return {
        target: export_model(
            checkpoint, name=f"tiny_{target}", repository=repository, target=target, max_batch_size=4
        )
        for target in TARGET_NAMES
    }


def graph(report: ExportReport, tower: str) -> Any:
    return onnx.load(report.paths[tower] / "1" / "model.onnx").graph


def layer_norms(report: ExportReport, tower: str) -> list[Any]:
    return [node for node in graph(report, tower).node if node.op_type == "LayerNormalization"]


def weights_by_type(report: ExportReport, tower: str) -> Counter[str]:
    """Numbers in float weights, by type."""
    found: Counter[str] = Counter()
    for tensor in graph(report, tower).initializer:
        found[onnx.TensorProto.DataType.Name(tensor.data_type)] += int(np.prod(tensor.dims))
    return found


@pytest.fixture
def tower_file(exported: dict[str, ExportReport], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a float32 tower's file, to rewrite."""

    def copy(tower: str) -> Path:
        path = tmp_path / f"tiny_{tower}" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        shutil.copy(exported["auto"].paths[tower] / "1" / "model.onnx", path)
        return path

    return copy


@pytest.mark.slow
def test_a_gpu_s_towers_are_half_precision_unless_asked_otherwise(
    exported: dict[str, ExportReport], checkpoint: Path, tmp_path: Path
) -> None:
    stated = {target: report.card.precision for target, report in exported.items()}
    assert stated == {"auto": "fp32", "cuda": "fp16", "tensorrt": "fp16"}
    whole = export_model(checkpoint, name="whole", repository=tmp_path, target="cuda", precision="fp32")
    assert whole.card.precision == "fp32" and whole.card.parity["floor"] == 0.9999
    assert weights_by_type(whole, "image")["FLOAT16"] == 0


def test_the_fingerprint_does_not_know_the_precision(exported: dict[str, ExportReport]) -> None:
    assert len({report.card.fingerprint for report in exported.values()}) == 1


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_the_gate_held_it_to_the_floor_of_its_precision(exported: dict[str, ExportReport], target: str) -> None:
    parity = exported[target].card.parity
    assert parity["floor"] == PRECISIONS["fp16"].floor == 0.999
    assert parity["image_cosine_min"] >= 0.999 and parity["text_cosine_min"] >= 0.999
    # Rounded weights give other numbers: equal ones would mean that nothing was rounded.
    assert parity["image_cosine_min"] < 1


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_the_network_s_weights_are_half_and_the_tower_s_own_are_not(
    exported: dict[str, ExportReport], target: str, tower: str
) -> None:
    found = weights_by_type(exported[target], tower)
    whole = weights_by_type(exported["auto"], tower)
    kept = {"image": 6, "text": 77}[tower]  # mean and std; where a position stands
    norms = {name for node in layer_norms(exported[target], tower) for name in node.input[1:]}
    norm_weights = sum(
        int(np.prod(tensor.dims))
        for tensor in graph(exported[target], tower).initializer
        if tensor.name in norms and tensor.data_type == onnx.TensorProto.FLOAT
    )
    assert bool(norm_weights) == (target == "tensorrt")
    assert found["FLOAT"] == kept + norm_weights
    assert found["FLOAT16"] >= 0.9 * (whole["FLOAT"] - kept)


@pytest.mark.parametrize("tower", TOWERS)
def test_for_tensorrt_every_layer_norm_takes_and_gives_float32(
    exported: dict[str, ExportReport], tower: str
) -> None:
    """From version 11 on it computes in the types that a file states; squares can leave float16's range."""
    path = exported["tensorrt"].paths[tower] / "1" / "model.onnx"
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    norms = layer_norms(exported["tensorrt"], tower)
    assert len(norms) >= 2 * LAYERS
    for node in norms:
        assert {types[name] for name in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT}
    products = [node for node in inferred.node if node.op_type == "MatMul"]
    assert {types[node.output[0]] for node in products} == {onnx.TensorProto.FLOAT16}


@pytest.mark.slow
def test_an_engine_s_name_tells_models_of_one_name_and_other_weights_apart(
    exported: dict[str, ExportReport], tmp_path: Path
) -> None:
    """onnxruntime names an engine by the model's name, inputs, nodes and its own version, not by the weights."""
    other = write_tiny(tmp_path / "fine-tuned", merges=100, seed=1, shape=TINY.cut_to(LAYERS))
    repository = tmp_path / "repository"
    tuned = export_model(other, name="tiny_tensorrt", repository=repository, target="tensorrt", max_batch_size=4)
    assert tuned.card.fingerprint != exported["tensorrt"].card.fingerprint
    found: dict[str, set[str]] = {tower: set() for tower in TOWERS}
    for report in (exported["tensorrt"], tuned):
        for tower in TOWERS:
            file = report.paths[tower] / "1" / "model.onnx"
            config = read_config(report.paths[tower] / "config.pbtxt")
            tensorrt, _ = config.optimization.execution_accelerators.gpu_execution_accelerator
            prefix = tensorrt.parameters["trt_engine_cache_prefix"]
            assert prefix == f"tiny_tensorrt_{tower}_{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
            found[tower].add(prefix)
    assert [len(prefixes) for prefixes in found.values()] == [2, 2]


def test_weights_beside_a_file_count_for_its_engine_s_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    alone = onnx_files.file_sha256(path)
    assert alone == hashlib.sha256(b"graph").hexdigest()
    names = {alone}
    for weights in (b"one", b"two"):
        (tmp_path / "model.onnx.data").write_bytes(weights)
        names.add(onnx_files.file_sha256(path))
    assert len(names) == 3


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("target", TARGET_NAMES)
def test_what_goes_in_and_comes_out_is_the_same_in_every_precision(
    exported: dict[str, ExportReport], target: str, tower: str
) -> None:
    def signature(values: Any) -> list[tuple[str, int, list[int]]]:
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in values
        ]

    found, expected = graph(exported[target], tower), graph(exported["auto"], tower)
    assert signature(found.input) == signature(expected.input)
    assert signature(found.output) == signature(expected.output)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_the_norm_is_taken_in_float32(exported: dict[str, ExportReport], target: str, tower: str) -> None:
    nodes = {output: node for node in graph(exported[target], tower).node for output in node.output}
    (norm,) = [node for node in nodes.values() if node.op_type == "ReduceL2"]
    before = nodes[norm.input[0]]
    assert before.op_type == "Cast"
    assert before.attribute[0].i == onnx.TensorProto.FLOAT
    assert nodes[before.input[0]].op_type == "MatMul"


@pytest.mark.parametrize("tower", TOWERS)
def test_cuda_has_an_attention_operator_for_every_layer(exported: dict[str, ExportReport], tower: str) -> None:
    found = graph(exported["cuda"], tower)
    fused = [node for node in found.node if node.op_type == "Attention"]
    assert len(fused) == LAYERS and {node.domain for node in fused} == {"com.microsoft"}
    assert not any(node.op_type == "Softmax" for node in found.node)
    for node in fused:
        causal = [a.i for a in node.attribute if a.name == "unidirectional"]
        # Texts look back only: by the operator's own flag, since fast kernels take no mask.
        assert causal == ([1] if tower == "text" else []) and len(node.input) <= 4
    assert not any("mask" in tensor.name for tensor in found.initializer)


@pytest.mark.parametrize("target", ["auto", "tensorrt"])
def test_other_targets_can_be_read_by_anybody(exported: dict[str, ExportReport], target: str) -> None:
    for tower in TOWERS:
        assert {node.domain for node in graph(exported[target], tower).node} == {""}


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_a_client_gets_the_same_vectors(exported: dict[str, ExportReport], target: str) -> None:
    repository = exported["auto"].repository
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    texts = ["a red circle", "", "two blue squares " * 60]
    with (
        clipdex.connect(f"inproc:{repository}", model="tiny_auto") as whole,
        clipdex.connect(f"inproc:{repository}", model=f"tiny_{target}") as half,
    ):
        assert (whole.embed_pixels(pixels) * half.embed_pixels(pixels)).sum(axis=1).min() > 0.9999
        assert (whole.embed_texts(texts) * half.embed_texts(texts)).sum(axis=1).min() > 0.9999


def test_a_precision_that_loses_too_much_is_not_installed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_float4(path: Path, *, wide_norms: bool = False) -> None:
        """Sixteen steps of a weight's range."""
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 2:
                step = np.abs(values).max() / 2
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values / step) * step, tensor.name))
        onnx.save(model, path)

    coarse = {"fp16": Precision("fp16", 0.999, to_float4)}
    monkeypatch.setattr(precisions, "PRECISIONS", coarse)
    with pytest.raises(ParityError, match=r"departs from the checkpoint's own .* the floor is 0\.999"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", precision="fp16")
    assert everything_in(tmp_path) == []


@pytest.fixture
def beyond_float16(tmp_path: Path) -> Path:
    """A checkpoint that float32 has no trouble with: one value of the first MLP is too large for float16."""
    from safetensors.torch import load_file, save_file

    checkpoint = write_tiny(tmp_path / "beyond", merges=100, shape=TINY.cut_to(LAYERS))
    weights = load_file(checkpoint / "model.safetensors")
    mlp = "vision_model.encoder.layers.0.mlp"
    weights[f"{mlp}.fc1.bias"][3] = 65_472
    weights[f"{mlp}.fc1.weight"][3] *= 1000
    weights[f"{mlp}.fc2.weight"][:, 3] = 0  # else all pictures would be alike
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_what_leaves_the_range_of_float16_is_refused(beyond_float16: Path, tmp_path: Path, target: str) -> None:
    """onnxruntime's CPU computes float16 in float32, and would give the right vectors where a GPU gives NaN."""
    repository = tmp_path / "repository"
    with pytest.raises(
        ParityError, match=r"no vector for '.*the range of float16, .* in \S*layers\.0/mlp/fc1/Add; .* fp32"
    ):
        export_model(beyond_float16, name="tiny", repository=repository, target=target)
    assert not repository.exists()


def test_infinities_that_do_no_harm_are_none(tower_file: Callable[[str], Path]) -> None:
    """A mask's lowest number and a score below zero are -inf in float16, to a softmax as good as its weight 0."""
    path = tower_file("text")
    to_float16(path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float16 and "mask" in tensor.name:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.where(values < 0, -np.inf, 0).astype(np.float16), tensor.name)
            )
    onnx.save(model, path)
    ids = np.full((2, 77), 5, np.int32)
    vectors, overflow = parity._run(path, "token_ids", ids)
    assert np.isfinite(vectors).all() and overflow == ""


def test_the_gate_rounds_what_is_passed_between_nodes(tmp_path: Path) -> None:
    """2048 + 1 is 2048 in float16. A session on the CPU says 2049, and so judges what no GPU will compute."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    half, whole = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    weights = {"one": np.array([1], np.float16), "large": np.array([2048], np.float16)}
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["x"], ["given"], to=half),
            node("Add", ["given", "one"], ["sum"]),
            node("Sub", ["sum", "large"], ["rest"]),
            node("Cast", ["rest"], ["embedding"], to=whole),
        ],
        "sum",
        [value("x", whole, ["batch", 1])],
        [value("embedding", whole, ["batch", 1])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10), path)
    given = np.full((3, 1), 2048, np.float32)
    assert (parity._session(path, None).run(None, {"x": given})[0] == 1).all()
    vectors, _ = parity._run(path, "x", given)
    assert (vectors == 0).all()


def test_half_precision_with_its_weights_in_a_file_beside_it(
    checkpoint: Path, exported: dict[str, ExportReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a tower of more than 2 GiB has them: the gate's copy finds them there."""
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", 10_000)
    report = export_model(checkpoint, name="tiny", repository=tmp_path, target="tensorrt")
    assert (report.paths["image"] / "1" / "model.onnx.data").exists()
    expected = exported["tensorrt"].card.parity["image_cosine_min"]
    assert report.card.parity["image_cosine_min"] == pytest.approx(expected, abs=1e-7)


def test_values_beyond_float16_become_its_bounds(tower_file: Callable[[str], Path]) -> None:
    path = tower_file("text")
    to_float16(path)
    masks = [t for t in onnx.load(path).graph.initializer if "mask" in t.name]
    (mask,) = (onnx.numpy_helper.to_array(t) for t in masks)
    assert mask.dtype == np.float16 and np.isfinite(mask).all()
    assert mask.min() == np.finfo(np.float16).min


def test_a_graph_without_modules_is_not_halved(tower_file: Callable[[str], Path]) -> None:
    path = tower_file("image")
    model = onnx.load(path)
    for position, node in enumerate(model.graph.node):
        node.name = f"/{position}"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="its nodes are not named as expected"):
        to_float16(path)


def test_attention_that_is_not_found_is_an_error(tower_file: Callable[[str], Path]) -> None:
    with pytest.raises(
        ExportError, match=rf"fused the attention of {LAYERS} of 12 layers: .* target auto instead"
    ):
        fuse(tower_file("image"), heads=1, width=64, layers=12)


def test_an_export_whose_attention_is_not_found_leaves_no_trace(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    def fuse_nothing(path: str, **_: object) -> Any:
        return BertOnnxModel(onnx.load(path))

    monkeypatch.setattr(optimizer, "optimize_model", fuse_nothing)
    with pytest.raises(ExportError, match="fused the attention of 0 of 2 layers"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", target="cuda")
    assert everything_in(tmp_path) == []


def test_where_tensorrt_may_begin(exported: dict[str, ExportReport]) -> None:
    path = exported["tensorrt"].paths["image"] / "1" / "model.onnx"
    found = leading_tensors(path, "pixels", (64, 64, 3))
    assert [dims for _, dims in found] == [(3, 64, 64), (3, 64, 64)]
    given = {name for node in graph(exported["tensorrt"], "image").node for name in node.output}
    assert {name for name, _ in found} <= given
    assert leading_tensors(exported["tensorrt"].paths["text"] / "1" / "model.onnx", "token_ids", (77,)) == ()
    config = (exported["tensorrt"].paths["image"] / "config.pbtxt").read_text()
    assert f"pixels:4x64x64x3,{found[0][0]}:4x3x64x64,{found[1][0]}:4x3x64x64" in config


@pytest.fixture
def on_the_cpu(exported: dict[str, ExportReport], tmp_path: Path) -> Path:
    """What was exported for CUDA, where the test is: the kind is exchanged, all else is as exported."""
    repository = tmp_path / "repository"
    for path in exported["cuda"].paths.values():
        shutil.copytree(path, repository / path.name)
        config = repository / path.name / "config.pbtxt"
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    return repository


@pytest.mark.triton
def test_a_real_triton_serves_it(on_the_cpu: Path) -> None:
    from clipdex_server import LocalTriton

    with LocalTriton(on_the_cpu, stop_timeout_s=0) as server, clipdex.connect(server.address) as client:
        assert client.card.precision == "fp16"
        assert client.embed_texts(["a red circle"]).shape == (1, 32)


@pytest.mark.triton
def test_a_real_triton_computes_the_warm_up(on_the_cpu: Path) -> None:
    """One that the tower cannot take is noticed before the server is ready."""
    from clipdex.base.errors import LocalServerError
    from clipdex_server import LocalTriton

    config = on_the_cpu / "tiny_cuda_text" / "config.pbtxt"
    zeros = "dims: [ 77 ] zero_data"
    assert config.read_text().count(zeros) == 2
    config.write_text(config.read_text().replace(zeros, "dims: [ 77 ] random_data"))
    with pytest.raises(LocalServerError, match="did not start"), LocalTriton(on_the_cpu, stop_timeout_s=0):
        pass


@pytest.mark.parametrize("change", [{"target": "gpu"}, {"precision": "int4"}, {"instances": 0}])
def test_what_an_export_does_not_know(checkpoint: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", **change)
    assert everything_in(tmp_path) == []


def test_every_target_s_precision_is_one() -> None:
    assert {target.precision for target in TARGETS.values()} <= set(PRECISIONS)
    assert replace(TARGETS["cuda"], fused=False).domains == ("ai.onnx",)


@pytest.mark.slow
def test_a_checkpoint_with_plain_gelu(tmp_path: Path) -> None:
    """As LAION's have it, and the demo's: another activation, other fused operators."""
    checkpoint = write_tiny(tmp_path / "checkpoint", shape=TINY.cut_to(LAYERS))
    import json

    config = json.loads((checkpoint / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["hidden_act"] = "gelu"
    edit_json(checkpoint / "config.json", **config)
    report = export_model(checkpoint, name="gelu", repository=tmp_path / "repository", target="cuda")
    assert Counter(node.op_type for node in graph(report, "image").node)["Attention"] == LAYERS
