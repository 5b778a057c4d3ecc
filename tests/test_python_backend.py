"""The Python-based `onnxruntime` backend, inside a real Triton: answers, batches, errors, refusals."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
import tritonclient.grpc as grpc
from onnx import TensorProto, helper
from tiny_models import (
    ASSETS_CONFIG,
    BLOB,
    IMAGE_CONFIG,
    TABLE,
    TEXT_CONFIG,
    assets_model,
    image_model,
    text_model,
    tiny_repository,
    write_model,
)

from clipdex.base.errors import LocalServerError
from clipdex_server import LocalTriton

pytestmark = pytest.mark.triton

DTYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


def repository_of_everything(repository: Path) -> Path:
    """Every setting that the backend reads, each in a model of its own."""
    tiny_repository(repository)
    text_model(
        repository,
        "renamed",
        TEXT_CONFIG + 'default_model_filename: "net.onnx"\noptimization { graph { level: -1 } }\n',
        file="net.onnx",
    )
    text_model(repository, "in_a_directory", TEXT_CONFIG, file="model.onnx/model.onnx")
    for threads in ("1", "4"):
        parameters = {"intra_op_thread_count": threads, "execution_mode": "0", "cudnn_conv_algo_search": "1"}
        parameters |= {"enable_mem_arena": "false", "nobody_knows_this_key": "x"}
        parameters |= {"session.intra_op.allow_spinning": "0"}
        image_model(repository, f"threads_{threads}", IMAGE_CONFIG + parameter_block(parameters))
    write_model(
        repository,
        "every_dtype",
        every_dtype_config(),
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in DTYPES],
        {f"in_{name}": (number, ["b", 2]) for name, number in DTYPES.items()},
        {f"out_{name}": (number, ["b", 2]) for name, number in DTYPES.items()},
    )
    return repository


def parameter_block(parameters: dict[str, str]) -> str:
    entry = 'parameters {{ key: "{}" value: {{ string_value: "{}" }} }}\n'
    return "".join(entry.format(*item) for item in parameters.items())


def every_dtype_config() -> str:
    tensors = {
        side: ", ".join(f'{{ name: "{side}_{n}" data_type: TYPE_{n} dims: [ 2 ] }}' for n in DTYPES)
        for side in ("in", "out")
    }
    return f"""
name: "NAME"
backend: "onnxruntime"
max_batch_size: 4
input [ {tensors["in"]} ]
output [ {tensors["out"]} ]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    repository = repository_of_everything(tmp_path_factory.mktemp("repository"))
    with LocalTriton(repository, stop_timeout_s=0) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalTriton) -> Iterator[grpc.InferenceServerClient]:
    connected = grpc.InferenceServerClient(server.address)
    yield connected
    connected.close()


def tensor(name: str, array: np.ndarray) -> grpc.InferInput:
    dtype = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}.get(
        array.dtype.name, array.dtype.name.upper()
    )
    return grpc.InferInput(name, array.shape, dtype).set_data_from_numpy(np.ascontiguousarray(array))


def later(
    client: grpc.InferenceServerClient, model: str, inputs: list[grpc.InferInput]
) -> Future[grpc.InferResult]:
    answer: Future[grpc.InferResult] = Future()

    def done(result: grpc.InferResult | None, error: Exception | None) -> None:
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    client.async_infer(model, inputs, done)
    return answer


def executions(client: grpc.InferenceServerClient, model: str) -> tuple[int, int]:
    """Rows answered, and runs that it took."""
    (stats,) = client.get_inference_statistics(model).model_stats
    return stats.inference_count, stats.execution_count


def runs_since(client: grpc.InferenceServerClient, model: str, before: tuple[int, int], rows: int) -> int:
    """Runs since `before`, once Triton has counted `rows` rows: it counts a run after it has answered."""
    end = time.monotonic() + 10
    while (now := executions(client, model))[0] - before[0] < rows and time.monotonic() < end:
        time.sleep(0.01)
    assert now[0] - before[0] == rows
    return now[1] - before[1]


def test_one_request_is_answered_as_numpy_answers_it(client: grpc.InferenceServerClient) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    embedding = client.infer("tiny_image", [tensor("pixels", pixels)]).as_numpy("embedding")
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, pixels.mean(axis=(1, 2)), rtol=1e-6)


