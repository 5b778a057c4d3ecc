"""The GPU benchmark without a GPU: it says so in one sentence, and the same steps run on a CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")

SCRIPT = ROOT / "benchmarks" / "gpu"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of the benchmark."""
    monkeypatch.syspath_prepend(str(SCRIPT))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(SCRIPT) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_without_a_gpu_it_is_one_sentence_and_nothing_is_installed(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.startswith("benchmarks/gpu: there is no NVIDIA driver here") and done.stderr.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_finds_no_gpu_is_one_sentence(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks/gpu: nvidia-smi finds no GPU (NVIDIA-SMI has failed): run this")


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.torch
def test_every_step_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--here",
        "--cpu",
        "--shapes",
        "tiny",
        "--batch",
        "4",
        "--instances",
        "1",
    ]
    command += ["--seconds", "0.1", "--repeats", "1", "--pictures", "12", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["peak_tflops"] > 0
    assert [row["way"] for row in written["rows"]] == [
        "encoder alone, ONNX Runtime, CPU",
        "served, CPU, gRPC",
        "served, CPU, shared memory",
        "JPEG files to index, CPU",
        "encoder alone, ONNX Runtime, CPU, half precision and fused",
        "encoder alone, PyTorch",
        "encoder alone, PyTorch, torch.compile",
    ]
    for row in written["rows"]:
        assert row["error"] == "" and row["images_per_s"] > 0 and row["share"] > 0, row
        assert f"| tiny | {row['way']} | " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_a_row_that_fails_says_why_and_the_next_goes_on(modules: Any, tmp_path: Path) -> None:
    table = modules("table").Table(tmp_path / "gpu.json", {"name": "none"}, {}, peak_flops=1e12)
    with table.row("a", "one", 1e9):
        raise RuntimeError("no such\nprovider | here")
    with table.row("a", "two", 1e9) as measured:
        measured(250.0, "well")
    with table.row("a", "three", 1e9):
        pass
    assert [row.error for row in table.rows] == [
        "RuntimeError: no such provider | here",
        "",
        "nothing was measured",
    ]
    assert table.rows[1].share == pytest.approx(0.25)
    assert "| a | one |  |  | RuntimeError: no such provider / here |" in table.markdown()
    assert "| a | two | 250.0 | 25.0 % | well |" in table.markdown()
    assert len(json.loads((tmp_path / "gpu.json").read_text())["rows"]) == 3


@pytest.mark.parametrize(
    ("shape", "gflops"), [("vit_b_32", 8.8), ("vit_b_16", 35.1), ("vit_l_14", 162.0), ("vit_l_14_336", 382.0)]
)
def test_the_arithmetic_is_that_of_the_published_profiles(modules: Any, shape: str, gflops: float) -> None:
    """open_clip's: 2 × the multiply-adds."""
    shapes = modules("shapes")
    assert shapes.image_flops(shapes.shape_of(shape)) / 1e9 == pytest.approx(gflops, rel=0.02)
