"""What the Python-based backend makes of a configuration for GPUs. It is asked, and opens nothing."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("google.protobuf")

from conftest import MODEL_REPOSITORY  # noqa: E402
from google.protobuf import json_format, text_format  # noqa: E402
from test_export_configs import CARD  # noqa: E402
from tritonclient.grpc import model_config_pb2 as pb  # noqa: E402

import clipdex_server  # noqa: E402
from clipdex.wire.runtimes.inproc import InprocTransport  # noqa: E402
from clipdex_export.targets import TARGETS, Serving  # noqa: E402
from clipdex_export.triton_config import image_config  # noqa: E402

EVERYTHING = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module, with Triton's own one replaced: it is not imported from outside of a stub."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    backends = Path(clipdex_server.__file__).parent / "backends"
    monkeypatch.syspath_prepend(backends)  # python_instance.py is copied beside it where Triton runs it
    path = backends / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("backend_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ort", SimpleNamespace(get_available_providers=lambda: EVERYTHING))
    return module


def config(target: str) -> dict[str, Any]:
    """As Triton hands it to the backend: protobuf's JSON with the field names of the schema."""
    text = image_config(CARD, 64, Serving(TARGETS[target]), [("/Cast_output_0", (3, 224, 224))], "a" * 64)
    return as_triton_gives(text)


def as_triton_gives(text: str) -> dict[str, Any]:
    message = text_format.Parse(text, pb.ModelConfig())
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def test_the_cpu_needs_nothing(backend: ModuleType) -> None:
    for target in TARGETS:
        assert backend._providers(config(target), "CPU", "0") == ["CPUExecutionProvider"]


def test_cuda(backend: ModuleType) -> None:
    (name, options), rest = backend._providers(config("cuda"), "GPU", "1")
    assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "use_tf32": "0",
        "cudnn_conv_use_max_workspace": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "device_id": "1",
    }


def test_tensorrt_comes_first_with_its_profile_and_caches(backend: ModuleType) -> None:
    (name, options), (second, fallback), last = backend._providers(config("tensorrt"), "GPU", "0")
    assert (name, second, last) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    # float32 in the card: nothing tells TensorRT to halve.
    assert "trt_fp16_enable" not in options
    assert options["trt_max_workspace_size"] == "4294967296" and options["device_id"] == "0"
    assert options["trt_engine_cache_enable"] == "1" and options["trt_engine_cache_path"] == "/var/cache/clipdex"
    assert options["trt_profile_max_shapes"] == "pixels:64x224x224x3,/Cast_output_0:64x3x224x224"
    assert not any(key in options for key in ("precision_mode", "max_workspace_size_bytes"))
    assert options["trt_engine_cache_prefix"] == "vit_b_32_image_" + 16 * "a"
    assert fallback["use_tf32"] == "0"


@pytest.mark.parametrize("target", TARGETS)
def test_float32_stays_float32_on_a_gpu(backend: ModuleType, target: str) -> None:
    found = config(target)
    optimizations: tuple[dict[str, Any], ...] = (found.get("optimization", {}), {})
    for optimization in optimizations:  # as exported now, and by a release that said nothing
        *gpu, _cpu = backend._providers(found | {"optimization": optimization}, "GPU", "0")
        assert dict(gpu)["CUDAExecutionProvider"]["use_tf32"] == "0"
    asked = {"name": "cuda", "parameters": {"use_tf32": "1"}}
    found["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [asked]}}
    (_, options), _ = backend._providers(found, "GPU", "0")
    assert options["use_tf32"] == "1"  # whoever writes it means it


def test_what_is_exported_in_tf32_is_rounded_on_a_gpu_by_both(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = image_config(replace(CARD, precision="tf32"), 64, Serving(TARGETS["cuda"]))
    (name, options), _ = backend._providers(as_triton_gives(text), "GPU", "0")
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "1")
    opened: list[Any] = []
    monkeypatch.setattr(ort, "get_available_providers", lambda: EVERYTHING)
    monkeypatch.setattr(ort, "InferenceSession", lambda file, options, providers: opened.append(providers))
    (tmp_path / "demo_image" / "1").mkdir(parents=True)
    (tmp_path / "demo_image" / "1" / "model.onnx").touch()
    (tmp_path / "demo_image" / "config.pbtxt").write_text(text)
    InprocTransport(tmp_path)._load("demo_image")
    assert opened == [[("CUDAExecutionProvider", {"use_tf32": "1"}), ("CPUExecutionProvider", {})]]


def test_float32_stays_float32_on_a_gpu_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(ort, "get_available_providers", lambda: EVERYTHING)
    monkeypatch.setattr(ort, "InferenceSession", lambda file, options, providers: opened.append(providers))
    InprocTransport(MODEL_REPOSITORY)._load("demo_image")
    assert opened == [[("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]]


@pytest.mark.parametrize(
    ("mode", "option"),
    [("FP16", "trt_fp16_enable"), ("BF16", "trt_bf16_enable"), ("INT8", "trt_int8_enable"), ("FP32", None)],
)
def test_precisions_of_tensorrt(backend: ModuleType, mode: str, option: str | None) -> None:
    assert backend._tensorrt_options({"precision_mode": mode}) == ({option: "1"} if option else {})


def test_what_onnxruntime_does_not_offer_is_left_out(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: EVERYTHING[1:])
    (name, _), last = backend._providers(config("tensorrt"), "GPU", "0")
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: EVERYTHING[2:])
    assert backend._providers(config("tensorrt"), "GPU", "0") == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("accelerator", "message"),
    [
        ({"name": "openvino"}, "unknown Execution Accelerator 'openvino'"),
        ({"name": "tensorrt", "parameters": {"fp16": "1"}}, "unknown parameter 'fp16'"),
        ({"name": "tensorrt", "parameters": {"precision_mode": "half"}}, "unsupported precision mode 'half'"),
    ],
)
def test_what_the_c_backend_refuses_is_refused(
    backend: ModuleType, accelerator: dict[str, Any], message: str
) -> None:
    wrong = {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}
    with pytest.raises(ValueError, match=message):
        backend._providers(wrong, "GPU", "0")
