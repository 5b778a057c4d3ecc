"""What ready-made ONNX is refused for: one sentence each, and nothing is installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipdex.base.errors import CheckpointError, ClipdexError

pytestmark = pytest.mark.torch
pytest.importorskip("torch")
pytest.importorskip("transformers")

from onnx_layouts import scatter_weights  # noqa: E402
from tiny_clip import edit_json, everything_in  # noqa: E402

from clipdex_export import export_model  # noqa: E402
from clipdex_export.onnx_sources import load_onnx  # noqa: E402


@pytest.fixture
def copy_of(onnx_source: Callable[[str], str], tmp_path: Path) -> Callable[[str], Path]:
    """A repository's directory, to break."""
    return lambda case: Path(shutil.copytree(onnx_source(case), tmp_path / "source"))


def refused(source: object) -> str:
    with pytest.raises(ClipdexError) as caught:
        load_onnx(str(source))
    message = str(caught.value)
    assert isinstance(caught.value, CheckpointError), type(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


@pytest.mark.slow
def test_swapped_towers(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("transformers_js") / "onnx"
    (folder / "vision_model.onnx").rename(folder / "kept")
    (folder / "text_model.onnx").rename(folder / "vision_model.onnx")
    (folder / "kept").rename(folder / "text_model.onnx")
    message = refused(folder.parent)
    assert (
        "vision_model.onnx takes token ids (input_ids); expected the image tower, which takes pictures" in message
    )
    assert message.endswith("are the two files swapped?")
    folder = copy_of_swapped_back(folder)
    assert "text_model.onnx takes pictures (pixel_values); expected the text tower" in refused(folder.parent)


def copy_of_swapped_back(folder: Path) -> Path:
    """Both files with pictures."""
    shutil.copy(folder / "text_model.onnx", folder / "vision_model.onnx")
    return folder


def keep_outputs(*names: str) -> Callable[[onnx.ModelProto], None]:
    def keep(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.output if value.name in names]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return keep


def rename_output(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]
            node.input[:] = [new if name == old else name for name in node.input]
        for value in model.graph.output:
            value.name = new if value.name == old else value.name

    return rename


@pytest.mark.slow
@pytest.mark.parametrize("output", ["last_hidden_state", "pooler_output"])
@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_an_output_before_the_projection(copy_of: Callable[[str], Path], tower: str, output: str) -> None:
    """CLIP's pooler_output has vectors too: of another length, or, worse, of the same."""
    source = copy_of("transformers_js")
    path = source / "onnx" / f"{tower}.onnx"
    if output == "pooler_output":
        changed(path, rename_output("image_embeds" if tower == "vision_model" else "text_embeds", output))
    else:
        changed(path, keep_outputs(output))
    message = refused(source)
    assert f"{tower}.onnx has the outputs " in message and output in message
    assert "and none is the embedding after the projection; expected" in message


@pytest.mark.slow
def test_towers_of_two_models(onnx_source: Callable[[str], str]) -> None:
    source = f"pair:{onnx_source('transformers_js')}+{onnx_source('immich')}"
    message = refused(source)
    assert "the image tower gives vectors of 40 dimensions and the text tower of 24" in message


@pytest.mark.slow
def test_half_of_a_pair(onnx_source: Callable[[str], str], copy_of: Callable[[str], Path]) -> None:
    vision, text = onnx_source("fastembed").removeprefix("pair:").split("+")
    assert refused(vision).endswith(f"no text tower: give both, as in pair:{vision}+TEXT")
    assert refused(text).endswith(f"no image tower: give both, as in pair:IMAGE+{text}")
    assert refused(f"pair:{text}+{vision}").startswith(f"{text} has no image tower as ONNX in a known layout")
    assert refused(f"pair:{vision}+{vision}").startswith(f"{vision} has no text tower as ONNX in a known layout")
    source = copy_of("immich")
    shutil.rmtree(source / "textual")
    assert "has only one tower (visual/model.onnx) and no text tower" in refused(source)
    assert refused("pair:x").endswith("expected pair:IMAGE_SOURCE+TEXT_SOURCE")


def test_a_quantized_file_alone_and_why(copy_of: Callable[[str], Path]) -> None:
    """transformers.js' quantized twins: the range of a batch decides how each of its rows is rounded."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from clipdex_export.quiet import unlogged
    from clipdex_export.sessions import open_session

    source = copy_of("transformers_js")
    path = source / "onnx" / "vision_model.onnx"
    with unlogged():
        quantize_dynamic(path, path.with_name("vision_model_quantized.onnx"), weight_type=QuantType.QUInt8)
    path.unlink()
    message = refused(source)
    assert "vision_model_quantized.onnx is quantized (" in message and "DynamicQuantizeLinear" in message
    assert message.endswith("give the file in full precision, and quantize that with  --precision int8")
    session = open_session(path.with_name("vision_model_quantized.onnx"))
    rows = np.random.default_rng(0).standard_normal((2, 3, 48, 48)).astype(np.float32)
    rows[1] *= 30
    alone = session.run(["image_embeds"], {"pixel_values": rows[:1]})[0][0]
    beside = session.run(["image_embeds"], {"pixel_values": rows})[0][0]
    cosine = alone @ beside / np.linalg.norm(alone) / np.linalg.norm(beside)
    assert cosine < 0.999


def test_operators_of_one_runtime(copy_of: Callable[[str], Path]) -> None:
    source = copy_of("transformers_js")

    def fuse(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        node = next(node for node in model.graph.node if node.op_type == "MatMul")
        node.op_type, node.domain = "FusedMatMul", "com.microsoft"

    changed(source / "onnx" / "vision_model.onnx", fuse)
    assert "operators that are not plain ONNX (FusedMatMul of com.microsoft)" in refused(source)


def test_functions_of_the_file_itself_are_written_out(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As PyTorch's newer exporter writes them: quantized or foreign operators cannot hide in them."""
    source = copy_of("transformers_js")
    path = source / "onnx" / "vision_model.onnx"

    def wrap(op_type: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
        def wrap(model: onnx.ModelProto) -> None:
            opsets = [helper.make_opsetid("", 14), *([helper.make_opsetid(domain, 1)] if domain else [])]
            inner = helper.make_node(op_type, ["a", "b"], ["c"], domain=domain)
            model.functions.append(helper.make_function("own", "product", ["a", "b"], ["c"], [inner], opsets))
            model.opset_import.append(helper.make_opsetid("own", 1))
            if domain:
                model.opset_import.append(helper.make_opsetid(domain, 1))
            model.ir_version = 8
            node = next(node for node in model.graph.node if node.op_type == "MatMul")
            node.op_type, node.domain = "product", "own"

        return wrap

    before = path.read_bytes()
    changed(path, wrap("MatMul"))
    tower: Any = load_onnx(str(source)).image.take_tower()
    tower.write(tmp_path / "model.onnx")
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}
    path.write_bytes(before)
    changed(path, wrap("FusedMatMul", "com.microsoft"))
    assert "operators that are not plain ONNX (FusedMatMul of com.microsoft)" in refused(source)


def test_a_declared_domain_that_nothing_uses_is_no_fault(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("transformers_js")
    path = source / "onnx" / "vision_model.onnx"
    changed(path, lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)))
    tower: Any = load_onnx(str(source)).image.take_tower()
    tower.write(tmp_path / "model.onnx")
    assert [entry.domain for entry in onnx.load(tmp_path / "model.onnx").opset_import] == [""]


@pytest.mark.slow
def test_a_batch_of_several(copy_of: Callable[[str], Path]) -> None:
    source = copy_of("immich")

    def four(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    changed(source / "visual" / "model.onnx", four)
    assert "visual/model.onnx takes batches of exactly 4; expected any size, or one" in refused(source)


# Settings of pictures


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_mean": [123.7, 116.8, 103.9]}, "the mean is [123.7, 116.8, 103.9]; expected numbers from 0 to 1"),
        ({"image_std": [58.4, 57.1, 57.4]}, "the std is [58.4, 57.1, 57.4]; expected numbers from 0.001 to 1"),
        ({"image_std": [0, 0, 0]}, "image_std"),
        ({"image_mean": "x"}, "image_mean"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0; clipdex supports only 1/255"),
        ({"do_resize": False}, "do_resize is False"),
        ({"resample": 0}, "resample is 0"),
        ({"size": None}, "does not say the size of pictures"),
        ({"crop_size": {"height": 64, "width": 64}}, "supports only at least the crop, 64"),
        ({"image_processor_type": "JinaCLIPImageProcessor"}, "is for a JinaCLIPImageProcessor; clipdex knows"),
    ],
)
def test_settings_that_cannot_be_meant(copy_of: Callable[[str], Path], change: Any, expected: str) -> None:
    source = copy_of("transformers_js")
    edit_json(source / "preprocessor_config.json", **change)
    assert expected in refused(source)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": [64, 64]}, "makes pictures of 64 pixels, but the image tower takes 48"),
        ({"size": [48, 64]}, "takes 48 × 64 pixels; expected a square"),
        ({"resize_mode": "stretch"}, "resize_mode is 'stretch'; clipdex knows shortest and squash and longest"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"mean": [0.5]}, "is not usable"),
        ({"std": 2.0}, "the std is [2.0, 2.0, 2.0]"),
    ],
)
def test_settings_of_immich(copy_of: Callable[[str], Path], change: Any, expected: str) -> None:
    source = copy_of("immich")
    edit_json(source / "visual" / "preprocess_cfg.json", **change)
    assert expected in refused(source)


