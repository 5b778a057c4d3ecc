"""What every `Transport` does. A new one is put into TRANSPORTS, and must pass."""

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY
from fake_triton import FakeTriton

import clipdex
from clipdex.base.extras import is_installed
from clipdex.testing import FakeTransport
from clipdex.wire import SharedMemory, Transport, open_transport

TIMEOUT_S = 30.0


def fake() -> Iterator[Transport]:
    transport = FakeTransport()
    yield transport
    transport.close()


def over_grpc() -> Iterator[Transport]:
    with FakeTriton(FakeTransport()) as server:
        transport = open_transport(server.address)
        yield transport
        transport.close()


def several_servers() -> Iterator[Transport]:
    with FakeTriton(FakeTransport()) as one, FakeTriton(FakeTransport()) as two:
        transport = open_transport([one.address, two.address])
        yield transport
        transport.close()


def in_process() -> Iterator[Transport]:
    pytest.importorskip("onnxruntime")
    transport = open_transport(f"inproc:{MODEL_REPOSITORY}")
    yield transport
    transport.close()


def one_connection() -> Iterator[Transport]:
    """Without the retries and the health checks that `open_transport` puts above it."""
    from clipdex.wire.triton import TritonTransport

    with FakeTriton(FakeTransport()) as server:
        transport = TritonTransport(server.address)
        yield transport
        transport.close()


def one_runtime() -> Iterator[Transport]:
    pytest.importorskip("onnxruntime")
    from clipdex.wire.runtimes.inproc import InprocTransport

    transport = InprocTransport(MODEL_REPOSITORY)
    yield transport
    transport.close()


def another_runtime() -> Iterator[Transport]:
    if not is_installed("openvino"):  # imported by a test, it would report itself over the network
        pytest.skip("openvino is not installed")
    from clipdex.wire.runtimes.choice import ONNXRUNTIME, OPENVINO
    from clipdex.wire.runtimes.inproc import InprocTransport

    transport = InprocTransport(MODEL_REPOSITORY)
    transport._installed -= {ONNXRUNTIME}  # so that OpenVINO computes everything, the assets too
    assert transport.choice("demo_text").runtime == OPENVINO
    yield transport
    transport.close()


TRANSPORTS = {
    "fake": fake,
    "gRPC": over_grpc,
    "several servers": several_servers,
    "in process": in_process,
    "one connection": one_connection,
    "one runtime": one_runtime,
    # Slow: each test compiles the model anew.
    "another runtime": pytest.param(another_runtime, marks=pytest.mark.slow),
}


@pytest.fixture(params=TRANSPORTS.values(), ids=list(TRANSPORTS))
def transport(request):
    yield from request.param()


@pytest.fixture
def part(transport) -> str:
    """The name of a model that takes token ids."""
    return next(name for name in transport.models(TIMEOUT_S) if name.endswith("_text"))


def token_ids(transport, part, rows):
    (dims,) = transport.config(part, TIMEOUT_S).inputs.values() or [(77,)]
    return {"token_ids": np.ones((rows, *dims), dtype=np.int32)}


def test_it_says_who_answers(transport):
    assert transport.address
    info = transport.server(TIMEOUT_S)
    assert info.name and info.version


def test_models_are_sorted_and_each_has_a_configuration(transport):
    names = transport.models(TIMEOUT_S)
    assert names == sorted(names) and names
    for name in names:
        config = transport.config(name, TIMEOUT_S)
        assert config.name == name
        assert config.max_batch_size >= 0 and config.instance_count >= 1


def test_a_model_that_is_not_there_is_said_to_be_not_there(transport):
    with pytest.raises(clipdex.ModelNotFound):
        transport.config("no_such_model", TIMEOUT_S)


def test_a_request_is_answered_with_a_row_for_each_row(transport, part):
    answer = transport.submit(part, token_ids(transport, part, 3), "embedding", TIMEOUT_S).result(TIMEOUT_S)
    assert answer.dtype == np.float32 and answer.shape[0] == 3 and answer.ndim == 2
    np.testing.assert_allclose(np.linalg.norm(answer, axis=1), 1, atol=1e-3)


def test_equal_requests_have_equal_answers_waited_for_or_not(transport, part):
    inputs = token_ids(transport, part, 2)
    first = transport.submit(part, inputs, "embedding", TIMEOUT_S).result(TIMEOUT_S)
    second = transport.submit(part, inputs, "embedding", TIMEOUT_S, wait=True).result(TIMEOUT_S)
    np.testing.assert_array_equal(first, second)


def test_a_request_to_a_model_that_is_not_there_is_an_error_of_ours(transport):
    future = transport.submit("no_such_model", {"x": np.zeros((1, 1), dtype=np.int32)}, "y", TIMEOUT_S)
    assert isinstance(future.exception(TIMEOUT_S), clipdex.ClipdexError)


def test_a_request_of_too_many_rows_is_refused_by_its_future(transport, part):
    limit = transport.config(part, TIMEOUT_S).max_batch_size
    for wait in (False, True):
        inputs = token_ids(transport, part, limit + 1)
        future = transport.submit(part, inputs, "embedding", TIMEOUT_S, wait=wait)
        assert isinstance(future.exception(TIMEOUT_S), clipdex.RequestRefused)


def test_a_request_after_the_end_fails_in_its_future(transport, part):
    inputs = token_ids(transport, part, 1)
    transport.close()
    for wait in (False, True):
        error = transport.submit(part, inputs, "embedding", TIMEOUT_S, wait=wait).exception(TIMEOUT_S)
        if isinstance(transport, FakeTransport):  # has nothing to close, and answers
            assert error is None
        else:
            assert isinstance(error, clipdex.Closed)


def test_requests_under_way_at_the_end_have_an_answer_or_an_error_of_ours(transport, part):
    inputs = token_ids(transport, part, 8)
    futures = [transport.submit(part, inputs, "embedding", TIMEOUT_S) for _ in range(20)]
    transport.close()
    for future in futures:
        error = future.exception(TIMEOUT_S)
        assert error is None or isinstance(error, clipdex.ClipdexError)


def test_counters_only_grow(transport, part):
    before = transport.statistics(part, TIMEOUT_S)
    transport.submit(part, token_ids(transport, part, 1), "embedding", TIMEOUT_S).result(TIMEOUT_S)
    counted = transport.statistics(part, TIMEOUT_S).since(before)
    assert counted.requests in (0, 1) and counted.failures == 0


def test_memory_is_shared_or_not_and_forgotten_without_a_word(transport):
    with SharedMemory(4096, named=True) as memory:
        assert transport.share(memory, TIMEOUT_S) in (True, False)
        transport.unshare(memory)
        transport.unshare(memory)


def test_it_can_be_closed_twice(transport):
    transport.close()
    transport.close()
