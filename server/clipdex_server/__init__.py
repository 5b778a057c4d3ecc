"""Local Triton servers: finds, starts, awaits and stops a Triton on this machine.

with LocalTriton("model_repository") as server:
    print(server.address)
"""

from clipdex_server.find_triton import TritonBinary, find_triton
from clipdex_server.local import LocalTriton

__all__ = ["LocalTriton", "TritonBinary", "find_triton"]
