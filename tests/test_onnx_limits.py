"""Every ONNX file loads on every Triton since 24.10: opset ≤ 21, IR ≤ 10, ai.onnx alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.torch
onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from clipdex.base.errors import ExportError  # noqa: E402
from clipdex_export import onnx_files  # noqa: E402
from clipdex_export.assets_model import write_assets_model  # noqa: E402
from clipdex_export.onnx_files import check_limits, write_tower  # noqa: E402

REPOSITORY = Path(__file__).parent.parent / "model_repository"
COMMITTED = sorted(REPOSITORY.glob("demo_*/*/model.onnx"))


class Doubler(torch.nn.Module):  # type: ignore[name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)
        self.other = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return self.other(self.linear(x))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_tower(Doubler(), torch.zeros(2, 64), path, input_name="x", output_name="y")
    return path


@pytest.mark.parametrize("path", COMMITTED, ids=[p.parent.parent.name for p in COMMITTED])
def test_committed_models(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_tower(written: Path) -> None:
    model = onnx.load(written)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]


@pytest.mark.parametrize(("field", "value"), [("ir", 11), ("opset", 22)])
def test_a_newer_file_is_refused(written: Path, field: str, value: int) -> None:
    model = onnx.load(written)
    if field == "ir":
        model.ir_version = value
    else:
        model.opset_import[0].version = value
    onnx.save(model, written)
    with pytest.raises(ExportError, match=r"Triton 24\.10 reads up to IR 10 and ai\.onnx 21"):
        check_limits(written)


def test_another_operator_domain_is_refused(written: Path) -> None:
    model = onnx.load(written)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, written)
    with pytest.raises(ExportError, match=r"com\.microsoft"):
        check_limits(written)


def test_weights_too_large_for_one_file_go_into_one_beside_it(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for ViT-H/14, with the limit lowered from 2 GiB."""
    rows = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    torch.manual_seed(0)
    tower = Doubler()
    monkeypatch.setattr(onnx_files, "LARGEST_SINGLE_FILE", 1000)
    write_tower(tower, torch.zeros(2, 64), written, input_name="x", output_name="y")
    assert sorted(p.name for p in written.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert written.stat().st_size < 4096
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = tower(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 2**62), (0, 1000), (10, 20), (999, 1000), (500, 500), (0, 1), (990, 5000)]
)
def test_assets_are_read_as_a_slice(tmp_path: Path, start: int, end: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    path = tmp_path / "model.onnx"
    write_assets_model(data, path)
    model = onnx.load(path)
    assert model.ir_version <= 10 and model.opset_import[0].version <= 21
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (read,) = session.run(["bytes"], {"start": np.array([start]), "end": np.array([end])})
    assert read.dtype == np.uint8 and read.tobytes() == data[start:end]
