"""8-bit products for CPUs: what is quantized and what not, what it is calibrated on, that the numbers hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.base.errors import ExportError, InvalidArgument, ParityError, SourceError

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tiny_clip import TINY, everything_in, write_tiny  # noqa: E402

import clipdex  # noqa: E402
from clipdex_export import ExportReport, calibration, export_model, int8, precisions, verdict  # noqa: E402
from clipdex_export.calibration import calibration as calibrated  # noqa: E402
from clipdex_export.photographs import gate_pictures  # noqa: E402
from clipdex_export.precisions import Precision  # noqa: E402
from clipdex_export.sentences import CALIBRATION_TEXTS, GATE_TEXTS  # noqa: E402

ROOT = Path(__file__).parent.parent
LAYERS = 2
TOWERS = ["image", "text"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint"), merges=100, shape=TINY.cut_to(LAYERS))


@contextmanager
def rankings_ignored() -> Iterator[None]:
    """Export without a floor for rankings, as the product itself does with weights that it knows to be random.

    Random weights rank pictures by less than 8 bits can tell: the overlap is 0.953 with the seed 0, and 0.949 to
    0.964 with others and another family. Against the floor of 0.95, a last bit on another processor could decide.
    `demo` is held to it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdict, "OVERLAP_FLOOR", 0.0)
        yield


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    """The tiny model in float32 and in 8 bits, in one repository."""
    repository = tmp_path_factory.mktemp("repository")
    with rankings_ignored():
        return {
            name: export_model(checkpoint, name=name, repository=repository, precision=name)
            for name in ("fp32", "int8")
        }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """Trained weights, which alone say something of fidelity."""
    repository = tmp_path_factory.mktemp("repository")
    return export_model(
        ROOT / "export" / "checkpoints" / "demo", name="demo", repository=repository, precision="int8"
    )


def tower(report: ExportReport, part: str) -> Any:
    return onnx.load(report.paths[part] / "1" / "model.onnx")


@pytest.mark.parametrize("part", TOWERS)
def test_the_products_of_every_layer_are_in_8_bits_and_nothing_else(
    exported: dict[str, ExportReport], part: str
) -> None:
    graph = tower(exported["int8"], part).graph
    maker = {output: node for node in graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    quantized = [
        node
        for node in graph.node
        if node.op_type == "MatMul" and maker.get(node.input[1], node).op_type == "DequantizeLinear"
    ]
    # query, key, value, output and the two of the MLP
    assert len(quantized) == 6 * LAYERS and all("/layers." in node.name for node in quantized)
    for node in quantized:
        given, weight = (maker[name] for name in node.input)
        assert types[weight.input[0]] == onnx.TensorProto.INT8 and types[given.input[2]] == onnx.TensorProto.UINT8
    float_products = [node.name for node in graph.node if node.op_type == "MatMul" and node not in quantized]
    assert len(float_products) == 2 * LAYERS + 1  # of attention itself, and the last projection
    # Nothing is rounded behind a product.
    assert not any(node.op_type == "QuantizeLinear" and maker[node.input[0]] in quantized for node in graph.node)


@pytest.mark.parametrize("part", TOWERS)
def test_weights_have_a_scale_for_each_output_channel(exported: dict[str, ExportReport], part: str) -> None:
    graph = tower(exported["int8"], part).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scaled = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights]
    assert len(scaled) == 6 * LAYERS
    for node in scaled:
        weight, scale, zero = (weights[name] for name in node.input)
        assert scale.shape == (weight.shape[1],) and not zero.any()
        # The largest of each channel takes the whole range of 7 bits, and no more: two products of a weight and an
        # activation, 2 × 64 × 255, have room in 16 bits, which is all that processors without VNNI add them in.
        largest = np.abs(weight.astype(int)).max(axis=0)
        assert largest.min() >= 63 and 2 * 255 * largest.max() < 2**15


@pytest.mark.parametrize("part", TOWERS)
def test_it_is_plain_onnx_with_the_same_inputs_and_outputs(exported: dict[str, ExportReport], part: str) -> None:
    whole, small = (tower(exported[name], part) for name in ("fp32", "int8"))
    assert [(entry.domain, entry.version) for entry in small.opset_import] == [("", 17)]
    assert small.ir_version == whole.ir_version
    assert str(small.graph.input) == str(whole.graph.input) and str(small.graph.output) == str(whole.graph.output)
    assert small.ByteSize() < 0.8 * whole.ByteSize()


