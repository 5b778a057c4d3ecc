"""Every family, in float32 and in half precision: exported, judged, served by a real Triton, and equal everywhere.

The checkpoints are tiny and random, in each family's own files (tiny_families.py). OpenCLIP's modelling code is
its own; where torchvision has no build for the machine, torchvision_standin.py lends it the names it imports.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipdex
from clipdex.model.images import to_pixels
from clipdex.model.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tiny_families import FAMILIES  # noqa: E402

from clipdex_export import ExportReport, export_model, gate  # noqa: E402
from clipdex_export.families import load_checkpoint  # noqa: E402
from clipdex_export.fusion import fuse  # noqa: E402
from clipdex_export.photographs import gate_pictures, photograph  # noqa: E402
from clipdex_export.precisions import PRECISIONS  # noqa: E402

CASES = list(FAMILIES)
# Of which towers the attention is fused for CUDA.
FUSED = {case: {"image", "text"} for case in FAMILIES} | {
    "open_clip_resnet": {"text"},
    "open_clip_timm": {"text"},
    "open_clip_coca": {"image"},
    "open_clip_xlm_roberta": {"image"},
    "pair_st": {"image"},
    "pair_mclip": {"image"},
}
IN = ["fp32", "fp16"]
TEXTS = ["a red circle", "", "Two “small” blue_squares above a YELLOW triangle! " * 9, "une niña, 猫, кошка"]


@pytest.fixture(scope="module")
def exported(
    family_sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory, pytorch_once: None
) -> Iterator[dict[str, ExportReport]]:
    """Both precisions of all, in one repository. The gate leaves out its largest pictures, for time."""
    repository = tmp_path_factory.mktemp("repository")
    small = tuple(picture for picture in gate_pictures() if len(picture.data) < 60_000)
    assert len(small) >= 15
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "gate_pictures", lambda drawn=False: small)
        yield {
            f"{case}_{precision}": export_model(
                source, name=f"{case}_{precision}", repository=repository, precision=precision, max_batch_size=4
            )
            for case, source in family_sources.items()
            for precision in IN
        }


@pytest.fixture(scope="module")
def triton(exported: dict[str, ExportReport]) -> Iterator[Any]:
    from clipdex_server import LocalTriton

    (repository,) = {report.repository for report in exported.values()}
    with LocalTriton(repository, stop_timeout_s=0) as server:
        yield server


@pytest.mark.parametrize("precision", IN)
@pytest.mark.parametrize("case", CASES)
def test_the_gate_let_it_pass(exported: dict[str, ExportReport], case: str, precision: str) -> None:
    report = exported[f"{case}_{precision}"]
    parity, floor = report.card.parity, PRECISIONS[precision].floor
    assert report.card.precision == precision and not parity.get("forced")
    assert parity["pixel_mismatches"] == parity["token_mismatches"] == 0
    assert floor <= parity["image_cosine_min"] <= parity["image_cosine_mean"] <= 1
    assert floor <= parity["text_cosine_min"] <= parity["text_cosine_mean"] <= 1
    assert report.unused_weights == report.random_weights == ()
    for tower in ("image", "text"):
        model = onnx.load(report.paths[tower] / "1" / "model.onnx", load_external_data=False)
        assert model.ir_version <= 10
        assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]


@pytest.mark.triton
@pytest.mark.parametrize("precision", IN)
@pytest.mark.parametrize("case", CASES)
def test_a_real_triton_gives_what_runs_in_process(
    exported: dict[str, ExportReport], triton: Any, case: str, precision: str
) -> None:
    report = exported[f"{case}_{precision}"]
    pictures = [photograph("chelsea.png"), photograph("rocket.jpg").resize((300, 90))]
    with (
        clipdex.connect(triton.address, model=report.card.name) as served,
        clipdex.connect(f"inproc:{report.repository}", model=report.card.name) as local,
    ):
        assert served.card == local.card == report.card
        for embed, given in (("embed_images", pictures), ("embed_texts", TEXTS)):
            here, there = getattr(local, embed)(given), getattr(served, embed)(given)
            assert here.shape == (len(given), report.card.embedding_dim)
            np.testing.assert_allclose(there, here, atol=1e-4)
            # Different things have different vectors, or equality would mean little.
            assert (here @ here.T).min() < 0.9999


@pytest.mark.parametrize("case", CASES)
def test_a_fingerprint_is_of_the_space(exported: dict[str, ExportReport], case: str) -> None:
    mine = exported[f"{case}_fp32"].card.fingerprint
    assert mine == exported[f"{case}_fp16"].card.fingerprint
    same = {other for other in CASES if exported[f"{other}_fp32"].card.fingerprint == mine}
    # The same checkpoint packed by sentence-transformers is the same space: its vectors may share an index.
    assert same == ({"hf_clip", "st_clip"} if case in ("hf_clip", "st_clip") else {case})


@pytest.mark.parametrize("case", CASES)
def test_no_size_is_fixed(exported: dict[str, ExportReport], case: str) -> None:
    card = exported[f"{case}_fp32"].card
    assert card.image.size != 224 and card.embedding_dim != 512 and card.text.context_length != 77
    assert to_pixels(photograph("chelsea.png"), card.image).shape == (card.image.size, card.image.size, 3)


def vectors(path: Path, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {session.get_inputs()[0].name: rows})[0]


@pytest.mark.parametrize("case", CASES)
def test_attention_is_fused_where_the_family_says_so(
    exported: dict[str, ExportReport], family_sources: dict[str, str], tmp_path: Path, case: str
) -> None:
    """For `--target cuda`: every layer's attention becomes one operator, or none of the tower's is asked for."""
    report, checkpoint = exported[f"{case}_fp32"], load_checkpoint(family_sources[case])
    card, rng = report.card, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, card.image.size, card.image.size, 3), dtype=np.uint8)
    tokenizer = Tokenizer(checkpoint.text.tokenizer_json, card.text)
    asked: dict[str, tuple[Any, np.ndarray]] = {
        "image": (checkpoint.image, pixels),
        "text": (checkpoint.text, tokenizer(TEXTS)),
    }
    assert {tower for tower, (half, _) in asked.items() if half.layers is not None} == FUSED[case]
    for tower in FUSED[case]:
        half, rows = asked[tower]
        original = report.paths[tower] / "1" / "model.onnx"
        path = tmp_path / tower / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        shutil.copy(original, path)
        fuse(path, heads=half.layers.heads, width=half.layers.width, layers=half.layers.layers)
        np.testing.assert_allclose(vectors(path, rows), vectors(original, rows), atol=1e-4)
