"""docker/ without a container engine: the files parse, every flag is there and known, and nothing is open."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from fnmatch import fnmatch
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import grpc
import pytest

yaml = pytest.importorskip("yaml")
tomllib = pytest.importorskip("tomllib")

from clipdex.base.errors import ClipdexError  # noqa: E402
from clipdex_server import backend_directory  # noqa: E402
from clipdex_server.command import ServeOptions, command_line  # noqa: E402
from clipdex_server.triton_binary import TritonBinary, find_triton, site_directories  # noqa: E402

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
SERVER, CLIENT = DOCKER / "server.Dockerfile", DOCKER / "client.Dockerfile"
CPU_SERVER = DOCKER / "server-cpu.Dockerfile"
DOCKERFILES = pytest.mark.parametrize("path", [SERVER, CLIENT, CPU_SERVER], ids=lambda path: path.stem)
HEALTHCHECK = DOCKER / "healthcheck.sh"
NON_ROOT = "1000:1000"
# Triton 26.04 added it; nvidia-pytriton's is 24.10. The image's own build looks for it.
NEWER_THAN_THE_WHEEL = {"--allow-client-shm"}


# ---- Dockerfiles -----------------------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest) for each instruction; continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        found.append((name.upper(), rest.strip()))
    return found


def of(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


def last_stage(path: Path) -> list[tuple[str, str]]:
    """The instructions of the stage that becomes the image."""
    found = instructions(path)
    return found[max(n for n, (name, _) in enumerate(found) if name == "FROM") :]


def only(path: Path, name: str) -> str:
    """What an instruction that matters once says in the last stage."""
    found = [rest for instruction, rest in last_stage(path) if instruction == name]
    assert len(found) == 1, f"{path.name}: {len(found)} × {name}"
    return found[0]


def base_images(path: Path, **arguments: str) -> list[str]:
    """The images of all FROM lines, with the ARGs before the first one filled in."""
    values: dict[str, str] = {}

    def expand(text: str) -> str:
        inner = r"\$\{(\w+)(?::\+((?:[^${}]|\$\{\w+\})*))?\}"
        while match := re.search(inner, text):
            name, if_set = match.groups()
            value = values[name] if if_set is None else (if_set if values[name] else "")
            text = text[: match.start()] + value + text[match.end() :]
        return text

    images: list[Any] = []
    for name, rest in instructions(path):
        if name == "ARG" and not images:
            key, _, default = rest.partition("=")
            values[key] = arguments.get(key, expand(default))
        elif name == "FROM":
            images.append(expand(rest.split()[0]))
    return images


def copies(path: Path) -> Iterator[tuple[str | None, list[str], str]]:
    """(from which stage, or None for the build context; sources; destination) of each COPY."""
    for rest in of(path, "COPY"):
        words = rest.split()
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, destination = [word for word in words if not word.startswith("--")]
        yield options.get("from"), sources, destination


def server_command() -> list[str]:
    """The entrypoint and the command of the server image, which both are in JSON form."""
    return [*json.loads(only(SERVER, "ENTRYPOINT")), *json.loads(only(SERVER, "CMD"))]


def name_of(flag: str) -> str:
    return flag.partition("=")[0]


@DOCKERFILES
def test_base_images_are_pinned_by_a_full_tag_and_can_be_pinned_by_digest(path: Path) -> None:
    for image in base_images(path):
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]+", image), image
        assert "latest" not in image
    digests = [rest.partition("=")[0] for rest in of(path, "ARG") if "DIGEST=" in rest.split("$")[0]]
    pinned = base_images(path, **dict.fromkeys(digests, "sha256:" + "0" * 64))
    assert digests and all(image.endswith("@sha256:" + "0" * 64) for image in pinned)


def test_the_server_is_of_one_release_and_it_is_26_07_or_later() -> None:
    base, full, final = base_images(SERVER)
    assert base == final == f"{full}-min"
    match = re.fullmatch(r"nvcr\.io/nvidia/tritonserver:(\d\d)\.(\d\d)-py3", full)
    assert match is not None and (int(match[1]), int(match[2])) >= (26, 7)


@DOCKERFILES
def test_entrypoint_and_command_are_in_json_form_and_the_user_is_not_root(path: Path) -> None:
    assert all(isinstance(word, str) for word in json.loads(only(path, "ENTRYPOINT")))
    assert all(isinstance(word, str) for word in json.loads(only(path, "CMD")))
    users = [rest for name, rest in last_stage(path) if name == "USER"]
    assert users[-1] == NON_ROOT
    assert not any(name in ("ADD", "MAINTAINER") for name, _ in instructions(path))


def test_the_client_runs_clipdex() -> None:
    assert json.loads(only(CLIENT, "ENTRYPOINT")) == ["clipdex"]
    run = " ".join(rest for name, rest in last_stage(CLIENT) if name == "RUN")
    assert "locks/base.txt" in run and "locks/cli.txt" in run and "clipdex-*.whl" in run


def test_the_server_carries_one_backend() -> None:
    sources = [source for stage, group, _ in copies(SERVER) if stage == "full" for source in group]
    assert [source for source in sources if "backends" in source] == ["/opt/tritonserver/backends/onnxruntime"]
    assert "/opt/tritonserver" not in sources and "/opt/tritonserver/backends" not in sources
    assert not any("python" in source for source in sources)
    # The base image might bring a Triton one day: what it has is removed before ours is copied.
    stage = last_stage(SERVER)
    first_copy = next(n for n, (name, _) in enumerate(stage) if name == "COPY")
    assert ("RUN", "rm -rf /opt/tritonserver") in stage[:first_copy]


@DOCKERFILES
def test_what_is_copied_is_in_the_repository_and_in_the_build_context(path: Path) -> None:
    for stage, sources, _ in copies(path):
        for source in sources if stage is None else ():
            if source.startswith("/"):
                continue
            assert (ROOT / source).exists(), source
            assert in_build_context(source), f".dockerignore leaves out {source}"


@pytest.mark.parametrize(
    "path", [".git", "model_repository", "tests", "demo", ".venv", "photos.clipdex", "docs", "export/checkpoints"]
)
def test_the_build_context_has_no_more_than_the_images_need(path: str) -> None:
    assert not in_build_context(path)


def in_build_context(path: str) -> bool:
    """As .dockerignore says: the last pattern that matches the path or a directory above it decides."""
    parts = Path(path).parts
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!").removeprefix("**/")
            if any(fnmatch(each, bare) for each in above):
                included = pattern.startswith("!")
    return included


def test_the_client_image_installs_pinned_versions_only() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["cli"]]
    wanted += project["build-system"]["requires"]
    lines = (ROOT / "constraints-thin.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    seen: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        for line in (requires(name) or []) if name != "hatchling" else []:
            inner = Requirement(line)
            extras = [*requirement.extras, ""]
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(line)
    assert seen - pinned == set(), "not pinned in constraints-thin.txt"


def test_the_cpu_server_installs_pinned_versions_only() -> None:
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints() if "==" in line}
    wanted = extras("cli", "local", "openvino")
    assert "openvino" in wanted and "nvidia-pytriton" in wanted
    assert {name.lower().replace("_", "-") for name in wanted} - pinned == set()
    run = " ".join(rest for name, rest in last_stage(CPU_SERVER) if name == "RUN")
    assert "-c /tmp/constraints.txt" in run and "[cli,local,openvino]" in run
    major, minor = re.search(r"on Python (\d)\.(\d+)", "\n".join(constraints())).groups()  # type: ignore[union-attr]
    (version,) = (rest for rest in of(CPU_SERVER, "ARG") if rest.startswith("PYTHON_VERSION="))
    assert version.startswith(f"PYTHON_VERSION={major}.{minor}.")


def constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def extras(*names: str) -> set[str]:
    """The packages that extras of ours name."""
    from packaging.requirements import Requirement

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {Requirement(line).name for name in names for line in declared[name]}


def test_the_cpu_server_runs_clipdex_serve_with_flags_that_it_has(run: Any) -> None:
    entry, more = json.loads(only(CPU_SERVER, "ENTRYPOINT")), json.loads(only(CPU_SERVER, "CMD"))
    assert entry[:2] == ["clipdex", "serve"] and "--no-client-shm" in more
    usage = run("serve", "--help")[1]
    for flag in [*entry[2:], *more]:
        assert name_of(flag) in usage, flag
    script, port = json.loads(only(CPU_SERVER, "HEALTHCHECK").split("CMD", 1)[1])
    assert f"--port={port}" in entry
    assert (["docker/healthcheck.sh"], script) in [(sources, to) for _, sources, to in copies(CPU_SERVER)]


# ---- The server's flags ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def triton() -> TritonBinary:
    try:
        return find_triton()
    except ClipdexError as error:
        pytest.skip(str(error))


def test_the_server_has_every_flag_that_keeps_it_closed() -> None:
    fixed = json.loads(only(SERVER, "ENTRYPOINT"))
    assert fixed[0] == "/opt/tritonserver/bin/tritonserver"
    for flag in (
        "--model-repository=/models",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--grpc-address=0.0.0.0",
        "--grpc-port=8001",
    ):
        assert flag in fixed
    command = json.loads(only(SERVER, "CMD"))
    assert "--allow-client-shm=false" in command
    names = [name_of(flag) for flag in fixed + command]
    assert len(set(names)) == len(names), "a flag is given twice"
    assert {"--pinned-memory-pool-byte-size", "--cuda-memory-pool-byte-size"} <= set(names)
    checks = [rest for name, rest in last_stage(SERVER) if name == "RUN" and "--help" in rest]
    assert len(checks) == 1 and "--allow-client-shm" in checks[0], "the build asks the binary for this flag"


@pytest.mark.triton
def test_the_container_and_the_local_server_agree(triton: TritonBinary, tmp_path: Path) -> None:
    options = ServeOptions(
        repository=tmp_path,
        host="127.0.0.1",
        grpc_port=8001,
        http_port=None,
        metrics_port=8002,
        models=None,
        allow_client_shm=False,
        exit_timeout_s=30,
    )
    local = command_line(triton, options, backend_directory=None, shared_memory_prefix="x")[1:]
    elsewhere = ("--model-repository", "--grpc-address", "--metrics-address")
    assert {flag for flag in local if name_of(flag) not in elsewhere} <= set(server_command())


@pytest.mark.triton
def test_a_real_triton_knows_every_flag(triton: TritonBinary) -> None:
    usage = subprocess.run(
        [triton.path, "--help"], env=triton.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    known = set(re.findall(r"^\s+(--[\w-]+)", usage.stdout + usage.stderr, flags=re.MULTILINE))
    used = {name_of(flag) for flag in server_command()[1:]}
    assert "--model-repository" in known
    assert used - known <= NEWER_THAN_THE_WHEEL


def free_ports(count: int) -> list[int]:
    with closing_all([socket.create_server(("127.0.0.1", 0)) for _ in range(count)]) as sockets:
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def closing_all(sockets: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


@contextmanager
def started(triton: TritonBinary, *more: str) -> Iterator[tuple[int, int, int]]:
    """The image's command on this machine's Triton: (gRPC, metrics and, expected closed, HTTP port).

    Only what is the container's own is replaced: addresses, ports, the repository; and the backend's place.
    """
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from tiny_models import tiny_repository

    with tempfile.TemporaryDirectory(prefix="clipdex-docker-") as name:
        directory = Path(name)
        repository = directory / "models"
        repository.mkdir()
        tiny_repository(repository)
        grpc_port, metrics_port, http_port = free_ports(3)
        here = {
            "--model-repository": str(repository),
            "--grpc-address": "127.0.0.1",
            "--grpc-port": str(grpc_port),
            "--metrics-address": "127.0.0.1",
            "--metrics-port": str(metrics_port),
        }
        environment = triton.environment()
        flags = [f for f in server_command()[1:] if name_of(f) not in {*here, *NEWER_THAN_THE_WHEEL}]
        flags += [f"{flag}={value}" for flag, value in here.items()]
        flags += [f"--http-port={http_port}", *more]
        if triton.python_backend is not None:
            backends, binaries = backend_directory.build(directory, triton.python_backend, site_directories())
            environment["PATH"] = os.pathsep.join([str(binaries), environment["PATH"]])
            flags += [f"--backend-directory={backends}", "--backend-config=python,shm-default-byte-size=1048576"]
        with (directory / "log").open("w") as log:
            process = subprocess.Popen([triton.path, *flags], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None or accepts(grpc_port):
                    break
                time.sleep(0.1)
            assert process.poll() is None and accepts(grpc_port), (directory / "log").read_text()[-4000:]
            yield grpc_port, metrics_port, http_port
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0


def accepts(port: int) -> bool:
    with closing(socket.socket()) as each:
        return each.connect_ex(("127.0.0.1", port)) == 0


def healthcheck(port: int) -> int:
    command = ["bash", str(HEALTHCHECK), str(port)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


@pytest.mark.slow
@pytest.mark.triton
def test_a_real_triton_starts_with_these_flags_and_the_health_check_sees_it(triton: TritonBinary) -> None:
    with started(triton) as (grpc_port, metrics_port, http_port):
        assert healthcheck(grpc_port) == 0
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
            assert b"nv_inference_request_success" in answer.read()
        assert not accepts(http_port)
        from tritonclient.grpc import InferenceServerClient, InferenceServerException

        with closing(InferenceServerClient(f"127.0.0.1:{grpc_port}")) as client:
            assert client.is_model_ready("tiny_image")
            with pytest.raises(InferenceServerException, match="not allowed"):
                client.unload_model("tiny_image")
    assert healthcheck(grpc_port) != 0


@pytest.mark.slow
@pytest.mark.triton
def test_trace_and_log_settings_can_be_put_behind_a_key(triton: TritonBinary) -> None:
    flag = re.search(r"--grpc-restricted-protocol=\S+", (ROOT / "docs" / "docker.md").read_text())
    assert flag is not None
    with started(triton, flag[0].strip("`")) as (grpc_port, _, _):
        from tritonclient.grpc import InferenceServerClient, InferenceServerException

        with closing(InferenceServerClient(f"127.0.0.1:{grpc_port}")) as client:
            with pytest.raises(InferenceServerException, match="restricted"):
                client.get_log_settings()
            with pytest.raises(InferenceServerException, match="restricted"):
                client.get_trace_settings()
            assert client.is_server_ready()
        assert healthcheck(grpc_port) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "healthy"), [(b"\x08\x01", True), (b"", False)], ids=["ready", "not ready"])
def test_the_health_check_takes_the_servers_word(answer: bytes, healthy: bool) -> None:
    class Readiness(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            assert details.method == "/inference.GRPCInferenceService/ServerReady"
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Readiness()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert (healthcheck(port) == 0) is healthy
    finally:
        server.stop(None).wait()


@pytest.mark.slow
def test_the_health_check_does_not_wait_for_a_server_that_is_mute() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        assert healthcheck(mute.getsockname()[1]) != 0


def test_the_image_uses_the_health_check() -> None:
    words = only(SERVER, "HEALTHCHECK").split("CMD", 1)[1]
    script, port = json.loads(words)
    assert f"--grpc-port={port}" in server_command()
    assert (["docker/healthcheck.sh"], script) in [(sources, to) for _, sources, to in copies(SERVER)]
    assert os.access(HEALTHCHECK, os.X_OK)


@pytest.mark.triton
def test_libraries_the_base_image_lacks_are_carried(triton: TritonBinary, tmp_path: Path) -> None:
    needed = subprocess.run(
        ["ldd", triton.path], env=triton.environment(), capture_output=True, text=True, check=True
    ).stdout
    sonames = {line.split()[0] for line in needed.splitlines() if " => /" in line}
    assert "libc.so.6" in sonames and any("dcgm" in name for name in sonames)

    def carry(base: set[str], to: Path) -> set[str]:
        listed = tmp_path / "base-sonames"
        listed.write_text("".join(f"{name}\n" for name in sorted(base)))
        subprocess.run(
            ["bash", DOCKER / "carry-libraries.sh", listed, to, triton.path],
            env=triton.environment(),
            check=True,
            timeout=60,
        )
        return {path.name for path in to.iterdir()}

    assert carry({"libc.so.6", "libm.so.6"}, tmp_path / "some") >= sonames - {"libc.so.6", "libm.so.6"}
    assert not carry({"libc.so.6", "libm.so.6"}, tmp_path / "some") & {"libc.so.6", "libm.so.6"}
    assert not carry(sonames, tmp_path / "none") & sonames


# ---- Compose ---------------------------------------------------------------------------------------------------


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


SERVICES = pytest.mark.parametrize("service", ["server", "client"])


@SERVICES
def test_services_are_locked_down(service: str) -> None:
    it = compose()["services"][service]
    assert it["read_only"] is True
    assert it["cap_drop"] == ["ALL"] and "cap_add" not in it
    assert "no-new-privileges:true" in it["security_opt"]
    assert any(line.startswith("/tmp:") for line in it["tmpfs"])
    assert not it.get("privileged") and "network_mode" not in it and it.get("ipc") is None
    assert "user" not in it, "the images' own users hold"


def test_nothing_is_published_but_grpc_on_the_hosts_loopback() -> None:
    for name in ("compose.yaml", "compose.shm.yaml"):
        ports = [port for it in compose(name)["services"].values() for port in it.get("ports", [])]
        assert ports == (["127.0.0.1:8001:8001"] if name == "compose.yaml" else [])


def test_the_gpu_is_reserved() -> None:
    (device,) = compose()["services"]["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and "gpu" in device["capabilities"]
    assert device["count"] == "${CLIPDEX_GPUS:-1}"


@SERVICES
def test_mounts_from_the_host_are_read_only_and_never_made_up(service: str) -> None:
    binds = [volume for volume in compose()["services"][service]["volumes"] if volume["type"] == "bind"]
    assert binds
    for bind in binds:
        assert bind["read_only"] is True
        assert bind["bind"] == {"create_host_path": False}
        match = re.fullmatch(r"\$\{\w+:-(.+)\}", bind["source"])
        assert match is not None
        default = (DOCKER / match[1]).resolve()
        # The demo's pictures appear with `make demo`; everything else is in the repository.
        assert default.exists() or default == ROOT / "demo" / "pictures"


def test_volumes_are_declared_and_belong_to_the_images_user() -> None:
    loaded = compose()
    for volume in loaded["services"]["client"]["volumes"]:
        if volume["type"] == "volume":
            assert volume["source"] in loaded["volumes"]
            assert f"install -d -o 1000 -g 1000 {volume['target']}" in " ".join(of(CLIENT, "RUN"))
            assert only(CLIENT, "VOLUME") == volume["target"]


@SERVICES
def test_images_are_built_from_here(service: str) -> None:
    it = compose()["services"][service]
    assert (DOCKER / it["build"]["context"]).resolve() == ROOT
    assert (ROOT / it["build"]["dockerfile"]).is_file()
    assert ":" in it["image"] and not it["image"].endswith(":latest")


def test_the_server_images_tag_is_its_release() -> None:
    assert f"TRITON_RELEASE={compose()['services']['server']['image'].split(':')[1]}" in of(SERVER, "ARG")


def test_the_client_waits_for_a_healthy_server_and_knows_its_address() -> None:
    client = compose()["services"]["client"]
    assert client["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert client["environment"]["CLIPDEX_SERVER"] == "server:8001"
    assert client["profiles"] == ["client"]


def test_shared_memory_is_lifted_by_its_own_file_and_nothing_else_is() -> None:
    services = compose("compose.shm.yaml")["services"]
    assert set(services["server"]) == {"ipc", "shm_size", "command"}
    assert services["server"]["ipc"] == "shareable"
    assert services["client"] == {"ipc": "service:server"}
    as_it_is = json.loads(only(SERVER, "CMD"))
    assert without_variables(services["server"]["command"]) == [
        "--allow-client-shm=true" if flag == "--allow-client-shm=false" else flag for flag in as_it_is
    ]


def without_variables(words: list[str]) -> list[str]:
    """As compose reads them where no variable is set."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]


