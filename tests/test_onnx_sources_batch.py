"""Graphs that were traced for one row take batches of any size, or are run row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.base.errors import ExportError, InvalidArgument

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_gate  # noqa: E402
from onnx_layouts import Text, Vision, _OpenClip, export, hf_model, some_ids, some_pixels  # noqa: E402
from tiny_clip import everything_in  # noqa: E402
from tiny_families import LENGTH, open_clip_config, open_clip_model  # noqa: E402

from clipdex_export import export_model  # noqa: E402
from clipdex_export.onnx_sources import compose, load_onnx  # noqa: E402
from clipdex_export.onnx_sources.compose import freed_network  # noqa: E402
from clipdex_export.onnx_sources.tower_file import TowerFile  # noqa: E402
from clipdex_export.sessions import open_session  # noqa: E402


@pytest.fixture(autouse=True)
def gate_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    small_gate.use_it(monkeypatch)


def pixels(rows: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["immich", "immich_multilingual"])
def test_immichs_towers_are_freed(onnx_source: Callable[[str], str], tmp_path: Path, case: str) -> None:
    loaded = load_onnx(onnx_source(case))
    towers: Any = (loaded.image.tower, loaded.text.tower)
    assert [tower.file.freed for tower in towers] == [True, True] and not loaded.row_by_row
    report = export_model(onnx_source(case), name="m", repository=tmp_path, precision="fp16")
    assert report.card.parity["image_cosine_min"] > 0.999 and report.card.precision == "fp16"
    session = open_session(report.paths["image"] / "1" / "model.onnx")
    rows = pixels(5, report.card.image.size)
    together = session.run(None, {"pixels": rows})[0]
    alone = np.concatenate([session.run(None, {"pixels": rows[i : i + 1]})[0] for i in range(5)])
    assert together.shape == (5, 24) and np.allclose(together, alone, atol=1e-5)


def test_a_tower_that_crashes_its_server_is_refused(
    onnx_source: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's own session of a half-precision file optimizes nothing, a server's does."""
    monkeypatch.setattr("clipdex_export.gate.crashes", lambda path: path.parent.parent.name == "m_text")
    with pytest.raises(ExportError, match="m_text: ONNX Runtime crashes when it loads the tower in float16"):
        export_model(onnx_source("transformers_js"), name="m", repository=tmp_path / "models", precision="fp16")
    assert everything_in(tmp_path) == []


@pytest.fixture
def not_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the graph had something that free_batch does not know."""
    monkeypatch.setattr(compose, "free_batch", lambda *given, last: False)


@pytest.mark.parametrize("case", ["immich", "immich_multilingual"])
def test_what_cannot_be_freed_runs_row_by_row(
    onnx_source: Callable[[str], str], tmp_path: Path, not_freed: None, case: str
) -> None:
    report = export_model(onnx_source(case), name="m", repository=tmp_path)
    assert report.card.parity["image_cosine_min"] > 0.999999 and report.card.parity["text_cosine_min"] > 0.999999
    assert report.card.parity["rows"] == "one by one"
    session = open_session(report.paths["image"] / "1" / "model.onnx")
    rows = pixels(5, report.card.image.size)
    together = session.run(None, {"pixels": rows})[0]
    alone = np.concatenate([session.run(None, {"pixels": rows[i : i + 1]})[0] for i in range(5)])
    assert together.shape == (5, 24) and np.array_equal(together, alone)


def test_row_by_row_is_for_fp32_alone(onnx_source: Callable[[str], str], tmp_path: Path, not_freed: None) -> None:
    with pytest.raises(
        InvalidArgument, match="has a tower for batches of one, which can be exported in fp32 only"
    ):
        export_model(onnx_source("immich"), name="m", repository=tmp_path / "models", precision="fp16")
    assert everything_in(tmp_path) == []


def test_a_graph_that_is_freed_wrongly_is_found_out(
    onnx_source: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row gets the first one's vector, without an error."""
    right: Any = vars(compose)["free_batch"]

    def wrong(model: Any, row: Any, output: str, *, last: bool) -> bool:
        from onnx import helper, numpy_helper

        freed = right(model, row, output, last=last)
        final = next(node for node in model.graph.node if output in node.output)
        final.output[0] = "right"
        zero = numpy_helper.from_array(np.zeros(1, np.int64), "only")
        shape = helper.make_node("Shape", ["right"], ["shape"])
        model.graph.initializer.append(zero)
        first = helper.make_node("Gather", ["right", "only"], ["first"], axis=0)
        model.graph.node.extend([shape, first, helper.make_node("Expand", ["first", "shape"], [output])])
        return freed

    monkeypatch.setattr(compose, "free_batch", wrong)
    assert load_onnx(onnx_source("immich")).row_by_row


class Legacy(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """A block of OpenAI's own CLIP: (L, B, width), and PyTorch's packed attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 32, 16, 16)
        self.token = torch.nn.Parameter(torch.randn(32))
        self.places = torch.nn.Parameter(torch.randn(10, 32))
        self.attention = torch.nn.MultiheadAttention(32, 2)
        self.norm = torch.nn.LayerNorm(32)

    def forward(self, given: Any) -> Any:
        x = self.patches(given)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        x = torch.cat([self.token + torch.zeros(x.shape[0], 1, 32), x], dim=1) + self.places
        x = x.permute(1, 0, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.norm(x.permute(1, 0, 2)[:, 0, :])


def legacy() -> tuple[Any, Any]:
    return Legacy(), (some_pixels(1),)


def resnet(tmp_path: Path) -> tuple[Any, Any]:
    config = open_clip_config()
    config["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    model = open_clip_model(tmp_path / "rn", config, {})
    return _OpenClip(model, model.encode_image), (some_pixels(1, 64),)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip vision", "clip text", "siglip vision", "siglip text", "legacy", "resnet"])
@pytest.mark.parametrize("opset", [14, 18])
def test_all_kinds_of_towers_are_freed(
    onnx_source: Callable[[str], str], tmp_path: Path, name: str, opset: int
) -> None:
    """As any exporter writes them that fixes the batch."""
    kind = "text" if name.endswith("text") else "image"
    if name == "legacy":
        module, given = legacy()
    elif name == "resnet":
        module, given = resnet(tmp_path)
    else:
        case = "transformers_js" + ("_siglip" if name.startswith("siglip") else "")
        model = hf_model(Path(f"{onnx_source(case)}-checkpoint"))
        causal = name.startswith("clip")
        module = Text(model, causal=causal) if kind == "text" else Vision(model)
        given = (some_ids(1) if kind == "text" else some_pixels(1),)
    outputs: dict[str, Any] = {"embedding": {}} | (
        {} if name in ("legacy", "resnet") else {"last_hidden_state": {}}
    )
    path = tmp_path / "model.onnx"
    with torch.inference_mode():
        export(module, given, path, {"given": {}}, outputs, opset=opset)
    file = TowerFile.read(path, kind, "x", pooled=False)  # type: ignore[arg-type]
    assert file.rows == 1
    network = freed_network(file, tuple(given[0].shape[1:]))
    assert network is not None
    rows = some_ids(3, LENGTH).numpy() if kind == "text" else some_pixels(3, given[0].shape[-1]).numpy()
    together = open_session(network).run(["embedding"], {"given": rows})[0]
    session = open_session(path)
    alone = np.concatenate([session.run(["embedding"], {"given": rows[i : i + 1]})[0] for i in range(3)])
    assert np.allclose(together, alone, atol=1e-5) and not np.allclose(alone[0], alone[1], atol=2e-4)
