"""The doctor before real servers: one in order, and one with every fault that a configuration can have."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from conftest import MODEL_REPOSITORY

pytest.importorskip("typer")

from clipdex.apps.doctor import Snapshot, examine
from clipdex.apps.doctor import collect as collecting
from clipdex.apps.doctor.collect import collect
from clipdex.base.errors import InvalidArgument, ModelNotFound, RequestRefused, ServerUnreachable
from clipdex.wire.inspect.inspector import Inspection
from clipdex_server import LocalTriton
from clipdex_server.checks import free_port

pytestmark = [pytest.mark.triton, pytest.mark.slow]

FINGERPRINT = re.compile(r'(key: "clipdex_fingerprint", value: \{ string_value: ")(\w+)')
# What may be said of a sound server, by how busy it and this machine are.
HARMLESS = {
    "time_of_one",
    "memory_local",
    "metrics_not_found",
    "requests_alone",
    "batches_of_one",
    "lone_request_waits",
    "far_away",
}


def copy_demo(repository: Path, name: str, **changes: tuple[str, str]) -> None:
    """The demo model under another name; by part, a pattern in its config.pbtxt and what to put there."""
    for part in ("image", "text", "assets"):
        shutil.copytree(MODEL_REPOSITORY / f"demo_{part}", repository / f"{name}_{part}")
        config = repository / f"{name}_{part}" / "config.pbtxt"
        text = config.read_text().replace(f'name: "demo_{part}"', f'name: "{name}_{part}"')
        if part in changes:
            pattern, replacement = changes[part]
            changed = re.sub(pattern, replacement, text, flags=re.S)
            assert changed != text
            text = changed
        config.write_text(text)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    """A server whose models each have one fault. HTTP and metrics are open."""
    repository = tmp_path_factory.mktemp("repository")
    policy = "dynamic_batching { preferred_batch_size: [ 4 ] default_queue_policy { max_queue_size: 1 }"
    batching = r"dynamic_batching \{.*?\n\}\n"
    copy_demo(repository, "unbatched", image=(batching, ""), text=(r"count: 1", "count: 2"))
    copy_demo(
        repository,
        "impatient",
        image=(r"max_queue_delay_microseconds: \d+", "max_queue_delay_microseconds: 60000"),
        text=(r"dynamic_batching \{", policy),
    )
    copy_demo(
        repository,
        "mixed",
        text=(FINGERPRINT.pattern, r"\g<1>" + "f" * 64),
        assets=(r'(clipdex_assets_sha256", value: \{ string_value: ")\w+', r"\g<1>" + "e" * 64),
    )
    port = free_port("gRPC", "127.0.0.1", 0)
    server = LocalTriton(repository, grpc_port=port, http_port=port - 1, metrics_port=0, stop_timeout_s=0)
    server._key = None  # as Triton is by itself: anybody may do anything
    with server:
        yield server


@pytest.fixture(scope="module")
def seen(faulty: LocalTriton) -> Snapshot:
    (snapshot,) = collect(faulty.address, metrics=f"127.0.0.1:{faulty.metrics_port}")
    return snapshot


def found(*snapshots: Snapshot) -> dict[str, set[str]]:
    """Codes by where."""
    by_place: dict[str, set[str]] = {}
    for finding in examine(snapshots):
        by_place.setdefault(finding.where, set()).add(finding.code)
    return by_place


def test_a_server_in_order(triton: LocalTriton) -> None:
    (snapshot,) = collect(triton.address)
    assert {code for codes in found(snapshot).values() for code in codes} <= HARMLESS
    (model,) = snapshot.models
    assert model.card is not None and set(model.trials) == {"image", "text"}
    for trial in model.trials.values():
        assert trial.dim == model.card.embedding_dim and trial.finite and trial.error is None
        assert trial.alone_to_full > 0.9999
    assert model.parts["image"].groups[0].kind in ("KIND_CPU", "KIND_GPU"), "the server has resolved KIND_AUTO"


@pytest.mark.slow
def test_what_is_seen_of_a_configuration(seen: Snapshot) -> None:
    models = {model.name: model for model in seen.models}
    assert set(models) == {"unbatched", "impatient", "mixed"}
    assert models["unbatched"].parts["image"].batching is None
    impatient = models["impatient"].parts
    assert impatient["image"].batching is not None and impatient["text"].batching is not None
    assert impatient["image"].batching.delay_us == 60_000 and impatient["image"].batching.preferred == ()
    assert impatient["text"].batching.preferred == (4,) and impatient["text"].batching.queue_size == 1
    assert seen.metrics.reachable and seen.server.version == "2.51.0"
    assert not seen.server.model_control and seen.server.system_memory and seen.server.settings


@pytest.mark.parametrize(
    ("where", "codes"),
    [
        ("unbatched_image", {"no_batching"}),
        ("unbatched_text", {"cpu_instances"}),
        ("impatient_image", {"delay_long", "lone_request_waits"}),
        ("impatient_text", {"preferred_batch_size", "queue_policy", "queue_short"}),
        ("mixed_text", {"fingerprint_differs"}),
        ("mixed_assets", {"assets_differ"}),
    ],
)
def test_every_fault_is_named_where_it_is(seen: Snapshot, where: str, codes: set[str]) -> None:
    assert codes <= found(seen)[where] <= codes | HARMLESS


def test_http_is_seen_and_to_whom_it_is_open(
    faulty: LocalTriton, seen: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{faulty.http_port}"
    assert found(seen)[address] == {"http_on"}
    # As if the loopback were an address that others reach: nothing here is bound to one.
    monkeypatch.setattr(collecting, "own_addresses", lambda: ("127.0.0.1",))
    (snapshot,) = collect(f"localhost:{faulty.grpc_port}", model="unbatched")
    assert found(snapshot)[address] == {"http_open"}
    server = found(snapshot)[snapshot.address]
    assert {"grpc_open", "memory_open", "settings_open"} <= server and "memory_local" not in server


def test_two_servers_that_differ(triton: LocalTriton, seen: Snapshot) -> None:
    both = (seen, *collect(triton.address))
    assert found(*both)["demo"] == {"model_not_everywhere"}


@pytest.mark.slow
def test_the_command(faulty: LocalTriton, run) -> None:
    status, out, err = run("doctor", faulty.address, "--model", "mixed")
    assert (status, err) == (1, "")
    assert f"{faulty.address}: triton 2.51.0 serves mixed (fp32)" in out
    assert "wrong: mixed_text: its configuration has the fingerprint ffffffffffff, but the card has " in out
    assert re.search(r"\nnot healthy: 2 wrong, \d slow, \d notes?\n$", out)
    status, out, _ = run("doctor", faulty.address, "--model", "mixed", "--json")
    told = json.loads(out)
    assert status == 1 and told["healthy"] is False
    assert {"fingerprint_differs", "assets_differ"} <= {each["code"] for each in told["findings"]}
    assert all(each["what"] and each["why"] for each in told["findings"])


def test_a_healthy_server_s_exit_status_is_0(tmp_path: Path, run) -> None:
    shutil.copytree(MODEL_REPOSITORY, tmp_path / "repository")
    with LocalTriton(tmp_path / "repository", metrics_port=0, stop_timeout_s=0) as server:
        status, out, err = run("doctor", server.address, "--metrics", f"127.0.0.1:{server.metrics_port}")
        told = re.findall(r"^(\w+): ", out, re.M)
        if status != 0:  # a machine so busy that a lone request had to wait
            assert re.findall(r"^slow: .*", out, re.M) and "waits" in out and "wrong: " not in out
        else:
            assert set(told) <= {"127", "note", "healthy"} and "\nhealthy: 0 wrong, 0 slow, " in out
        assert err == ""
        # The metrics of a closed port, once the server is to have some.
        closed = free_port("metrics", "127.0.0.1", 0)
        status, out, _ = run("doctor", server.address, "--metrics", f"127.0.0.1:{closed}")
        assert status == 1 and f"wrong: 127.0.0.1:{closed}: Triton's metrics do not answer there" in out


def test_nobody_answers(run) -> None:
    address = f"127.0.0.1:{free_port('gRPC', '127.0.0.1', 0)}"
    status, out, err = run("doctor", address)
    assert (status, out) == (1, "")
    assert err.startswith(f"clipdex: no server answers at {address} (") and err.count("\n") == 1
    with pytest.raises(ServerUnreachable):
        collect(address)


def test_a_model_that_is_not_there(triton: LocalTriton) -> None:
    with pytest.raises(ModelNotFound, match="has no model 'vit'; it has demo"):
        collect(triton.address, model="vit")


@pytest.mark.parametrize("address", ["inproc:models", "http://localhost:8000", "localhost", "localhost:x"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidArgument):
        collect(address)


@pytest.mark.slow
def test_a_server_that_lets_clients_load_models() -> None:
    models = ["demo_image", "demo_text", "demo_assets"]
    server = LocalTriton(MODEL_REPOSITORY, models=models, stop_timeout_s=0)
    server._key = None
    with server:
        (snapshot,) = collect(server.address)
        assert "control_local" in found(snapshot)[server.address]
        # Asking whether it does has unloaded nothing.
        assert set(collect(server.address)[0].server.models) == set(models)


@pytest.mark.slow
def test_what_a_key_opens_is_closed_to_anybody(triton: LocalTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks holds the key of this server, and is not told that anybody may do what the key opens."""
    (snapshot,) = collect(triton.address)
    server = snapshot.server
    assert not (server.system_memory or server.cuda_memory or server.model_control or server.settings)
    # Of those who hold none, the models that are ready are known all the same.
    monkeypatch.setattr("clipdex.wire.connection.key_headers", lambda address: ())
    (without,) = collect(triton.address)
    assert without.server.models == server.models == ("demo_assets", "demo_image", "demo_text")
    assert {code for codes in found(without).values() for code in codes} <= HARMLESS