def test_compose_says_what_the_image_says_and_lets_sizes_be_set() -> None:
    command = compose()["services"]["server"]["command"]
    assert without_variables(command) == json.loads(only(SERVER, "CMD"))
    assert [word for word in command if "$" in word] == [word for word in command if "pool-byte-size" in word]


def test_float32_stays_float32_in_the_image_and_in_compose() -> None:
    """TensorRT has no other switch for TensorFloat-32."""
    variables = dict(word.split("=", 1) for rest in of(SERVER, "ENV") for word in rest.split())
    assert variables["NVIDIA_TF32_OVERRIDE"] == "0"
    assert compose()["services"]["server"]["environment"] == {"NVIDIA_TF32_OVERRIDE": "0"}


def test_the_local_server_keeps_float32_what_it_is_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = TritonBinary(Path("/opt/tritonserver/bin/tritonserver"), None)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert binary.environment()["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "NVIDIA_TF32_OVERRIDE" not in binary.environment(tf32=True)
    for value in ("0", "1"):
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
        for tf32 in (False, True):
            assert binary.environment(tf32=tf32)["NVIDIA_TF32_OVERRIDE"] == value


def test_the_cpu_server_is_locked_down_like_the_other_and_needs_no_gpu() -> None:
    loaded = compose("compose.cpu.yaml")
    it, other = loaded["services"]["server"], compose()["services"]["server"]
    for key in ("read_only", "cap_drop", "security_opt", "logging", "ports", "volumes", "pids_limit"):
        assert it[key] == other[key], key
    assert set(it) - set(other) == {"init"} and "deploy" not in it and not it.get("privileged")
    assert (ROOT / it["build"]["dockerfile"]) == CPU_SERVER and it["build"]["context"] == ".."
    # Triton's Python backend runs a program from /tmp, and its tensors are in /dev/shm.
    (temporary,) = it["tmpfs"]
    assert "noexec" not in temporary and ",exec," in temporary and it["shm_size"] == "1g"
    client = loaded["services"]["client"]
    assert client["extends"] == {"file": "compose.yaml", "service": "client"} and "index" in loaded["volumes"]
    assert client["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_engines_have_a_volume_that_the_images_user_owns() -> None:
    loaded = compose("compose.tensorrt.yaml")
    assert set(loaded["services"]) == {"server"}
    assert set(loaded["services"]["server"]) == {"volumes", "healthcheck"}
    (volume,) = loaded["services"]["server"]["volumes"]
    assert (volume["type"], volume["source"]) == ("volume", "engines") and "engines" in loaded["volumes"]
    made = [rest for name, rest in last_stage(SERVER) if name == "RUN" and rest.startswith("install -d")]
    assert made == [f"install -d -o 1000 -g 1000 {volume['target']}"]
    targets = (ROOT / "export" / "clipdex_export" / "targets.py").read_text()
    assert f'DEFAULT_ENGINE_CACHE = "{volume["target"]}"' in targets


@pytest.mark.parametrize(
    "files",
    [
        ["compose.yaml"],
        ["compose.yaml", "compose.shm.yaml"],
        ["compose.yaml", "compose.tensorrt.yaml"],
        ["compose.cpu.yaml"],
    ],
    ids=["plain", "shm", "tensorrt", "cpu"],
)
def test_docker_compose_accepts_the_files(files: list[str]) -> None:
    docker = shutil.which("docker") or ""
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed here")
    names = [part for name in files for part in ("-f", str(DOCKER / name))]
    done = subprocess.run(
        [docker, "compose", *names, "--profile", "client", "config", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == {"server", "client"}
