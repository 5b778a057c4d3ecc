"""A local Triton server that runs for the length of a `with` block."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from clipdex.base.errors import LocalServerError
from clipdex.wire.local_key import new_key, write_key
from clipdex.wire.runtimes.choice import Choice
from clipdex_server import backend_directory, supervisor
from clipdex_server.checks import check_names, check_repository, free_port, temp_dir
from clipdex_server.command import ServeOptions, command_line
from clipdex_server.memory_pools import gpu_count, pinned_pool_bytes
from clipdex_server.process import SupervisedTriton
from clipdex_server.ready import accepts_connections, server_state
from clipdex_server.reason import why_it_ended
from clipdex_server.runtimes import choices, serves_tf32, write_repository
from clipdex_server.triton_binary import TritonBinary, find_triton, site_directories

__all__ = ["LocalTriton"]

_POLL_S = 0.02


class LocalTriton:
    """A local Triton that serves a model repository: ready when the `with` block begins, gone when it ends.

        with LocalTriton("model_repository") as server:
            clip = clipdex.connect(server.address, model="demo")

    However this process ends, the server and all its processes end with it.

    Args:
        repository: a Triton model repository: a directory of NAME/config.pbtxt, NAME/1/model.onnx.
        grpc_port, http_port, metrics_port: 0 chooses a free port; None disables that endpoint.
        host: the address that all endpoints listen on. Triton has no password: do not expose it to others.
        allow_client_shm: let clients of this user on this machine pass tensors in shared memory.
        models: the models to serve; None for all of the repository.
        pinned_pool_bytes: page-locked memory through which tensors pass to GPUs. None: on a machine with GPUs,
            enough for what clients keep in flight.
        log_file: path of Triton's log, which is kept. None for a temporary file, kept only after a failure.
        startup_timeout_s: seconds for all models together to load.
        stop_timeout_s: seconds for accepted requests to finish when the server stops. An orderly stop takes Triton
            a second or two; 0 kills it at once.
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
        pinned_pool_bytes: int | None = None,
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
        self.pinned_pool_bytes = pinned_pool_bytes
        self.log_file = None if log_file is None else Path(log_file).absolute()
        self.startup_timeout_s = startup_timeout_s
        self.stop_timeout_s = stop_timeout_s
        self.version = ""
        self.runtimes: dict[str, Choice] = {}
        self._key: str | None = new_key()
        self._key_file = ""
        self._delete_log = log_file is None
        self._run: SupervisedTriton | None = None

    def __enter__(self) -> LocalTriton:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Address of its gRPC endpoint for `clipdex.connect`: "127.0.0.1:PORT"."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104  # only compared
        return f"{host}:{self.grpc_port}"

    @property
    def pid(self) -> int | None:
        """Process id of `tritonserver`, or None if it was not started."""
        return None if self._run is None else self._run.pid

    def start(self) -> LocalTriton:
        """Start the server and return when all its models are ready.

        Raises:
            MissingExtra: nvidia-pytriton or onnxruntime is not installed.
            LocalServerError: the repository contains no model, a port is in use, a model does not load, or the
                server exits or is not ready in time. The message includes Triton's own reason.
        """
        if self._run is not None:
            raise LocalServerError("this server was already started")
        triton = find_triton()
        check_repository(self.repository, self.models)
        self.grpc_port = free_port("gRPC", self.host, self.grpc_port)
        if self.http_port is not None:
            self.http_port = free_port("HTTP", self.host, self.http_port)
        if self.metrics_port is not None:
            self.metrics_port = free_port("metrics", self.host, self.metrics_port)
        self._run = self._launch(triton)
        try:
            self._wait_until_ready()
            self._run.watch_stubs()
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise
        return self

    def poll(self) -> int | None:
        """Return None while the server runs, 0 after `stop`, else its exit status: negative for a signal."""
        return self._started().poll()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the server exits on its own, which only a failure makes it do, or the timeout has passed.

        Raises:
            LocalServerError: it exited; the message says why, and where its log is.
        """
        run = self._started()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.poll() is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            run.read_news(left)
        raise self._failure("Triton ended")

    def stop(self) -> None:
        """Let accepted requests finish, and end the server with all its processes. Safe to call twice."""
        run = self._run
        if run is None or run.stopped or run.owner != os.getpid():  # a forked child leaves its parent's server
            return
        run.stop(self.stop_timeout_s)
        supervisor.remove_left_overs(run.name, run.directory, self._key or "", self._key_file)
        self._remove_log()

    def _launch(self, triton: TritonBinary) -> SupervisedTriton:
        temporary = temp_dir()
        supervisor.sweep(temporary)
        name = supervisor.new_name()
        run_dir = temporary / name
        run_dir.mkdir(mode=0o700)
        try:
            if self.log_file is None:
                self.log_file = temporary / f"{name}.log"
            log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            try:
                command, environment = self._command(triton, name, run_dir)
                if self._key and self.allow_client_shm:  # otherwise no client should have the key
                    self._key_file = str(write_key(self.host, self.grpc_port, self._key) or "")
                return SupervisedTriton(
                    supervisor.Spec(
                        parent_pid=os.getpid(),
                        name=name,
                        command=command,
                        run_dir=str(run_dir),
                        log_file=str(self.log_file),
                        log_is_ours=self._delete_log,
                        stop_timeout_s=self.stop_timeout_s,
                        key=self._key or "",
                        key_file=self._key_file,
                    ),
                    environment,
                    log,
                )
            finally:
                os.close(log)
        except BaseException as exc:
            supervisor.remove_left_overs(name, run_dir, self._key or "", self._key_file)
            self._remove_log()
            if isinstance(exc, OSError):
                raise LocalServerError(f"Triton cannot be started: {exc}") from exc
            raise

    def _command(self, triton: TritonBinary, name: str, run_dir: Path) -> tuple[list[str], dict[str, str]]:
        environment = triton.environment(tf32=serves_tf32(self.repository, self.models))
        repository = self.repository
        backends = None
        if triton.python_backend is not None:
            check_names(self.repository)
            self.runtimes = choices(self.repository, self.models, gpu=gpu_count() > 0)
            repository = write_repository(run_dir / "repository", self.repository, self.runtimes)
            backends, binaries = backend_directory.build(run_dir, triton.python_backend, site_directories())
            environment["PATH"] = os.pathsep.join([str(binaries), environment.get("PATH", os.defpath)])
            # Since 1.29 onnxruntime sends telemetry unless told not to.
            environment.setdefault("ORT_DISABLE_TELEMETRY", "1")
        options = ServeOptions(
            repository=repository,
            host=self.host,
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            metrics_port=self.metrics_port,
            models=self.models,
            allow_client_shm=self.allow_client_shm,
            exit_timeout_s=self.stop_timeout_s,
            pinned_pool_bytes=self._pinned_pool_bytes(),
            key=self._key,
        )
        command = command_line(triton, options, backend_directory=backends, shared_memory_prefix=name)
        return command, environment

    def _pinned_pool_bytes(self) -> int | None:
        if self.pinned_pool_bytes is not None:
            return self.pinned_pool_bytes
        return pinned_pool_bytes(self.repository, self.models, gpu_count())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.startup_timeout_s
        # Triton starts its endpoints in this order, when the models have loaded.
        ports = [port for port in (self.grpc_port, self.http_port, self.metrics_port) if port is not None]
        while True:
            if self.poll() is not None:
                raise self._failure("Triton did not start")
            left = deadline - time.monotonic()
            if left <= 0:
                self._delete_log = False
                raise LocalServerError(
                    f"Triton was not ready within {self.startup_timeout_s:g} s of its start: give it more "
                    f"time, or serve fewer models (its log: {self.log_file})"
                )
            if all(accepts_connections(self.host, port) for port in ports):
                state = server_state(self.address, timeout_s=min(left, 2.0))
                # Another program may have taken the port meanwhile; then ours has exited, or is about to.
                if state is not None and self.poll() is None:
                    self.version, self.models = state.version, state.models
                    return
            time.sleep(_POLL_S)

    def _failure(self, what: str) -> LocalServerError:
        run = self._started()
        assert self.log_file is not None
        self._delete_log = False  # the message names it
        log = self.log_file.read_text(errors="replace").replace(
            str(run.directory / "repository"), str(self.repository)
        )
        return LocalServerError(f"{what}: {why_it_ended(log, run.status)} (its log: {self.log_file})")

    def _remove_log(self) -> None:
        if self._delete_log and self.log_file is not None:
            self.log_file.unlink(missing_ok=True)

    def _started(self) -> SupervisedTriton:
        if self._run is None:
            raise LocalServerError("this server was not started")
        return self._run
