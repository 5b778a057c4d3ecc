"""A real Milvus server, of the wheel `milvus`: started once in a process of tests, and stopped when that ends.

It listens on all interfaces, whatever its configuration says: run it where nobody else can reach it.
"""

from __future__ import annotations

import atexit
import gc
import shutil
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

__all__ = ["milvus_port"]

_ROLES = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
_WAIT_S = 180


@cache
def milvus_port() -> int:
    """Start the server, and wait until it creates collections: its port answers long before."""
    import milvus
    from pymilvus import MilvusClient

    place = Path(tempfile.mkdtemp(prefix="milvus"))
    config = milvus.MilvusServerConfig(data_dir=str(place))
    for role in _ROLES:
        config.set(f"{role}.ip", "127.0.0.1")  # what its parts call each other by
    server = milvus.MilvusServer(config, wait_for_started=False)

    def end() -> None:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)

    atexit.register(end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the ports that it tries
        server.start()
        gc.collect()
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            client = MilvusClient(uri=f"http://127.0.0.1:{server.listen_port}", timeout=10)
            client.create_collection("awake", dimension=2)
            client.drop_collection("awake")
            client.close()
            return server.listen_port
        except Exception:
            if time.monotonic() > until or server.server_proc.poll() is not None:
                raise
            time.sleep(1)