def test_requests_are_run_together_and_each_gets_its_own_rows(client: grpc.InferenceServerClient) -> None:
    rng = np.random.default_rng(2)
    ids = [rng.integers(0, 50, (rows, 6)).astype(np.int32) for rows in (1, 3, 2, 1, 1)]  # 8 rows: a full batch
    before = executions(client, "tiny_text")
    answers = [later(client, "tiny_text", [tensor("token_ids", each)]) for each in ids]
    for each, answer in zip(ids, answers, strict=True):
        np.testing.assert_allclose(answer.result(10).as_numpy("embedding"), TABLE[each].mean(axis=1), atol=1e-6)
    assert runs_since(client, "tiny_text", before, rows=8) < len(ids)


def test_a_bad_request_fails_alone(client: grpc.InferenceServerClient) -> None:
    good = np.full((2, 6), 7, np.int32)
    bad = np.full((1, 6), 99, np.int32)  # TABLE has 50 rows
    before = executions(client, "tiny_text")
    answers = [later(client, "tiny_text", [tensor("token_ids", each)]) for each in (good, bad, good, good, bad)]
    for index in (0, 2, 3):
        np.testing.assert_allclose(
            answers[index].result(10).as_numpy("embedding"), TABLE[good].mean(axis=1), atol=1e-6
        )
    for index in (1, 4):
        with pytest.raises(grpc.InferenceServerException, match=r"tiny_text: .*99") as caught:
            answers[index].result(10)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    # They did meet in one batch, or this test would show nothing.
    assert runs_since(client, "tiny_text", before, rows=8) < len(answers)


@pytest.mark.parametrize(("start", "end"), [(0, len(BLOB)), (5, 9), (len(BLOB) - 3, 10**12), (4, 4)])
def test_a_model_without_batches_is_run_for_each_request(
    client: grpc.InferenceServerClient, start: int, end: int
) -> None:
    def ask() -> Future[grpc.InferResult]:
        inputs = [tensor("start", np.array([start])), tensor("end", np.array([end]))]
        return later(client, "tiny_assets", inputs)

    for answer in [ask() for _ in range(3)]:
        assert answer.result(10).as_numpy("bytes").tobytes() == BLOB[start:end]


def test_every_dtype_comes_back_as_it_went(client: grpc.InferenceServerClient) -> None:
    numbers = np.array([[0, 1], [1, 0], [1, 1]])
    inputs = {name: numbers.astype(numpy_dtype(name)) for name in DTYPES}
    wanted = [grpc.InferRequestedOutput(f"out_{name}") for name in DTYPES]
    result = client.infer("every_dtype", [tensor(f"in_{n}", a) for n, a in inputs.items()], outputs=wanted)
    for name, array in inputs.items():
        np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), array, strict=True)


def test_only_the_outputs_asked_for_are_sent(client: grpc.InferenceServerClient) -> None:
    inputs = [tensor(f"in_{name}", np.zeros((1, 2), numpy_dtype(name))) for name in DTYPES]
    result = client.infer("every_dtype", inputs, outputs=[grpc.InferRequestedOutput("out_INT16")])
    assert [output.name for output in result.get_response().outputs] == ["out_INT16"]


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype({"BOOL": "bool", "FP16": "f2", "FP32": "f4", "FP64": "f8"}.get(name, name.lower()))


@pytest.mark.parametrize("model", ["renamed", "in_a_directory"])
def test_the_onnx_file_is_found_where_the_configuration_says(
    client: grpc.InferenceServerClient, model: str
) -> None:
    ids = np.arange(6, dtype=np.int32)[None]
    embedding = client.infer(model, [tensor("token_ids", ids)]).as_numpy("embedding")
    np.testing.assert_allclose(embedding, TABLE[ids].mean(axis=1), atol=1e-6)


def test_a_model_has_the_threads_that_it_was_given(server: LocalTriton) -> None:
    assert server.pid is not None
    threads = {}
    for child in Path(f"/proc/{server.pid}/task").glob("*/children"):
        for pid in child.read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            for model in ("threads_1", "threads_4"):
                if f"/{model}/" in command:
                    threads[model] = len(os.listdir(f"/proc/{pid}/task"))
    assert threads["threads_4"] - threads["threads_1"] == 3  # the caller's thread is one of the four


