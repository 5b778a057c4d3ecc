"""Servers that are killed and networks that fail, under calls that must all come back, and in time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from fake_server import serving
from fault_proxy import FAULTS, FaultProxy
from proofs.calls import Tally, calling

import clipdex
from clipdex_server import LocalTriton

ROOT = Path(__file__).resolve().parent.parent.parent


def passing_faults(fault: str, seconds: float) -> Tally:
    """One fault after the other between a client and its only server, each gone within half a second."""
    rng = random.Random(fault)
    with serving() as server, FaultProxy(server.address) as proxy, calling(proxy.address, timeout_s=60) as tally:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.05, 0.5))
            proxy.fault = fault
            time.sleep(rng.uniform(0.05, 0.5))
            proxy.fault = None
    return tally


def staying_fault(fault: str, timeout_s: float, seconds: float) -> Tally:
    """A fault that stays: all calls end, with an error, by their deadline."""
    with (
        serving() as server,
        FaultProxy(server.address) as proxy,
        calling(proxy.address, timeout_s=timeout_s, threads=8) as tally,
    ):
        time.sleep(0.2)
        proxy.fault = fault
        time.sleep(seconds)
    return tally


def mixed_faults(seconds: float) -> Tally:
    """Two servers behind two proxies, each with any fault at any time, also both at once."""
    rng = random.Random(1)
    with ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(stack.enter_context(serving()).address)) for _ in range(2)]
        with calling([proxy.address for proxy in proxies], threads=8, timeout_s=60) as tally:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                rng.choice(proxies).fault = rng.choice([*FAULTS, None, None])
                time.sleep(rng.uniform(0.05, 0.6))
            for proxy in proxies:
                proxy.fault = None
    return tally


class FakeProcess:
    """`fake_server.py` as a process that can be killed and started again at the same port."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        command = [sys.executable, str(ROOT / "tests" / "fake_server.py"), port, "0.005"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def kill(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def killed_only_server(times: int) -> Tally:
    """The only server is killed and started again."""
    rng = random.Random(2)
    server = FakeProcess()
    try:
        with calling(server.address, attempt_timeout_s=None) as tally:
            for _ in range(times):
                time.sleep(rng.uniform(0.1, 0.8))
                server.kill()
                time.sleep(rng.uniform(0.0, 0.5))
                server.start()
            time.sleep(1)
    finally:
        server.kill()
    return tally


@contextmanager
def _triton(port: int = 0) -> Iterator[LocalTriton]:
    with LocalTriton(ROOT / "model_repository", grpc_port=port, stop_timeout_s=0) as server:
        yield server


def two_tritons(seconds: float) -> tuple[Tally, Tally, Tally]:
    """Two real Tritons share full batches; one is killed half-way; it comes back half-way -> the three phases."""
    with _triton() as stays, ExitStack() as stack:
        goes = stack.enter_context(_triton())
        addresses = [goes.address, stays.address]
        with clipdex.connect(stays.address) as client:
            size = client.card.image.size
            rows = client.max_batch_size
            batch = np.random.default_rng(3).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
            right = client.embed_pixels(batch)

        def load(seconds: float, act=lambda: None) -> Tally:
            with calling(addresses, threads=4, batch=(batch, right), attempt_timeout_s=None) as tally:
                time.sleep(seconds / 2)
                act()
                time.sleep(seconds / 2)
            return tally

        even = load(seconds)
        pid = goes.pid
        assert pid is not None
        halfway = load(seconds, lambda: os.kill(pid, signal.SIGKILL))
        goes.stop()
        port = int(goes.address.rpartition(":")[2])
        back = load(seconds, lambda: stack.enter_context(_triton(port)))
        return even, halfway, back