# The tokenizer


def test_a_tokenizer_of_another_model(copy_of: Callable[[str], Path], onnx_source: Callable[[str], str]) -> None:
    source = copy_of("transformers_js")

    def smaller(model: onnx.ModelProto) -> None:
        table = next(t for t in model.graph.initializer if t.name.endswith("token_embedding.weight"))
        table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:300].copy(), table.name))

    changed(source / "onnx" / "text_model.onnx", smaller)
    assert "the tokenizer has ids up to 613, but the text tower only 300 embeddings" in refused(source)


def test_a_tokenizer_that_is_none_or_does_what_the_card_cannot_say(copy_of: Callable[[str], Path]) -> None:
    from tokenizers import Tokenizer, processors

    source = copy_of("transformers_js")
    edit_json(source / "tokenizer_config.json", padding_side="left")
    assert "the tokenizer pads on the left; clipdex supports only the right" in refused(source)
    edit_json(source / "tokenizer_config.json", padding_side=None, truncation_side="left")
    assert "the tokenizer cuts on the left; clipdex supports only the right" in refused(source)
    edit_json(source / "tokenizer_config.json", truncation_side=None)
    path = source / "tokenizer.json"
    own = Tokenizer.from_file(str(path))
    own.post_processor = processors.ByteLevel(trim_offsets=False)
    own.save(str(path))
    assert "the tokenizer adds no end token to a text" in refused(source)
    path.write_text("{}")
    assert "tokenizer.json cannot be read as a tokenizer" in refused(source)
    path.unlink()
    assert refused(source) == f"{source} has no tokenizer.json"


