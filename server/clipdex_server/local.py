"""A Triton server on this machine, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from clipdex.errors import LocalServerError
from clipdex_server import backend_directory, supervisor
from clipdex_server.command import ServeOptions, command_line
from clipdex_server.find import TritonBinary, find_triton, site_directories
from clipdex_server.ready import accepts_connections, server_state
from clipdex_server.reason import why_it_ended

__all__ = ["LocalTriton"]

_POLL_S = 0.02
# nvidia-pytriton's Triton starts a stub through `bash -c` without quoting: see _check_names.
_SHELL_SAFE = re.compile(r"[A-Za-z0-9._/+@%:,-]+")


class LocalTriton:
    """Serve a model repository; ready when the block begins, gone without a trace when it ends.

        with LocalTriton("model_repository") as server:
            clip = clipdex.connect(server.address, model="demo")

    However this process ends, the server ends with it, its own processes included.

    Args:
        repository: a Triton model repository: a directory of NAME/config.pbtxt, NAME/1/model.onnx.
        grpc_port, http_port, metrics_port: 0 chooses a free one; None leaves that endpoint off.
        host: the address that all of them listen on. Triton asks for no password: keep it to yourself.
        allow_client_shm: let clients on this machine pass tensors in shared memory.
        models: the models to serve; None for all of the repository.
        log_file: where Triton writes, kept. None for a temporary file that is kept after a failure only.
        startup_timeout_s: how long all models together may take to load.
        stop_timeout_s: how long accepted requests may take to finish when the server stops.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str],
        *,
        grpc_port: int = 0,
        host: str = "127.0.0.1",
        http_port: int | None = None,
        metrics_port: int | None = None,
        allow_client_shm: bool = True,
        models: Sequence[str] | None = None,
        log_file: str | os.PathLike[str] | None = None,
        startup_timeout_s: float = 300.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.host = host
        self.grpc_port = grpc_port
        self.http_port = http_port
        self.metrics_port = metrics_port
        self.allow_client_shm = allow_client_shm
        self.models: tuple[str, ...] | None = None if models is None else tuple(models)
        self.log_file = None if log_file is None else Path(log_file).absolute()
        self.startup_timeout_s = startup_timeout_s
        self.stop_timeout_s = stop_timeout_s
        self.version = ""
        self._log_is_ours = log_file is None
        self._run: _Run | None = None

    def __enter__(self) -> LocalTriton:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where its gRPC endpoint is, as `clipdex.connect` takes it: "127.0.0.1:PORT"."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def pid(self) -> int | None:
        """The process id of `tritonserver`, or None when it was not started."""
        return None if self._run is None else self._run.pid

    def start(self) -> LocalTriton:
        """Start the server and return when all its models are ready.

        Raises:
            MissingExtra: nvidia-pytriton or onnxruntime is not installed.
            LocalServerError: no model in the repository, a port in use, a model that does not load, a
                server that ends or is not ready in time. The message carries Triton's own reason.
        """
        if self._run is not None:
            raise LocalServerError("this server was started already")
        triton = find_triton()
        _check_repository(self.repository, self.models)
        self.grpc_port = _free_port("gRPC", self.host, self.grpc_port)
        if self.http_port is not None:
            self.http_port = _free_port("HTTP", self.host, self.http_port)
        if self.metrics_port is not None:
            self.metrics_port = _free_port("metrics", self.host, self.metrics_port)
        self._run = self._launch(triton)
        try:
            self._wait_until_ready()
        except BaseException as exc:  # Ctrl-C as well
            self.stop(keep_log=isinstance(exc, LocalServerError))
            raise
        return self

    def poll(self) -> int | None:
        """None while the server runs, else its exit status, negative for a signal (as in subprocess)."""
        run = self._started()
        run.read_news(0)
        if run.status is None and run.supervisor.poll() is not None:
            run.read_news(0)
            run.status = run.supervisor.returncode if run.status is None else run.status
        return run.status

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the server ends by itself, which it does not in peace, or the time is over.

        Raises:
            LocalServerError: it ended; the message says why and where its log is.
        """
        run = self._started()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            run.read_news(left)
        self._log_is_ours = False  # kept: the message names it
        raise self._failure("Triton ended")

    def stop(self, *, keep_log: bool = False) -> None:
        """Let accepted requests finish, then end the server and all its processes. Harmless when repeated.

        keep_log: leave Triton's log where `log_file` says.
        """
        run = self._run
        if run is None or run.owner != os.getpid():  # a forked child must not stop its parent's server
            return
        with contextlib.suppress(OSError):  # the supervisor may be gone
            os.write(run.lifeline, b"s")
        run.close_lifeline()
        try:
            run.supervisor.wait(self.stop_timeout_s + 10)
        except subprocess.TimeoutExpired:
            run.supervisor.kill()  # and the kernel kills Triton
            run.supervisor.wait()
        if run.status is None:
            run.read_news(0)
        run.close_news()
        supervisor.remove_left_overs(run.name, run.directory)
        if self._log_is_ours and not keep_log and self.log_file is not None:
            self.log_file.unlink(missing_ok=True)

    def _launch(self, triton: TritonBinary) -> _Run:
        temp_dir = _temp_dir()
        supervisor.sweep(temp_dir)
        name = supervisor.new_name()
        run_dir = temp_dir / name
        run_dir.mkdir(mode=0o700)
        try:
            if self.log_file is None:
                self.log_file = temp_dir / f"{name}.log"
            log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            try:
                command, environment = self._command(triton, name, run_dir)
                return _Run(
                    supervisor.Spec(
                        parent_pid=os.getpid(),
                        name=name,
                        command=command,
                        run_dir=str(run_dir),
                        log_file=str(self.log_file),
                        log_is_ours=self._log_is_ours,
                        stop_timeout_s=self.stop_timeout_s,
                    ),
                    environment,
                    log,
                )
            finally:
                os.close(log)
        except BaseException as exc:
            supervisor.remove_left_overs(name, run_dir)
            if isinstance(exc, OSError):
                raise LocalServerError(f"Triton cannot be started: {exc}") from exc
            raise

    def _command(self, triton: TritonBinary, name: str, run_dir: Path) -> tuple[list[str], dict[str, str]]:
        environment = triton.environment()
        repository = self.repository
        backends = None
        if triton.python_backend is not None:
            _check_names(self.repository)
            repository = run_dir / "repository"
            repository.symlink_to(self.repository, target_is_directory=True)
            backends, binaries = backend_directory.build(run_dir, triton.python_backend, site_directories())
            environment["PATH"] = os.pathsep.join([str(binaries), environment.get("PATH", os.defpath)])
        options = ServeOptions(
            repository=repository,
            host=self.host,
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            metrics_port=self.metrics_port,
            models=self.models,
            allow_client_shm=self.allow_client_shm,
            exit_timeout_s=self.stop_timeout_s,
        )
        command = command_line(triton, options, backend_directory=backends, shared_memory_prefix=name)
        return command, environment

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.startup_timeout_s
        while True:
            if self.poll() is not None:
                raise self._failure("Triton did not start")
            left = deadline - time.monotonic()
            if left <= 0:
                raise LocalServerError(
                    f"Triton was not ready within {self.startup_timeout_s:g} s of its start"
                    f" (its log: {self.log_file}): allow it more time, or serve fewer models"
                )
            if accepts_connections(self.host, self.grpc_port):
                state = server_state(self.address, timeout_s=min(left, 10.0))
                # Another program may have taken the port meanwhile; ours has ended then, or is about to.
                if state is not None and self.poll() is None:
                    self.version, self.models = state.version, state.models
                    return
            time.sleep(_POLL_S)

    def _failure(self, what: str) -> LocalServerError:
        run = self._started()
        assert self.log_file is not None
        log = self.log_file.read_text(errors="replace").replace(
            str(run.directory / "repository"), str(self.repository)
        )
        return LocalServerError(f"{what}: {why_it_ended(log, run.status)} (its log: {self.log_file})")

    def _started(self) -> _Run:
        if self._run is None:
            raise LocalServerError("this server was not started")
        return self._run


class _News(NamedTuple):
    word: str
    number: int


class _Run:
    """A started supervisor: a pipe that ends it, and a pipe on which it tells of Triton."""

    def __init__(self, spec: supervisor.Spec, environment: dict[str, str], log: int) -> None:
        self.owner = os.getpid()
        self.name = spec.name
        self.directory = Path(spec.run_dir)
        self.pid: int | None = None
        self.status: int | None = None
        self.supervisor = subprocess.Popen(
            # -I -S: nothing but the standard library, so it is there in milliseconds.
            [sys.executable, "-I", "-S", supervisor.__file__, spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        assert self.supervisor.stdin is not None
        assert self.supervisor.stdout is not None
        self.lifeline = self.supervisor.stdin.fileno()
        self._news = self.supervisor.stdout.fileno()
        self._unread = b""

    def read_news(self, timeout_s: float | None) -> None:
        """Wait up to `timeout_s` (None: for ever) for a line, and take in all that have come."""
        while self._news >= 0 and select.select([self._news], [], [], timeout_s)[0]:
            read = os.read(self._news, 512)
            if not read:
                return
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                word, number = line.decode().split()
                if word == "started":
                    self.pid = int(number)
                else:
                    self.status = int(number)
            timeout_s = 0

    def close_lifeline(self) -> None:
        assert self.supervisor.stdin is not None
        with contextlib.suppress(OSError):
            self.supervisor.stdin.close()

    def close_news(self) -> None:
        assert self.supervisor.stdout is not None
        self.supervisor.stdout.close()
        self._news = -1


def _check_repository(repository: Path, models: Sequence[str] | None) -> None:
    if not repository.is_dir():
        what = "is not a directory" if repository.exists() else "does not exist"
        raise LocalServerError(f"the model repository {repository} {what}")
    there = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not there:
        raise LocalServerError(
            f"the model repository {repository} holds no model: expected directories such as "
            "demo_image with a config.pbtxt in them"
        )
    for model in models or ():
        if model not in there:
            raise LocalServerError(
                f"the model repository {repository} holds no model {model!r}; it has {', '.join(there)}"
            )


def _check_names(repository: Path) -> None:
    """Refuse names that a shell would take apart: Triton puts them into a `bash -c` unquoted."""
    for path in repository.iterdir():
        if path.is_dir() and not _SHELL_SAFE.fullmatch(path.name):
            raise LocalServerError(
                f"Triton cannot serve a model named {path.name!r}: use letters, digits, dots, underscores, hyphens"
            )


def _temp_dir() -> Path:
    # The stub's own path goes through the same shell.
    directory = Path(tempfile.gettempdir())
    if _SHELL_SAFE.fullmatch(str(directory)):
        return directory
    return Path("/tmp")  # noqa: S108  # a directory of mode 0700 with a random name is made in it


def _free_port(what: str, host: str, port: int) -> int:
    """`port` if it is free, or a free one for 0."""
    if not 0 <= port <= 65535:
        raise LocalServerError(f"the {what} port is {port}; expected 1 to 65535, or 0 for any that is free")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as exc:
        if port == 0:
            raise LocalServerError(f"Triton cannot listen on {host}: {exc.strerror}") from exc
        raise LocalServerError(
            f"the {what} port {port} of {host} cannot be used ({exc.strerror}): "
            "choose another, or 0 for any that is free"
        ) from exc