def test_onnx_runtime_makes_integer_products_of_it(exported: dict[str, ExportReport], tmp_path: Path) -> None:
    """Else it would be slower than float32, and no test would notice."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    path = exported["int8"].paths["image"] / "1" / "model.onnx"
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["MatMulIntegerToFloat"] == 6 * LAYERS


def test_fingerprint_and_card(exported: dict[str, ExportReport]) -> None:
    whole, small = (exported[name].card for name in ("fp32", "int8"))
    assert small.precision == "int8" and small.fingerprint == whole.fingerprint
    assert small.parity["floor"] == 0.99 and not small.parity["forced"]
    assert small.parity["text_precision"] == "int8" and 0.99 <= small.parity["image_cosine_min"] < 0.9999999


def test_trained_weights_stay_far_above_the_floor(demo: ExportReport) -> None:
    parity = demo.card.parity
    assert parity["image_cosine_min"] >= 0.998 and parity["text_cosine_min"] >= 0.998
    assert parity["top10_overlap"] >= 0.96 and parity["overlap_floor"] == 0.95 and not parity["forced"]


@pytest.mark.parametrize("case", ["hf_clip", "siglip", "open_clip_vit"])
def test_every_kind_of_vit_meets_the_floor(family_sources: dict[str, str], tmp_path: Path, case: str) -> None:
    """Nothing is forced."""
    with rankings_ignored():
        report = export_model(family_sources[case], name="quantized", repository=tmp_path, precision="int8")
    parity = report.card.parity
    assert not parity["forced"] and parity["floor"] == 0.99 and parity["text_precision"] == "int8"
    assert parity["image_cosine_min"] >= 0.99 and parity["text_cosine_min"] >= 0.99
    for part in TOWERS:
        kinds = {node.op_type for node in tower(report, part).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_client_gets_nearly_the_same_vectors(exported: dict[str, ExportReport]) -> None:
    repository = exported["int8"].repository
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    with (
        clipdex.connect(f"inproc:{repository}", model="fp32") as whole,
        clipdex.connect(f"inproc:{repository}", model="int8") as small,
    ):
        assert (whole.embed_pixels(pixels) * small.embed_pixels(pixels)).sum(axis=1).min() > 0.99


@pytest.mark.triton
def test_both_precisions_live_side_by_side_in_one_triton(exported: dict[str, ExportReport]) -> None:
    """Two models in one repository and one server, with equal fingerprints: an index takes the vectors of both."""
    from clipdex_server import LocalTriton

    repository = exported["int8"].repository
    texts = ["a red circle", "two cats"]
    with (
        LocalTriton(repository, stop_timeout_s=0) as server,
        clipdex.connect(server.address, model="int8") as served,
        clipdex.connect(server.address, model="fp32") as other,
        clipdex.connect(f"inproc:{repository}", model="int8") as here,
    ):
        assert served.card.fingerprint == other.card.fingerprint
        assert np.abs(served.embed_texts(texts) - here.embed_texts(texts)).max() < 1e-4
        assert 0.99 < (served.embed_texts(texts) * other.embed_texts(texts)).sum(axis=1).min() < 1


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Spoil the tower with this input: of its weights, the signs alone are left."""

    def coarse(spoilt: str) -> None:
        def quantize(path: Path, input_name: str, rows: Any) -> None:
            int8.to_int8(path, input_name, rows)
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                values = onnx.numpy_helper.to_array(tensor)
                if input_name == spoilt and values.dtype == np.int8 and values.ndim == 2:
                    tensor.CopyFrom(onnx.numpy_helper.from_array(np.sign(values), tensor.name))
            onnx.save(model, path)

        monkeypatch.setattr(precisions, "PRECISIONS", {"int8": Precision("int8", 0.99, quantize=quantize)})

    return coarse


