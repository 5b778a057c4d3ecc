"""Ready-made ONNX towers of every layout are adopted: the vectors are the originals'."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import clipdex
from clipdex.base.errors import CheckpointError, InvalidArgument, MissingExtra, ParityError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_gate  # noqa: E402
from onnx_layouts import (  # noqa: E402
    LAYOUTS,
    copy_settings,
    hf_model,
    scatter_weights,
    write_text,
    write_vision,
)
from tiny_clip import edit_json, everything_in  # noqa: E402

from clipdex_export import export_model, gate  # noqa: E402
from clipdex_export.onnx_sources import load_onnx  # noqa: E402

Adopt = Callable[..., Any]


@pytest.fixture(autouse=True)
def gate_of_a_few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("slow"):
        small_gate.use_it(monkeypatch)


@pytest.fixture
def adopt(tmp_path: Path) -> Adopt:
    """Export a source into a new repository."""

    def adopt(source: object, **options: Any) -> Any:
        given: dict[str, Any] = {"name": "m", "repository": tmp_path / "models"} | options
        return export_model(str(source), **given)

    return adopt


@pytest.fixture
def copy_of(onnx_source: Callable[[str], str], tmp_path: Path) -> Callable[[str], Path]:
    """A repository's directory, to change."""
    return lambda case: Path(shutil.copytree(onnx_source(case), tmp_path / "source"))


def embedded(repository: Path, name: str = "m") -> tuple[np.ndarray, np.ndarray]:
    """What a client gets from a repository: vectors of three pictures and of three texts."""
    rng = np.random.default_rng(3)
    pictures = [Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)) for _ in range(3)]
    with clipdex.connect(f"inproc:{repository}", model=name) as client:
        return client.embed_images(pictures), client.embed_texts(["a cat", "two dogs in the snow", ""])


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.slow
def test_every_layout_is_adopted_from_a_directory(
    onnx_source: Callable[[str], str], adopt: Adopt, case: str
) -> None:
    report = adopt(onnx_source(case))
    card = report.card
    assert card.parity["reference"] == "ONNX Runtime" and not card.parity["forced"]
    assert card.parity["image_cosine_min"] > 0.999999 and card.parity["text_cosine_min"] > 0.999999
    assert card.parity["pixel_mismatches"] == card.parity["token_mismatches"] == 0
    assert "torch" not in card.parity["versions"]
    for tower in ("image", "text"):
        model = onnx.load(report.paths[tower] / "1" / "model.onnx")
        assert model.ir_version <= 10 and [(o.domain, o.version <= 21) for o in model.opset_import] == [("", True)]
    pictures, texts = embedded(report.repository)
    assert np.allclose(np.linalg.norm(pictures, axis=1), 1) and np.allclose(np.linalg.norm(texts, axis=1), 1)


def test_the_vectors_are_pytorchs(onnx_source: Callable[[str], str], adopt: Adopt) -> None:
    """One checkpoint, exported from its PyTorch weights and adopted from its ONNX files."""
    source = onnx_source("transformers_js")
    adopt(f"{source}-checkpoint", name="torch")
    report = adopt(source)
    for one, other in zip(embedded(report.repository), embedded(report.repository, "torch"), strict=True):
        assert (one * other).sum(axis=1).min() > 0.99999


@pytest.mark.slow
def test_a_free_batch_that_is_not_free_is_noticed(copy_of: Callable[[str], Path], adopt: Adopt) -> None:
    """The file says any batch, and has 1 written into its shapes."""
    source = copy_of("immich")
    for path in source.glob("*/model.onnx"):
        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.save(model, path)
    towers: Any = load_onnx(str(source))
    assert towers.image.tower.file.rows == 1 and towers.image.tower.file.freed
    report = adopt(source)
    assert len(embedded(report.repository)[0]) == 3


@pytest.fixture
def written(onnx_source: Callable[[str], str], tmp_path: Path) -> Callable[..., Path]:
    """A repository of transformers.js, written with options of write_vision and write_text."""

    def written(vision: dict[str, Any], text: dict[str, Any]) -> Path:
        checkpoint = Path(f"{onnx_source('transformers_js')}-checkpoint")
        model, source = hf_model(checkpoint), tmp_path / "written"
        copy_settings(checkpoint, source)
        write_vision(model, source / "onnx" / "vision_model.onnx", **vision)
        write_text(model, source / "onnx" / "text_model.onnx", **text)
        return source

    return written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "text"),
    [
        pytest.param({"unit": True}, {"ids": torch.int32}, id="normed, int32 ids"),
        pytest.param({"opset": 18}, {"ids": torch.int32, "mask": True}, id="opset 18, int32 ids and mask"),
        pytest.param({"opset": 11}, {"opset": 12, "mask": True}, id="old opsets, int64 ids and mask"),
    ],
)
def test_what_exporters_do_differently_gives_the_same_vectors(
    written: Callable[..., Path], onnx_source: Callable[[str], str], adopt: Adopt, vision: Any, text: Any
) -> None:
    report = adopt(written(vision, text))
    adopt(onnx_source("transformers_js"), name="plain")
    for one, other in zip(embedded(report.repository), embedded(report.repository, "plain"), strict=True):
        assert (one * other).sum(axis=1).min() > 0.999999


