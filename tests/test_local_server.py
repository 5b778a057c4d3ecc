"""A Triton of this machine's own: it starts, serves, fails in one sentence, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
import tritonclient.grpc as grpc
from tiny_models import TEXT_CONFIG, image_model, slow_model, text_model, tiny_repository

import clipdex_server
from clipdex.base.errors import LocalServerError, MissingExtra
from clipdex_server import LocalTriton, find_triton, supervisor, triton_binary
from clipdex_server.reason import why_it_ended

triton = pytest.mark.triton
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quicker to start, where it does not matter what is served."""
    return text_model(tmp_path_factory.mktemp("one_model"))


@pytest.fixture
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test keep their files, in place of /tmp."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr("tempfile.tempdir", None)
    return directory


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


# --- what a run consists of, as the kernel sees it ---


def processes() -> dict[int, tuple[int, str]]:
    """Each process's parent and command line; zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if state != "Z":
                found[int(entry.name)] = (int(parent), command)
    return found


def remains(temp_dir: Path) -> list[str]:
    """Everything that still exists of the runs which keep their files in `temp_dir`, logs left out."""
    alive = [f"{pid}: {command}" for pid, (_, command) in processes().items() if str(temp_dir) in command]
    files = [str(path) for path in temp_dir.glob("clipdex-triton-*") if path.suffix != ".log"]
    regions = [str(path) for path in SHARED_MEMORY.glob("clipdex-triton-*") if path.name[:-37] in seen_names]
    return alive + files + regions


seen_names: set[str] = set()


def remember(temp_dir: Path) -> None:
    """Note the names of the runs under way: their shared memory is to be gone as well later."""
    seen_names.update(path.name for path in temp_dir.glob("clipdex-triton-*"))
    regions = [path for path in SHARED_MEMORY.glob("clipdex-triton-*") if path.name[:-37] in seen_names]
    assert regions, "each stub has a region, or the tests below would show nothing"


def assert_all_gone(temp_dir: Path, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while left := remains(temp_dir):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [child for child, (parent, _) in processes().items() if parent == pid]


def parent_of(pid: int) -> int:
    return processes()[pid][0]


def infer_text(address: str) -> np.ndarray:
    client = grpc.InferenceServerClient(address)
    try:
        ids = grpc.InferInput("token_ids", [1, 6], "INT32").set_data_from_numpy(np.zeros((1, 6), np.int32))
        return client.infer("tiny_text", [ids]).as_numpy("embedding")
    finally:
        client.close()


# --- it serves ---


@triton
def test_it_serves_and_leaves_nothing(repository: Path, temp_dir: Path) -> None:
    with LocalTriton(repository) as server:
        assert server.address == f"127.0.0.1:{server.grpc_port}"
        assert server.version.startswith("2.")
        assert server.models == ("tiny_assets", "tiny_image", "tiny_text")
        assert server.poll() is None
        assert infer_text(server.address).shape == (1, 4)
        assert server.pid is not None
        assert listening(server.pid) == {("127.0.0.1", server.grpc_port)}
        remember(temp_dir)
    assert server.poll() == 0
    assert remains(temp_dir) == []
    assert list(temp_dir.iterdir()) == []  # the log as well, and nothing of onnxruntime's telemetry
    server.stop()  # once more does no harm


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses on which a process accepts connections."""
    mine = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            mine.add(os.readlink(path))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                address, port = fields[1].split(":")
                v4 = address.removeprefix("0000000000000000FFFF0000")  # IPv4, mapped into IPv6
                found.add((socket.inet_ntoa(bytes.fromhex(v4)[::-1]), int(port, 16)))
    return found


