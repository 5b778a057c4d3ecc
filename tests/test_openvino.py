"""OpenVINO in this process and in a local Triton: the same vectors, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, ROOT

openvino_spec = importlib.util.find_spec("openvino")
if openvino_spec is None:
    pytest.skip("openvino is not installed", allow_module_level=True)
pytest.importorskip("onnxruntime")

import clipdex  # noqa: E402
import clipdex_server  # noqa: E402
from clipdex.base.errors import MissingExtra, RequestRefused  # noqa: E402
from clipdex.base.processor import Processor  # noqa: E402
from clipdex.wire.runtimes import choice  # noqa: E402
from clipdex.wire.runtimes.inproc import InprocTransport  # noqa: E402
from clipdex.wire.runtimes.open_vino import OpenVino  # noqa: E402
from clipdex.wire.runtimes.runtime import Opening  # noqa: E402
from clipdex_server import LocalTriton  # noqa: E402
from clipdex_server.runtimes import choices, write_repository  # noqa: E402

AMX = Processor("x86_64", frozenset({"avx2", "avx512_bf16", "amx_bf16"}))
# Intel's has instructions for bf16 that are no faster than those for float32.
COOPER_LAKE = Processor("x86_64", frozenset({"avx2", "avx512_bf16"}), "GenuineIntel")
TEXTS = ["a red circle", "two blue squares on green", ""]


def for_openvino(repository: Path, *parameters: str) -> Path:
    """The demo model as an export for OpenVINO has it: another backend and file name."""
    shutil.copytree(MODEL_REPOSITORY, repository)
    for part in ("image", "text"):
        path = repository / f"demo_{part}" / "config.pbtxt"
        text = path.read_text().replace(
            'backend: "onnxruntime"', 'backend: "openvino" default_model_filename: "model.onnx"'
        )
        for parameter in parameters:
            key, value = parameter.split("=")
            text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        path.write_text(text.replace("KIND_AUTO", "KIND_CPU"))
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return for_openvino(tmp_path / "repository")


def pixels(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8)


def compared(one: clipdex.Client, other: clipdex.Client) -> None:
    for rows in (1, 9, 3):  # a batch of any size, in any order
        expected, found = (client.submit_pixels(pixels(rows)).result() for client in (one, other))
        np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(other.embed_texts(TEXTS), one.embed_texts(TEXTS), atol=2e-6)


def test_in_process_its_vectors_are_those_of_onnxruntime_but_for_the_last_bits(repository: Path) -> None:
    with (
        clipdex.connect(f"inproc:{MODEL_REPOSITORY}") as one,
        clipdex.connect(f"inproc:{repository}") as other,
    ):
        assert other.server.version.startswith("openvino 20") and one.server.version[0].isdigit()
        compared(one, other)


@pytest.mark.slow
@pytest.mark.triton
def test_served_by_a_local_triton_they_are_the_same(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        LocalTriton(repository, log_file=log) as server,
        clipdex.connect(f"inproc:{MODEL_REPOSITORY}") as one,
        clipdex.connect(server.address) as other,
    ):
        compared(one, other)
        assert server.runtimes["demo_image"].runtime == "openvino"
        for array, output, words in (
            (pixels(2).astype(np.int8), "embedding", "UINT8|uint8|data-type|datatype"),
            (pixels(2)[:, 1:], "embedding", "shape"),
        ):
            with pytest.raises(clipdex.ClipdexError, match=words):
                other._transport.submit("demo_image", {"pixels": array}, output, 30).result()
    assert re.search(r"demo_image_0_0: model.onnx on OpenVINO 20[\d.]+ in f32", log.read_text())


def test_importing_it_reports_nothing_over_the_network_and_writes_nothing_at_home(tmp_path: Path) -> None:
    script = (
        "import sys; from clipdex.wire.runtimes.open_vino import OpenVino; OpenVino('this');"
        "import openvino; assert 'openvino_telemetry' not in sys.modules; openvino.convert_model"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_does_not_fit_is_refused_in_one_sentence(repository: Path) -> None:
    transport = InprocTransport(repository)
    good = np.zeros((1, 32), dtype=np.int32)
    requests: list[tuple[dict[str, np.ndarray], str, str]] = [
        ({"token_ids": good.astype(np.int64)}, "embedding", r"its input token_ids is int32 \[-1, 32\]"),
        ({"token_ids": good[:, 1:]}, "embedding", r"the request has int32 \[1, 31\]"),
        ({"token_ids": good[0]}, "embedding", r"the request has int32 \[32\]"),
        ({"ids": good}, "embedding", "it has no input 'ids'"),
        ({"token_ids": good, "more": good}, "embedding", "it has 1 input.*; the request has 2"),
        ({"token_ids": good}, "vector", "it has no output 'vector'"),
    ]
    for inputs, output, words in requests:
        error = transport.submit("demo_text", inputs, output, 30).exception()
        assert isinstance(error, RequestRefused) and re.search(words, str(error)), (words, error)
        assert "\n" not in str(error)
    transport.close()


def test_a_file_that_it_cannot_read_is_named_in_one_sentence(repository: Path) -> None:
    (repository / "demo_text" / "1" / "model.onnx").write_bytes(b"no model")
    transport = InprocTransport(repository)
    error = transport.submit("demo_text", {"token_ids": np.zeros((1, 32), np.int32)}, "embedding", 30).exception()
    assert isinstance(error, clipdex.CardError) and "demo_text/1/model.onnx: OpenVINO cannot load it" in str(error)
    transport.close()


def test_without_it_a_model_for_it_says_which_extra_to_install(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"inproc:.* needs openvino: run  .*\[openvino\]"):
        clipdex.connect(f"inproc:{repository}")
    monkeypatch.setattr("clipdex.base.extras.is_installed", lambda module: False)
    with pytest.raises(MissingExtra, match=r"serving demo_image.* needs openvino: run  .*\[openvino\]"):
        choices(repository, None, gpu=False)


def test_bf16_is_asked_of_it_only_where_the_processor_multiplies_it(repository: Path) -> None:
    runtime = OpenVino("this")
    asked: list[dict[str, Any]] = []
    file = repository / "demo_text" / "1" / "model.onnx"
    compiled = SimpleNamespace(create_infer_request=lambda: None, inputs=[], outputs=[])
    runtime._core = SimpleNamespace(compile_model=lambda path, device, options: asked.append(options) or compiled)
    for native in (False, True):
        for bf16 in (False, True):
            runtime._bf16 = native
            runtime.open("demo_text", file, Opening(threads=2, bf16=bf16))
    assert [options["INFERENCE_PRECISION_HINT"] for options in asked] == ["f32", "f32", "f32", "bf16"]
    assert {options["INFERENCE_NUM_THREADS"] for options in asked} == {2}


def test_auto_serves_a_bf16_model_by_openvino_on_a_processor_that_gains_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "repository"
    shutil.copytree(MODEL_REPOSITORY, source)
    path = source / "demo_image" / "config.pbtxt"
    path.write_text(path.read_text() + 'parameters { key: "HINT_BF16" value: { string_value: "YES" } }\n')
    monkeypatch.setattr(choice, "this_processor", lambda: AMX)
    found = choices(source, None, gpu=False)
    assert {name: each.runtime for name, each in found.items()} == {
        "demo_assets": "onnxruntime",
        "demo_image": "openvino",
        "demo_text": "onnxruntime",
    }
    seen = write_repository(tmp_path / "seen", source, found)
    written = clipdex.wire.model_config.read_config(seen / "demo_image" / "config.pbtxt")
    assert (written.backend, written.default_model_filename) == ("openvino", "model.onnx")
    assert [group.kind for group in written.instance_group] == [written.instance_group[0].KIND_CPU]
    assert (seen / "demo_image" / "1" / "model.onnx").samefile(source / "demo_image" / "1" / "model.onnx")
    assert (seen / "demo_text").is_symlink() and path.read_text().count("openvino") == 0  # the user's stays
    assert write_repository(tmp_path / "link", MODEL_REPOSITORY, {}).is_symlink()


def test_a_model_for_openvino_is_served_in_float32_where_the_processor_gains_nothing_by_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend would heed what it is asked for, wherever the processor can."""
    source = tmp_path / "repository"
    shutil.copytree(MODEL_REPOSITORY, source)
    path = source / "demo_image" / "config.pbtxt"
    asked = path.read_text().replace('backend: "onnxruntime"', 'backend: "openvino"')
    path.write_text(asked + 'parameters { key: "HINT_BF16" value: { string_value: "YES" } }\n')
    for processor, heeded in ((AMX, True), (COOPER_LAKE, False)):
        monkeypatch.setattr(choice, "this_processor", lambda it=processor: it)
        seen = write_repository(tmp_path / f"seen {heeded}", source, choices(source, None, gpu=False))
        written = clipdex.wire.model_config.read_config(seen / "demo_image" / "config.pbtxt")
        assert written.backend == "openvino" and ("HINT_BF16" in written.parameters) is heeded
    assert "HINT_BF16" in path.read_text()  # the user's stays


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend's module, with Triton's own one replaced: it is not imported from outside of a stub."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    monkeypatch.delitem(sys.modules, "python_instance", raising=False)
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    backends = Path(clipdex_server.__file__).parent / "backends"
    monkeypatch.syspath_prepend(backends)
    spec = importlib.util.spec_from_file_location("backend_under_test", backends / "openvino" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(**values: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def test_the_backend_reads_the_settings_of_tritons_own(backend: ModuleType) -> None:
    given = parameters(
        INFERENCE_NUM_THREADS="3",
        NUM_STREAMS="auto",
        PERFORMANCE_HINT="throughput",
        HINT_BF16="yes",
        ENABLE_BATCH_PADDING="YES",
        clipdex_fingerprint="f",
    )
    options, lost = backend._options(given, True)
    assert options == {
        "INFERENCE_NUM_THREADS": 3,
        "NUM_STREAMS": "AUTO",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    assert not lost
    options, lost = backend._options(given, False)
    assert options["INFERENCE_PRECISION_HINT"] == "f32" and lost
    options, lost = backend._options({}, True)  # float32 unless asked, also where bfloat16 is native
    assert options["INFERENCE_PRECISION_HINT"] == "f32" and not lost


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("HINT_BF16", "NO", "'HINT_BF16' is 'NO', expected YES"),
        ("PERFORMANCE_HINT", "fast", "'PERFORMANCE_HINT' is 'FAST', expected one of LATENCY"),
        ("NUM_STREAMS", "many", "'NUM_STREAMS' is 'MANY', expected a whole number"),
        ("INFERENCE_NUM_THREADS", "all", "'INFERENCE_NUM_THREADS' is 'all', expected a whole number"),
    ],
)
def test_what_tritons_own_refuses_is_refused(backend: ModuleType, key: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backend._options(parameters(**{key: value}), True)


def test_an_instance_on_a_gpu_is_refused(backend: ModuleType) -> None:
    with pytest.raises(ValueError, match="supports only the CPU"):
        backend.TritonPythonModel().open({}, Path("model.onnx"), {"model_instance_kind": "GPU"})


@pytest.mark.slow
def test_the_fidelity_of_an_int8_file_is_that_of_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from clipdex_export import export_model

    for name, precision in (("small", "int8"), ("whole", "bf16")):
        export_model(
            ROOT / "export" / "checkpoints" / "demo",
            name=name,
            repository=tmp_path,
            target="openvino",
            precision=precision,
        )
    with clipdex.connect(f"inproc:{MODEL_REPOSITORY}") as exact:
        expected = exact.submit_pixels(pixels(64)).result()
        for name, floor in (("small", 0.99), ("whole", 0.999)):
            with clipdex.connect(f"inproc:{tmp_path}", model=name) as client:
                assert client.card.fingerprint == exact.card.fingerprint
                # The gate rounds to bfloat16 on any machine, also where OpenVINO computes in float32.
                assert floor < client.card.parity["image_cosine_min"] < 0.99999
                assert client.card.parity["top10_overlap"] >= (0.98 if floor == 0.999 else 0.95)
                found = client.submit_pixels(pixels(64)).result()
                assert (found * expected).sum(axis=1).min() > floor


def test_models_say_what_computes_them(repository: Path, run: Any) -> None:
    status, _, err = run("models", repository)
    assert status == 0
    assert err == "demo: computed by openvino: its configuration names it, and asks for float32\n"
    (found,) = json.loads(run("models", MODEL_REPOSITORY, "--json")[1])
    assert found["runtime"] == "onnxruntime: its configuration names it"