@pytest.mark.slow
def test_a_newer_opset_is_brought_to_the_limit(copy_of: Callable[[str], Path], adopt: Adopt) -> None:
    source = copy_of("transformers_js")
    for path in source.glob("onnx/*.onnx"):
        newer = onnx.version_converter.convert_version(onnx.load(path), 23)
        newer.ir_version = 11
        onnx.save(newer, path)
    report = adopt(source)
    model = onnx.load(report.paths["image"] / "1" / "model.onnx")
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)


@pytest.mark.slow
def test_fp16_and_quantized_twins_are_left_alone(copy_of: Callable[[str], Path], adopt: Adopt) -> None:
    """The full file has the fingerprint, whatever lies beside it and whatever the precision."""
    source = copy_of("transformers_js")
    alone = adopt(source, name="alone").card.fingerprint
    for tower in ("vision_model", "text_model"):
        for twin in ("fp16", "quantized", "q4"):
            (source / "onnx" / f"{tower}_{twin}.onnx").write_bytes(b"not even read")
    half = adopt(source, name="half", precision="fp16").card
    assert half.fingerprint == alone and half.precision == "fp16"
    assert half.parity["image_cosine_min"] > 0.999


def halve(source: Path) -> None:
    """Leave nothing but the fp16 twins of transformers.js: float32 at both ends."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for path in source.glob("onnx/*.onnx"):
        half = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        onnx.save(half, path.with_name(f"{path.stem}_fp16.onnx"))
        path.unlink()


@pytest.mark.slow
def test_an_fp16_twin_alone_is_adopted_as_it_is(
    copy_of: Callable[[str], Path], onnx_source: Callable[[str], str], adopt: Adopt
) -> None:
    source = copy_of("transformers_js")
    halve(source)
    card = adopt(source).card
    assert card.precision == "fp16" and card.parity["floor"] == 0.999
    full = adopt(onnx_source("transformers_js"), name="full")
    assert card.fingerprint != full.card.fingerprint
    for one, other in zip(embedded(full.repository), embedded(full.repository, "full"), strict=True):
        assert (one * other).sum(axis=1).min() > 0.999 and not np.array_equal(one, other)
    with pytest.raises(InvalidArgument, match="half precision only: it can be exported in fp16, not in fp32"):
        adopt(source, name="other", precision="fp32")


@pytest.mark.slow
def test_the_fingerprint_says_which_weights(copy_of: Callable[[str], Path], adopt: Adopt) -> None:
    source = copy_of("transformers_js")
    before = load_onnx(str(source)).weights_sha256
    path = source / "onnx" / "vision_model.onnx"
    model = onnx.load(path)
    model.producer_name = "another"
    onnx.save(model, path)
    scatter_weights(path)  # where the weights lie does not matter
    assert any("/" not in name.name and not name.suffix for name in path.parent.iterdir())
    assert load_onnx(str(source)).weights_sha256 == before
    assert adopt(source).card.parity["image_cosine_min"] > 0.999999
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    changed = onnx.numpy_helper.to_array(weight).copy()
    changed[0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, path)
    assert load_onnx(str(source)).weights_sha256 != before


@pytest.mark.slow
def test_the_scale_is_read_where_the_file_computes_logits(onnx_source: Callable[[str], str], adopt: Adopt) -> None:
    joint = load_onnx(onnx_source("optimum"))
    assert joint.remarks["logit_scale"] == "file" and joint.logit_bias == 0
    assert joint.logit_scale == pytest.approx(14.2857, rel=1e-3)  # a fresh CLIP's
    split = load_onnx(onnx_source("transformers_js"))
    assert (split.logit_scale, split.remarks["logit_scale"]) == (100.0, "assumed")


def test_immichs_siglip_gets_immichs_cleaning(copy_of: Callable[[str], Path], adopt: Adopt) -> None:
    source = copy_of("immich")
    config = json.loads((source / "config.json").read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    (source / "config.json").write_text(json.dumps(config))
    card = adopt(source).card
    assert card.text.cleaning == "whitespace punctuation lower" and card.parity["token_mismatches"] == 0


# What the gate catches


def test_the_gate_catches_another_mean(
    onnx_source: Callable[[str], str], adopt: Adopt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    from clipdex_export.onnx_sources import adopted

    right: Any = vars(adopted)["image_spec"]
    monkeypatch.setattr(adopted, "image_spec", lambda *a: replace(right(*a), mean=(0.9, 0.1, 0.1)))
    with pytest.raises(ParityError, match="the image tower departs from the checkpoint's own"):
        adopt(onnx_source("transformers_js"))
    assert everything_in(tmp_path) == []


def test_the_gate_catches_another_resize(
    onnx_source: Callable[[str], str], adopt: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from clipdex_export.onnx_sources import adopted

    right: Any = vars(adopted)["image_spec"]
    monkeypatch.setattr(adopted, "image_spec", lambda *a: replace(right(*a), interpolation="bilinear"))
    with pytest.raises(ParityError, match="the preprocessing departs from the checkpoint's own"):
        adopt(onnx_source("transformers_js"))


@pytest.mark.slow
def test_the_gate_catches_another_mask(
    onnx_source: Callable[[str], str], adopt: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M-CLIP takes the mean of all tokens but padding."""
    from clipdex_export.onnx_sources import text_rules

    monkeypatch.setattr(text_rules, "_mask", lambda *a: "ones")
    with pytest.raises(ParityError, match="the text tower departs from the checkpoint's own"):
        adopt(onnx_source("immich_multilingual"))