class Refused(NamedTuple):
    """A good model, broken by putting `new` for `old` in its configuration."""

    write: Callable[..., Path]
    config: str
    old: str
    new: str
    reason: str


def refused_text(old: str, new: str, reason: str) -> Refused:
    return Refused(text_model, TEXT_CONFIG, old, new, reason)


def refused_parameter(key: str, value: str, reason: str) -> Refused:
    block = parameter_block({key: value})
    return refused_text('name: "NAME"', f'name: "NAME"\n{block}', f"parameter '{key}' is {reason}")


# The C++ backend refuses the same ones when it loads a model.
REFUSED = {
    "input_name": refused_text('"token_ids"', '"tokens"', "unexpected input 'tokens', the model has 'token_ids'"),
    "input_dtype": refused_text(
        "TYPE_INT32",
        "TYPE_INT64",
        "configuration expects TYPE_INT64 for input 'token_ids', model provides tensor(int32)",
    ),
    "input_dims": refused_text(
        "[ 6 ]", "[ 7 ]", "configuration expects shape [-1, 7] for input 'token_ids', model provides [-1, 6]"
    ),
    "input_rank": refused_text(
        "[ 6 ]",
        "[ 6, 1 ]",
        "configuration expects shape [-1, 6, 1] for input 'token_ids', model provides [-1, 6]",
    ),
    "output_name": refused_text(
        '"embedding"', '"vector"', "unexpected output 'vector', the model has 'embedding'"
    ),
    "output_dims": refused_text(
        "[ 4 ]", "[ 5 ]", "configuration expects shape [-1, 5] for output 'embedding', model provides [-1, 4]"
    ),
    "text_dtype": refused_text(
        "TYPE_INT32", "TYPE_STRING", "input 'token_ids' has the unsupported data type TYPE_STRING"
    ),
    "too_few_inputs": Refused(
        assets_model,
        ASSETS_CONFIG,
        ', { name: "end" data_type: TYPE_INT64 dims: [ 1 ] }',
        "",
        "configuration expects 1 inputs, model provides 2: 'start', 'end'",
    ),
    "not_batched": Refused(
        assets_model,
        ASSETS_CONFIG,
        "max_batch_size: 0",
        "max_batch_size: 4",
        "input 'start' cannot be batched: max_batch_size above 0 needs a first dimension of -1, "
        "the model's shape is [1]",
    ),
    "execution_mode": refused_parameter("execution_mode", "7", "7, expected one of 0, 1"),
    "thread_count": refused_parameter("intra_op_thread_count", "many", "'many', expected a whole number"),
    "boolean": refused_parameter("enable_mem_arena", "perhaps", "'perhaps', expected true or false"),
}


@pytest.mark.slow
def test_models_that_differ_from_their_configuration_are_refused(tmp_path: Path) -> None:
    for name, case in REFUSED.items():
        assert case.old in case.config
        case.write(tmp_path, name, case.config.replace(case.old, case.new))
    image_model(tmp_path, "no_file")
    (tmp_path / "no_file" / "1" / "model.onnx").unlink()
    image_model(tmp_path, "not_onnx")
    (tmp_path / "not_onnx" / "1" / "model.onnx").write_bytes(b"not a graph" * 9)
    with pytest.raises(LocalServerError) as caught, LocalTriton(tmp_path):
        pass
    message = str(caught.value)
    assert f"{len(REFUSED) + 2} models did not load" in message
    for name, case in REFUSED.items():
        assert f"{name}: {case.reason}" in message
    assert f"{tmp_path}/no_file/1/model.onnx failed" in message
    assert "not_onnx: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF" in message
    Path(message.rpartition("(its log: ")[2].rstrip(")")).unlink()


def test_session_options_of_onnxruntime_are_passed_on(tmp_path: Path) -> None:
    block = parameter_block({"session.intra_op_thread_affinities": "core"})
    image_model(tmp_path, "affinities", IMAGE_CONFIG + block)
    with (
        pytest.raises(LocalServerError, match=r"affinities.*must consist of only digits: core"),
        LocalTriton(tmp_path),
    ):
        pass