def test_a_text_tower_below_the_floor_stays_float32_and_the_card_says_so(
    checkpoint: Path, coarse: Callable[[str], None], tmp_path: Path
) -> None:
    coarse("token_ids")
    said: list[str] = []
    with rankings_ignored():
        report = export_model(checkpoint, name="tiny", repository=tmp_path, precision="int8", progress=said.append)
    assert any("below the floor in int8" in each for each in said)
    assert report.card.parity["text_precision"] == "fp32" and report.card.parity["text_cosine_min"] > 0.9999
    assert not any(node.op_type == "QuantizeLinear" for node in tower(report, "text").graph.node)
    assert any(node.op_type == "QuantizeLinear" for node in tower(report, "image").graph.node)


def test_an_image_tower_below_the_floor_is_refused(
    checkpoint: Path, coarse: Callable[[str], None], tmp_path: Path
) -> None:
    coarse("pixels")
    with pytest.raises(
        ParityError, match="the image tower departs from the checkpoint's own although its inputs are equal"
    ):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", precision="int8")
    assert everything_in(tmp_path) == []


def test_what_it_is_calibrated_on_is_not_what_it_is_judged_by() -> None:
    assert not set(CALIBRATION_TEXTS) & set(GATE_TEXTS)
    judged = {picture.data for picture in gate_pictures()}
    assert not {picture for picture in calibration._own_pictures() if isinstance(picture, bytes)} & judged


def test_calibration_takes_a_folder_of_one_s_own(demo: ExportReport, pictures: Path, tmp_path: Path) -> None:
    with clipdex.connect(f"inproc:{demo.repository}") as client:
        image, text = client.card.image, client.card.text
        tokenizer = _tokenizer_of(demo)
        with pytest.raises(InvalidArgument, match="12 pictures for calibration; expected at least 16"):
            calibrated(pictures, image, text, tokenizer)
        for i in range(300):
            (pictures / f"copy{i}.png").write_bytes((pictures / "0.png").read_bytes())
        (pictures / "broken.png").write_bytes(b"no picture")
        (pictures / "captions.txt").write_text("a red circle\n\ntwo blue stars\n")
        found = calibrated(pictures, image, text, tokenizer)
        assert 250 <= len(found.pixels) <= 256 and found.pixels.shape[1:] == (64, 64, 3)
        np.testing.assert_array_equal(found.token_ids, client.tokenize(["a red circle", "two blue stars"]))
        (pictures / "captions.txt").unlink()
        (pictures / "folder.txt").mkdir()  # no text, whatever its name
        assert len(calibrated(pictures, image, text, tokenizer).token_ids) > len(CALIBRATION_TEXTS)
        with pytest.raises(SourceError, match="nowhere"):
            calibrated(tmp_path / "nowhere", image, text, tokenizer)


def test_calibration_names_a_text_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.txt").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidArgument, match=r"secret\.txt: cannot be read: Permission"):
        calibration._texts_in(tmp_path)


def _tokenizer_of(report: ExportReport) -> bytes:
    from clipdex.model.assets import unpack_assets

    assets = onnx.load(report.paths["assets"] / "1" / "model.onnx").graph.initializer[0]
    return unpack_assets(onnx.numpy_helper.to_array(assets).tobytes()).tokenizer_json


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_it_is_for_cpus(checkpoint: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidArgument, match=f"int8 is for the targets auto, cpu and openvino, not for {target}"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "x", precision="int8", target=target)
    with pytest.raises(InvalidArgument, match="calibrate is for the precision int8, not for fp32"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "x", calibrate=tmp_path)
    assert everything_in(tmp_path) == []


def test_convolutions_are_not_for_it(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Conv", ["pixels", "kernel"], ["mixed"]),
        onnx.helper.make_node("MatMul", ["mixed", "weight"], ["embedding"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "resnet",
        [value("pixels", onnx.TensorProto.FLOAT, ["b", 3, 4, 4])],
        [value("embedding", onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
            for name, shape in (("kernel", (3, 3, 1, 1)), ("weight", (4, 4)))
        ],
    )
    path = tmp_path / "net_image" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(ExportError, match="net_image: int8 is for transformers"):
        int8.to_int8(path, "pixels", np.zeros((1, 3, 4, 4), np.float32))