def test_the_gate_catches_another_padding(
    onnx_source: Callable[[str], str], adopt: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from clipdex.model.tokenizer import Tokenizer

    class Padded(Tokenizer):
        def __init__(self, data: bytes, spec: Any) -> None:
            super().__init__(data, replace(spec, pad_id=spec.pad_id + 1))

    monkeypatch.setattr(gate, "Tokenizer", Padded)
    with pytest.raises(ParityError, match="the tokenizer departs from the checkpoint's own"):
        adopt(onnx_source("immich"))


# Which of the two kinds is taken


@pytest.fixture
def both(copy_of: Callable[[str], Path], onnx_source: Callable[[str], str]) -> Path:
    """A directory with PyTorch weights and ONNX towers."""
    source = copy_of("transformers_js")
    shutil.copy(f"{onnx_source('transformers_js')}-checkpoint/model.safetensors", source)
    return source


@pytest.mark.slow
def test_pytorch_weights_win_unless_onnx_is_asked(both: Path, adopt: Adopt) -> None:
    assert adopt(both, name="one").card.parity["reference"] == "PyTorch"
    assert adopt(both, name="two", source_format="onnx").card.parity["reference"] == "ONNX Runtime"
    with pytest.raises(InvalidArgument, match="source_format is 'tf'; expected onnx or torch"):
        adopt(both, name="three", source_format="tf")


def test_without_torch_the_error_names_the_other_way(
    both: Path, adopt: Adopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not depend on the machine which of two fingerprints a source gets."""
    from clipdex_export import requirements

    def missing(module: str, package: str, extra: str, purpose: str) -> None:
        if module == "torch":
            raise MissingExtra(package, extra, purpose)

    monkeypatch.setattr(requirements, "require_installed", missing)
    with pytest.raises(MissingExtra, match=r"--from onnx uses the ONNX files .* pip install .*\[export\]"):
        adopt(both)
    assert adopt(both, source_format="onnx").card.parity["reference"] == "ONNX Runtime"


def test_what_pytorchs_families_do_not_know_may_still_be_adopted(both: Path, adopt: Adopt) -> None:
    edit_json(both / "config.json", model_type="jina_clip")
    with pytest.raises(CheckpointError, match="it also has ONNX towers: --from onnx uses them"):
        adopt(both)
    assert adopt(both, source_format="onnx").card.parity["layout"] == "transformers.js"


def test_onnx_files_have_no_random_weights(onnx_source: Callable[[str], str], adopt: Adopt) -> None:
    with pytest.raises(InvalidArgument, match="allow_random is for PyTorch checkpoints"):
        adopt(onnx_source("transformers_js"), allow_random=True)


def test_the_command_adopts_and_says_so(
    onnx_source: Callable[[str], str], run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    where = tmp_path / "models"
    status, out, err = run("export", onnx_source("transformers_js"), "--name", "m", "--repository", where)
    assert status == 0, err
    assert "computing the reference with ONNX Runtime" in err
    assert "compared with the original ONNX files (transformers.js)" in out
    status, _, err = run("export", tmp_path, "--from", "onnx", "--name", "x", "--repository", where)
    assert status == 1 and "has no ONNX towers in a known layout: looked for visual/model.onnx" in err
    assert "Traceback" not in err and len(err.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_passes_the_whole_gate(onnx_source: Callable[[str], str], adopt: Adopt, case: str) -> None:
    parity = adopt(onnx_source(case)).card.parity
    assert (parity["images"], parity["texts"]) == (100, 100)
    assert parity["image_cosine_min"] > 0.999999 and parity["text_cosine_min"] > 0.999999


@pytest.mark.slow
@pytest.mark.parametrize("case", ["transformers_js", "transformers_js_siglip", "optimum", "fastembed", "immich"])
def test_what_takes_any_batch_is_quantized_for_cpus(
    onnx_source: Callable[[str], str], adopt: Adopt, case: str
) -> None:
    # With random weights, pictures are too much alike for the floor of rankings.
    parity = adopt(onnx_source(case), precision="int8", force=True).card.parity
    assert set(parity.get("departs", ())) <= {"ranking"} and parity["floor"] == 0.99
    assert parity["image_cosine_min"] > 0.99 and parity["text_cosine_min"] > 0.99 and parity["top10_overlap"] > 0.9
