"""Ready-made ONNX from the hub, where torch cannot be imported: here a small hub, and a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_export_hub import COMMIT, Hub  # noqa: E402

# What the extra `onnx` does not bring.
ABSENT = ("torch", "transformers", "skimage", "scipy", "safetensors", "sentencepiece", "open_clip", "torchvision")
# Exports each source of its arguments, "name source", and prints a line of JSON for each.
EXPORT = """
import json, sys
for name in {absent!r}:
    sys.modules[name] = None
from pathlib import Path
from clipdex.base.errors import ClipdexError
from clipdex_export import export_model
if {small}:
    import small_gate
    small_gate.use_it()
for argument in sys.argv[2:]:
    name, _, source = argument.partition(" ")
    try:
        report = export_model(source, name=name, repository=sys.argv[1])
        print(json.dumps(json.loads(report.card.to_json())))
    except ClipdexError as exc:
        print(json.dumps({{"error": str(exc)}}))
"""
HUB_CASES = {
    "clip": "transformers_js",
    "siglip": "transformers_js_siglip",
    "joint": "optimum",
    "immich": "immich",
    "multilingual": "immich_multilingual",
}


@pytest.fixture(scope="module")
def hub(onnx_source: Callable[[str], str]) -> Iterator[Hub]:
    repositories = {f"acme/{name}": Path(onnx_source(case)) for name, case in HUB_CASES.items()}
    vision, text = onnx_source("fastembed").removeprefix("pair:").split("+")
    repositories |= {"acme/vision": Path(vision), "acme/text": Path(text)}
    folder = repositories["acme/clip"] / "onnx"
    (folder / "vision_model_quantized.onnx").write_bytes(b"not to be fetched")
    (folder / "model.onnx").write_bytes(b"nor this")
    with Hub(repositories) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
    for name in ("vision_model_quantized.onnx", "model.onnx"):
        (folder / name).unlink()


@pytest.fixture
def without_torch(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Export sources, "name source", in a process that cannot import torch -> their cards, or errors."""

    def run(endpoint: str, *sources: str, small: bool = True, **environment: str) -> list[dict[str, Any]]:
        settings = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [
            sys.executable,
            "-c",
            EXPORT.format(absent=ABSENT, small=small),
            str(tmp_path / "models"),
            *sources,
        ]
        done = subprocess.run(
            command, env=settings | environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.stderr == ""
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_every_layout_comes_from_the_hub_without_torch(
    hub: Hub, without_torch: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    hub.fetched.clear()
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    sources = [f"{name} acme/{name}" for name in HUB_CASES]
    cards = without_torch(
        endpoint, *sources, "pair pair:acme/vision+acme/text", "half acme/vision", "none acme/none"
    )
    *good, half, none = cards
    assert [card.get("error") for card in good] == [None] * 6
    assert [card["parity"]["layout"] for card in good] == [
        "transformers.js",
        "transformers.js",
        "optimum",
        "immich",
        "immich",
        "fastembed",
    ]
    assert {card["revision"] for card in good} == {COMMIT}
    assert [card["source"] for card in good][:2] == ["acme/clip", "acme/siglip"]
    assert half["error"] == (
        "acme/vision has only one tower (model.onnx) and no text tower: give both, as in pair:acme/vision+TEXT"
    )
    assert none["error"].startswith("there is no local directory acme/none, and no such repository on the hub")
    # Weights of the two towers, each once; weights in files of their own, too; nothing else that is large.
    graphs = [name for name in hub.fetched if name.endswith(".onnx")]
    assert sorted(graphs) == sorted(
        ["onnx/vision_model.onnx", "onnx/text_model.onnx"] * 2
        + ["model.onnx"] * 3
        + ["visual/model.onnx", "textual/model.onnx"] * 2
    )
    beside = [name for name in hub.fetched if name.startswith("textual/") and "." not in name.rpartition("/")[2]]
    assert len(beside) > 5 and len(set(beside)) == len(beside)
    # What was downloaded serves when the hub is gone, and when its client is told to be offline.
    kept, offline = without_torch("http://127.0.0.1:9", "kept acme/clip", "kept2 acme/multilingual")
    assert kept["fingerprint"] == good[0]["fingerprint"] and offline["fingerprint"] == good[4]["fingerprint"]
    (offline,) = without_torch("http://127.0.0.1:9", "off pair:acme/vision+acme/text", HF_HUB_OFFLINE="1")
    assert offline["fingerprint"] == good[5]["fingerprint"]


def test_without_torch_a_pytorch_source_names_the_extra(
    onnx_source: Callable[[str], str], without_torch: Callable[..., list[dict[str, Any]]]
) -> None:
    source = f"{onnx_source('transformers_js')}-checkpoint"
    (answer,) = without_torch("http://127.0.0.1:9", f"m {source}")
    assert answer["error"].startswith("exporting a model needs torch: run ") and "[export]" in answer["error"]


@pytest.mark.slow
def test_the_whole_gate_runs_without_torch_and_scikit_image(
    onnx_source: Callable[[str], str], without_torch: Callable[..., list[dict[str, Any]]]
) -> None:
    cases = (*HUB_CASES.values(), "immich_free")
    cards = without_torch("http://127.0.0.1:9", *(f"{case} {onnx_source(case)}" for case in cases), small=False)
    assert [(card["parity"]["images"], card["parity"]["texts"]) for card in cards] == [(100, 100)] * len(cases)
