"""Local Triton servers: finds, starts, awaits and stops a Triton on this machine.

with LocalTriton("model_repository") as server:
    print(server.address)
"""

from clipdex_server.local import LocalTriton
from clipdex_server.triton_binary import TritonBinary, find_triton

__all__ = ["LocalTriton", "TritonBinary", "find_triton"]