@pytest.mark.slow
@triton
def test_other_endpoints_named_models_and_a_log_when_asked(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    with LocalTriton(
        repository, http_port=0, metrics_port=0, models=["tiny_text"], log_file=log, allow_client_shm=False
    ) as server:
        assert server.models == ("tiny_text",)
        assert server.pid is not None
        ports = {server.grpc_port, server.http_port, server.metrics_port}
        assert listening(server.pid) == {("127.0.0.1", port) for port in ports}
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready") as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
            assert b'nv_inference_count{model="tiny_text"' in answer.read()
    assert "successfully loaded 'tiny_text'" in log.read_text()
    assert "tiny_image" not in log.read_text()


@pytest.mark.slow
@triton
def test_a_path_that_a_shell_would_take_apart(
    tmp_path: Path, temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "my models; $(touch pwned) 'x'"
    odd.mkdir()
    text_model(odd, "tiny_text")
    monkeypatch.chdir(tmp_path)
    with LocalTriton(odd) as server:
        assert infer_text(server.address).shape == (1, 4)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
@triton
def test_what_it_has_accepted_is_answered_before_it_stops(tmp_path: Path) -> None:
    with LocalTriton(slow_model(tmp_path)) as server:
        client = grpc.InferenceServerClient(server.address)
        rounds, took_s = 500, 0.0
        while took_s < 0.6:  # on this machine, whatever machine it is
            rounds *= 2
            began = time.monotonic()
            client.infer("slow", [rounds_input(rounds)])
            took_s = time.monotonic() - began
        answers: list[object] = []
        client.async_infer(
            "slow", [rounds_input(2 * rounds)], lambda result, error: answers.append(error or result)
        )
        time.sleep(took_s / 2)  # it is on its way now
        assert not answers
        server.stop()
        deadline = time.monotonic() + 10
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        (answer,) = answers
        assert isinstance(answer, grpc.InferResult), answer
        assert answer.as_numpy("result").tolist() == [256.0]
        client.close()


def rounds_input(rounds: int) -> grpc.InferInput:
    return grpc.InferInput("rounds", [1], "INT64").set_data_from_numpy(np.array([rounds]))


@triton
def test_without_patience_it_ends_at_once(tmp_path: Path, temp_dir: Path) -> None:
    with LocalTriton(slow_model(tmp_path / "models"), stop_timeout_s=0) as server:
        client = grpc.InferenceServerClient(server.address)
        answers: list[object] = []
        client.async_infer("slow", [rounds_input(10**9)], lambda result, error: answers.append(error or result))
        time.sleep(0.2)
        server.stop()
        assert remains(temp_dir) == []
        deadline = time.monotonic() + 10
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(answers[0], grpc.InferenceServerException)
        client.close()


# --- whatever ends the process that started it, nothing is left ---

PARENT = """
import os, sys, time
from clipdex_server import LocalTriton

with LocalTriton(sys.argv[1], stop_timeout_s=float(sys.argv[2])) as server:
    print("ready", server.pid, server.address, flush=True)
    exec(sys.stdin.readline())
    time.sleep(60)
"""


class Parent:
    """Another Python process that has started a server."""

    def __init__(self, repository: Path, stop_timeout_s: float = 0.3) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(repository), str(stop_timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said[:1] == ["ready"], self.process.communicate()[1]
        self.triton_pid = int(said[1])
        self.address = said[2]

    def do(self, code: str = "pass") -> None:
        """Let it run one line of Python, and then sleep."""
        assert self.process.stdin is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for its end; return what it said."""
        output, errors = self.process.communicate(timeout=30)
        return output + errors


ENDS: dict[str, Callable[[Parent], object]] = {
    "exception": lambda parent: parent.do("raise ValueError"),
    "sys.exit": lambda parent: parent.do("sys.exit(3)"),
    "os._exit": lambda parent: parent.do("os._exit(3)"),
    "ctrl_c": lambda parent: parent.process.send_signal(signal.SIGINT),
    "sigterm": lambda parent: parent.process.terminate(),
    "sigkill": lambda parent: parent.process.kill(),
    # A worker that was forked, as multiprocessing does it, holds a copy of every pipe of its parent.
    "sigkill_while_a_forked_child_lives": lambda parent: (
        parent.do("os.fork() or (os.closerange(0, 3), time.sleep(30)); print('forked', flush=True)"),
        present(parent.process.stdout).readline(),
        parent.process.kill(),
    ),
}


@pytest.mark.slow
@triton
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_when_the_parent_ends(one_model: Path, temp_dir: Path, end: str) -> None:
    parent = Parent(one_model)
    remember(temp_dir)
    assert str(parent.triton_pid) in "\n".join(remains(temp_dir))
    ENDS[end](parent)
    parent.finish()
    assert_all_gone(temp_dir)
    assert list(temp_dir.iterdir()) == []  # the log as well


@pytest.mark.slow
@triton
def test_a_forked_child_does_not_stop_the_server_of_its_parent(one_model: Path, temp_dir: Path) -> None:
    parent = Parent(one_model)
    parent.do("os.fork() or sys.exit('the child leaves the with block'); os.wait(); print('waited', flush=True)")
    assert parent.process.stdout is not None
    assert parent.process.stdout.readline() == "waited\n"
    assert infer_text(parent.address).shape == (1, 4)
    parent.process.kill()
    assert "the child leaves" in parent.finish()
    assert_all_gone(temp_dir)


# --- whatever ends Triton, its own parts are not left ---


@triton
def test_triton_is_killed(one_model: Path, temp_dir: Path) -> None:
    with LocalTriton(one_model) as server:
        assert server.pid is not None
        remember(temp_dir)
        server.wait(timeout_s=0.1)  # the time is over, the server is not
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(LocalServerError, match=r"Triton ended: it was killed by SIGKILL, perhaps .*\.log\)"):
            server.wait(timeout_s=20)
        assert server.poll() == -9
        assert_all_gone(temp_dir)
    assert server.poll() == -9
    assert server.log_file is not None
    assert "Started GRPCInferenceService" in server.log_file.read_text()  # kept: the message named it


@pytest.mark.slow
@triton
def test_somebody_stops_triton(one_model: Path, temp_dir: Path) -> None:
    with LocalTriton(one_model) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGTERM)
        with pytest.raises(LocalServerError, match="Triton ended: another process stopped it with SIGTERM"):
            server.wait(timeout_s=20)
    assert remains(temp_dir) == []


@pytest.mark.slow
@triton
def test_a_stub_is_killed(one_model: Path, temp_dir: Path) -> None:
    """Triton 2.51 would go on without it, and refuse every request for that model."""
    with LocalTriton(one_model, stop_timeout_s=0.3) as server:
        assert server.pid is not None
        (stub,) = [pid for pid in children(server.pid) if "/tiny_text/" in processes()[pid][1]]
        os.kill(stub, signal.SIGKILL)
        with pytest.raises(LocalServerError, match="Triton ended: the process of its model tiny_text died"):
            server.wait(timeout_s=20)
        assert_all_gone(temp_dir)


@pytest.mark.slow
@triton
def test_the_supervisor_is_killed(one_model: Path, temp_dir: Path) -> None:
    with LocalTriton(one_model) as server:
        assert server.pid is not None
        remember(temp_dir)
        os.kill(parent_of(server.pid), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while server.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.poll() == -9
    assert_all_gone(temp_dir)


@pytest.mark.slow
@triton
def test_a_new_run_sweeps_up_after_one_that_was_killed_with_its_supervisor(
    one_model: Path, temp_dir: Path
) -> None:
    parent = Parent(one_model)
    remember(temp_dir)
    every_part = [parent_of(parent.triton_pid), *children(parent.triton_pid), parent.triton_pid]
    for pid in [*every_part, parent.process.pid]:
        os.kill(pid, signal.SIGSTOP)  # or one of them would still tidy up
    for pid in [*every_part, parent.process.pid]:
        os.kill(pid, signal.SIGKILL)
    parent.finish()
    left = remains(temp_dir)
    assert any("/dev/shm/" in each for each in left), "nothing was left, and nothing can be shown"
    with LocalTriton(one_model, stop_timeout_s=0):
        assert set(left).isdisjoint(remains(temp_dir))


def test_a_sweep_takes_nothing_from_the_living_or_from_others(temp_dir: Path) -> None:
    mine = temp_dir / supervisor.new_name()
    namespace, pid, started, end = mine.name.removeprefix(supervisor.NAME_PREFIX).split("-")
    prefix = supervisor.NAME_PREFIX
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [
        mine,
        temp_dir / f"{prefix}{int(namespace) + 1}-{dead.pid}-{started}-{end}",  # of another container
        temp_dir / f"{prefix}by-somebody-else",
        temp_dir / "clipdex",
    ]
    swept = [
        temp_dir / f"{prefix}{namespace}-{dead.pid}-{started}-{end}",
        temp_dir / f"{prefix}{namespace}-{pid}-{int(started) - 1}-{end}",  # the number was used before
    ]
    for path in kept + swept:
        path.mkdir()
        (path / "file").touch()
    supervisor.sweep(temp_dir)
    assert sorted(temp_dir.iterdir()) == sorted(kept)
    assert all((path / "file").exists() for path in kept)


def test_a_process_whose_name_is_cut_within_a_letter_is_found_like_others() -> None:
    # Linux keeps 15 bytes of a name, wherever that cuts a name in UTF-8.
    script = "import ctypes, os; ctypes.CDLL(None).prctl(15, 'übersetzungüü'.encode()); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UnicodeDecodeError):
            Path(f"/proc/{process.pid}/stat").read_bytes().decode()
        assert process.pid in supervisor._children(os.getpid())
        assert supervisor._owner(process.pid).split("-")[1] == str(process.pid)
        process.stdin.write(b"\n")


# --- it fails in one sentence ---


def fails(repository: Path, **options: Any) -> str:
    with pytest.raises(LocalServerError) as caught, LocalTriton(repository, **options):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_port_in_use(repository: Path, used_port: int) -> None:
    assert fails(repository, grpc_port=used_port) == (
        f"the gRPC port {used_port} of 127.0.0.1 cannot be used (Address already in use): "
        "choose another with --port (grpc_port=), or 0 for any free one"
    )
    for option, name in (("http_port", "--http-port"), ("metrics_port", "--metrics-port")):
        assert f"choose another with {name} ({option}=), or 0 " in fails(repository, **{option: used_port})
    assert fails(repository, grpc_port=70000) == (
        "the gRPC port is 70000; expected 1 to 65535, or 0 for any free port"
    )


def test_an_address_that_is_not_of_this_machine(repository: Path) -> None:
    assert fails(repository, host="192.0.2.1").startswith("Triton cannot listen on 192.0.2.1: ")


@triton
@pytest.mark.slow
def test_a_port_taken_while_the_models_load(
    repository: Path, temp_dir: Path, used_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdex_server.local.free_port", lambda *_: used_port)
    message = fails(repository)
    assert message.startswith("Triton did not start: its GRPC endpoint did not start: ")
    assert f"127.0.0.1:{used_port}" in message
    assert remains(temp_dir) == []


def test_a_repository_without_models(tmp_path: Path) -> None:
    assert fails(tmp_path / "none") == f"the model repository {tmp_path}/none does not exist"
    (tmp_path / "file").touch()
    assert fails(tmp_path / "file") == f"the model repository {tmp_path}/file is not a directory"
    (tmp_path / "empty" / "pictures").mkdir(parents=True)
    assert fails(tmp_path / "empty").startswith(f"the model repository {tmp_path}/empty contains no model: ")


def test_a_model_that_is_not_in_the_repository(repository: Path) -> None:
    assert fails(repository, models=["tiny_text", "huge_text"]) == (
        f"the model repository {repository} has no model 'huge_text'; it has tiny_assets, tiny_image, tiny_text"
    )


def test_a_model_whose_name_a_shell_would_take_apart(tmp_path: Path) -> None:
    image_model(tmp_path, "$(touch pwned)")
    assert fails(tmp_path).startswith("Triton cannot serve a model named '$(touch pwned)': use letters, ")


@triton
def test_a_configuration_that_cannot_be_read(tmp_path: Path, temp_dir: Path) -> None:
    text_model(tmp_path / "models", "tiny_text", TEXT_CONFIG.replace("max_batch_size: 8", "max_batch_size: eight"))
    message = fails(tmp_path / "models")
    sentence, _, log = message.rpartition(" (its log: ")
    assert sentence == (
        "Triton did not start: the model tiny_text did not load: "
        "config.pbtxt, line 4, column 17: Expected integer, got: eight"
    )
    assert "Expected integer" in Path(log.rstrip(")")).read_text()
    assert remains(temp_dir) == []


@triton
def test_not_ready_in_time(repository: Path, temp_dir: Path) -> None:
    message = fails(repository, startup_timeout_s=0.1)
    assert message.startswith("Triton was not ready within 0.1 s of its start: ")
    assert remains(temp_dir) == []


def test_a_log_that_cannot_be_written(repository: Path, temp_dir: Path) -> None:
    find_triton()
    message = fails(repository, log_file=temp_dir / "missing" / "triton.log")
    assert message.startswith("Triton cannot be started: ")
    assert "missing/triton.log" in message
    assert list(temp_dir.iterdir()) == []


@pytest.mark.parametrize("package", ["pytriton", "onnxruntime"])
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    real = find_spec
    monkeypatch.setattr(triton_binary, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(MissingExtra, match=r"pip install .*\[local\]'"):
        find_triton()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_a_platform_without_triton(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(LocalServerError, match=rf"no Triton .* on {machine}: .*inproc:DIR"):
        find_triton()


def test_a_python_without_a_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_binary, "_version", lambda: "3.7")
    with pytest.raises(LocalServerError, match=r"supports Python 3\.8 to 3\.13, and this is 3\.7: .*inproc:DIR"):
        find_triton()


def test_a_numpy_that_the_stub_does_not_work_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_binary, "version", lambda name: {"numpy": "2.5.2"}[name])
    with pytest.raises(LocalServerError, match=r"NumPy 1, and this Python has NumPy 2\.5\.2: .*'numpy<2', or "):
        find_triton()


def test_a_stub_that_finds_no_libpython(tmp_path: Path) -> None:
    """As the dynamic loader says it: exit status 127, and the name of the library."""
    stub = script(
        tmp_path / "stub", 'echo "stub: libpython3.11.so.1.0: cannot open shared object file" >&2; exit 127'
    )
    with pytest.raises(LocalServerError, match=r"shared libpython, and .*python.* has none: "):
        triton_binary._check_loads(triton_binary.TritonBinary(tmp_path / "tritonserver"), stub)


# --- the tritonserver of NVIDIA's container ---


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_tritonserver_that_does_not_end_when_asked_for_its_flags_is_one_sentence(
    repository: Path, tmp_path: Path, temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "tritonserver", "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(triton_binary, "_ASKED_S", 0.2)
    message = fails(repository)
    assert message.startswith(f"{tmp_path}/tritonserver did not end within 0.2 s of its start")


def test_a_tritonserver_on_the_path_is_preferred_and_uses_its_own_backends(
    repository: Path, tmp_path: Path, temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(
        tmp_path / "tritonserver",
        f"""
        if [ "$1" = --help ]; then echo "  --allow-client-shm <boolean>"; exit 0; fi
        printf '%s\\n' "$@" > {tmp_path}/arguments
        echo 'E1123 14:54:26.8 5850 server.cc:241] "CudaDriverHelper has not been initialized."'
        echo 'error: creating server: Internal - this one only writes down its arguments'
        exit 1
        """,
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_triton().path == tmp_path / "tritonserver"
    message = fails(repository, allow_client_shm=False, models=["tiny_text"])
    assert message.startswith("Triton did not start: creating server: Internal - this one only writes down")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    (locked,) = [argument for argument in arguments if "grpc-restricted" in argument]
    assert re.fullmatch(
        r"--grpc-restricted-protocol=shared-memory,model-repository,logging,trace:clipdex=[0-9a-f]{64}", locked
    )
    assert [argument for argument in arguments if not re.search("grpc-port|restricted", argument)] == [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--load-model=tiny_text",
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--exit-timeout-secs=10",
        "--grpc-address=127.0.0.1",
        "--allow-http=false",
        "--allow-metrics=false",
        "--allow-client-shm=false",
    ]


# --- reading Triton's log ---


def error_line(what: str) -> str:
    return f'E1123 14:54:25.466764 5711 model_lifecycle.cc:642] "{what}"\n'


UNLOADED = "error: creating server: Internal - failed to load all models\n"
TRACE = r"\n\nAt:\n  /backends/onnxruntime/model.py(85): initialize\n"
LOGS = {
    "one_model": (
        error_line("CudaDriverHelper has not been initialized.")
        + error_line(f"ERROR: Failed to create instance: TritonModelException: no{TRACE}")
        + error_line(
            "failed to load 'a' version 1: Internal: TritonModelException: unable to load model 'a', "
            rf"it is \"odd\"{TRACE}"
        )
        + "I1123 14:54:25.466800 5711 model_lifecycle.cc:777] \"failed to load 'a'\"\n"
        + UNLOADED,
        1,
        'the model a did not load: it is "odd"',
    ),
    "two_models": (
        error_line("failed to load model 'a': at least one version must be available")
        + error_line("Poll failed for model directory 'b': unexpected directory name 'b' for model 'c'")
        + UNLOADED,
        1,
        "2 models did not load: a: at least one version must be available; "
        "b: unexpected directory name 'b' for model 'c'",
    ),
    "no_gpu": (
        error_line(
            "failed to load 'a' version 1: Invalid argument: instance group a_0 of model a has kind KIND_GPU "
            "but no GPUs are available"
        )
        + UNLOADED,
        1,
        "the model a did not load: instance group a_0 of model a has kind KIND_GPU but no GPUs are available",
    ),
    "not_there": (
        error_line("failed to poll model 'a': model not found in any model repository.") + UNLOADED,
        1,
        "the model a did not load: model not found in any model repository",
    ),
    "loader": (
        "tritonserver: error while loading shared libraries: libdcgm.so.3: cannot open shared object file\n",
        127,
        "tritonserver: error while loading shared libraries: libdcgm.so.3: cannot open shared object file",
    ),
    "nothing": ("", 1, "it wrote nothing to its log"),
    "memory": ("all is well\n", -9, "it was killed by SIGKILL, perhaps because memory ran out"),
    "crash": ("all is well\n", -11, "it was killed by SIGSEGV"),
    "a signal without a name": ("all is well\n", -40, "it was killed by signal 40"),
    "the log has one": ("Signal (40) received.\n", 1, "another process stopped it with signal 40"),
}


@pytest.mark.parametrize("case", LOGS)
def test_the_log_gives_the_reason(case: str) -> None:
    log, status, reason = LOGS[case]
    assert why_it_ended(log, status) == reason


# --- the package ---


def test_the_public_names() -> None:
    assert sorted(clipdex_server.__all__) == ["LocalTriton", "TritonBinary", "find_triton"]
    assert all(hasattr(clipdex_server, name) for name in clipdex_server.__all__)


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, clipdex_server; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "clipdex_server" in loaded
    assert not {"tritonclient", "grpc", "onnxruntime", "pytriton", "onnx", "torch"} & set(loaded)