def test_looking_changes_nothing(triton: LocalTriton) -> None:
    with Inspection(triton.address) as inspection:
        before = inspection.server()
        assert inspection.server() == before
        assert set(before.models) == {"demo_assets", "demo_image", "demo_text"}


@contextmanager
def proxy(target: str, limit: int) -> Iterator[str]:
    """A gRPC proxy that takes no message above `limit` bytes -> its address."""
    with grpc.insecure_channel(target) as channel:

        class Forward(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
                call = channel.unary_unary(details.method)

                def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
                    try:
                        answer: bytes = call(request, timeout=30)
                    except grpc.RpcError as exc:
                        context.abort(exc.code(), exc.details())
                    return answer

                return grpc.unary_unary_rpc_method_handler(forward)

        options = [("grpc.max_receive_message_length", limit)]
        server = grpc.server(ThreadPoolExecutor(2), handlers=[Forward()], options=options)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_a_message_limit_on_the_way(triton: LocalTriton) -> None:
    with proxy(triton.address, 100_000) as address:
        (snapshot,) = collect(address)
    assert found(snapshot)["demo_image"] - HARMLESS == {"full_batch_refused"}
    error = snapshot.models[0].trials["image"].full_error
    assert error is not None and "RESOURCE_EXHAUSTED" in error
    assert "full_batch_refused" not in found(snapshot).get("demo_text", set())


def test_a_server_that_is_no_triton() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(RequestRefused, match="uses gRPC but is not a Triton server"):
            collect(f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