# Files


def test_a_pointer_of_git_lfs(copy_of: Callable[[str], Path]) -> None:
    source = copy_of("immich")
    (source / "textual" / "model.onnx").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\n"
    )
    assert "git lfs pull" in refused(source)


def test_files_that_are_not_onnx(copy_of: Callable[[str], Path]) -> None:
    source = copy_of("immich")
    for data in (b"", b"<html>not found</html>", b"\x08\x08"):
        (source / "visual" / "model.onnx").write_bytes(data)
        assert "visual/model.onnx cannot be read as an ONNX file" in refused(source)


@pytest.fixture
def scattered(copy_of: Callable[[str], Path]) -> Path:
    """A repository whose weights lie beside its graph."""
    source = copy_of("transformers_js")
    scatter_weights(source / "onnx" / "vision_model.onnx")
    return source


def relocate(source: Path, **entries: str) -> None:
    path = source / "onnx" / "vision_model.onnx"
    model = onnx.load(path, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL)
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../../secret", "/etc/passwd", "..", "a/b", "..\\x", ""])
def test_weights_are_read_from_the_files_own_directory(scattered: Path, location: str) -> None:
    relocate(scattered, location=location)
    assert "expected a file beside it" in refused(scattered)


@pytest.mark.parametrize(
    "entries", [{"offset": "8"}, {"offset": "-8"}, {"length": "4"}, {"offset": "x"}, {"length": "1e9"}]
)
def test_weights_are_as_long_as_their_shape_says(scattered: Path, entries: dict[str, str]) -> None:
    relocate(scattered, **entries)
    message = refused(scattered)
    assert "is it whole?" in message or "cannot be read" in message


def test_weights_that_are_missing(scattered: Path) -> None:
    next(path for path in (scattered / "onnx").iterdir() if path.suffix != ".onnx").unlink()
    assert "has no onnx/" in refused(scattered)


def test_a_refused_source_leaves_nothing(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("immich")
    shutil.rmtree(source / "textual")
    before = everything_in(tmp_path)
    with pytest.raises(CheckpointError):
        export_model(str(source), name="m", repository=tmp_path / "models")
    assert everything_in(tmp_path) == before


def test_a_directory_of_neither_kind(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "has no ONNX towers in a known layout: looked for visual/model.onnx" in refused(tmp_path)
