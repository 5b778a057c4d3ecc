"""A connection to a Ray cluster, found by its address, or started on this machine for one run.

Nothing else imports ray. What goes wrong is one sentence, and comes before Ray's own patience of minutes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from clipdex.base.errors import EngineUnreachable, InvalidArgument
from clipdex.base.extras import needs

__all__ = ["import_ray", "ray_cluster"]

_LOG = logging.getLogger("clipdex.pipeline")

_CONNECT_TIMEOUT_S = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Jobs and reports are small. Ray would take a third of the memory; this is near the least that it accepts.
_OBJECT_STORE_BYTES = 128 << 20


def import_ray() -> Any:
    """Import ray. Raises MissingExtra, which names the extra, if it cannot be imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
    with needs("ray", "ray", "ray", "--engine ray"):
        import ray
    return ray


@contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Connect this process to a cluster for the block -> the module ray.

    Args:
        address: HOST:PORT of its head, or "auto": the one that RAY_ADDRESS names, or that was started on this
            machine. None: the one that RAY_ADDRESS names, or else one on this machine that lasts for the block.

    Raises:
        MissingExtra: ray is not installed.
        EngineUnreachable: there is no cluster at the address, or it is of another version of Ray or Python.
        InvalidArgument: the address is malformed, or Ray is in use in this process already.
    """
    ray = import_ray()
    if ray.is_initialized():
        raise InvalidArgument("this process is connected to Ray already; call ray.shutdown() first")
    place = _place(address)
    with _handler_kept():
        _silence(ray)
        try:
            _connect(ray, place)
        except EngineUnreachable:
            raise
        except Exception as exc:  # of many kinds: ConnectionError, RuntimeError, ValueError, ray's own
            where = "on this machine" if place is None else f"at {place}"
            what = "started" if place is None else "used"
            raise EngineUnreachable(f"Ray {where} cannot be {what}: {_first_line(exc)}") from exc
    try:
        yield ray
    finally:
        with _handler_kept():
            ray.shutdown()


def _place(address: str | None) -> str | None:
    """Return HOST:PORT of a cluster; None for one to be started."""
    found = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS")
    if found is None and address == "auto":
        found = _started_here()
        if found is None:
            raise EngineUnreachable(
                "no Ray cluster was started on this machine, and RAY_ADDRESS names none; start one with  ray "
                "start --head,  or give the address of its head as --ray-address HOST:PORT"
            )
    if found is None or found == "local":
        return None
    if found.startswith("ray://"):
        raise InvalidArgument(
            f"{found}: Ray Client is not supported; run the command on a node of the cluster, with --ray-address "
            "auto, or as a job (ray job submit)"
        )
    host, colon, port = found.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidArgument(f"the address of Ray is {found!r}; expected HOST:PORT of a cluster's head, or auto")
    return found


def _started_here() -> str | None:
    """Return the address that `ray start` has left on this machine, if any."""
    with suppress(Exception):  # a private function: without it, the address must be given
        from ray._private.utils import read_ray_address

        return read_ray_address() or None
    return None


def _listens(host: str, port: int) -> str | None:
    """Try to connect -> why nothing answers there, or None."""
    try:
        socket.create_connection((host.strip("[]"), port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def _connect(ray: Any, place: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if place is None:
        _stay_on_loopback()
        ray.init(address="local", dashboard_host="127.0.0.1", object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        return
    host, _, port = place.rpartition(":")
    if (why := _listens(host, int(port))) is not None:
        raise EngineUnreachable(
            f"no Ray cluster answers at {place} ({why}); give the address of its head, HOST:PORT, or leave out "
            "--ray-address to start Ray on this machine"
        )
    # Ray takes a loopback address for the machine's outward one, and would wait for it for many minutes.
    if host in _LOOPBACK and _listens(ray.util.get_node_ip_address(), int(port)) is not None:
        _stay_on_loopback()
    ray.init(address=place, **quiet)


def _stay_on_loopback() -> None:
    """Let Ray use 127.0.0.1 for this machine. It has no passwords, and listens on every interface otherwise."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def _silence(ray: Any) -> None:
    """Keep Ray from printing what happens to its nodes on standard output, which is the command's."""
    with suppress(AttributeError):
        ray._private.worker._worker_logs_enabled = False


@contextmanager
def _handler_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back after the block: Ray sets its own, which exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
