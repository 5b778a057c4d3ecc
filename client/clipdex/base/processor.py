"""The processor's instructions that decide which runtime is fastest: those for matrix products in few bits."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Processor", "read_processor", "this_processor"]

# The kernel's name of each instruction set, and the one that people know it by; the strongest first.
_SETS = (
    (("amx_bf16", "amx_int8"), "AMX"),
    (("avx512_bf16",), "AVX512_BF16"),
    (("avx512_vnni", "avx_vnni"), "VNNI"),
    (("avx512f",), "AVX512"),
    (("avx2",), "AVX2"),
    (("i8mm",), "I8MM"),
    (("asimddp",), "DOTPROD"),
    (("asimd",), "NEON"),
)


@dataclass(frozen=True)
class Processor:
    """A processor. architecture: as `uname -m` says. flags, vendor: of /proc/cpuinfo; empty if there is none."""

    architecture: str
    flags: frozenset[str]
    vendor: str = ""

    @property
    def gains_by_bf16(self) -> bool:
        """Whether products are faster in bfloat16 than in float32: with AMX, or AMD's AVX512_BF16.

        Intel's AVX512_BF16 multiplies twice as many pairs in an instruction, on half as many units (docs/cpu.md).
        """
        return "amx_bf16" in self.flags or ("avx512_bf16" in self.flags and self.vendor == "AuthenticAMD")

    @property
    def gains_by_openvino_int8(self) -> bool:
        """Whether OpenVINO computes int8 models faster than onnxruntime: with AVX512_VNNI (docs/cpu.md)."""
        return "avx512_vnni" in self.flags

    @property
    def sets(self) -> tuple[str, ...]:
        """The instruction sets of interest that it has, the strongest first: ("AVX512", "AVX2")."""
        return tuple(name for flags, name in _SETS if not self.flags.isdisjoint(flags))

    def __str__(self) -> str:
        return f"{self.architecture} with {', '.join(self.sets)}" if self.sets else self.architecture


def read_processor(cpuinfo: Path, architecture: str) -> Processor:
    """Read the first processor of a file like /proc/cpuinfo; without flags if it cannot be read."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    flags = first.get("flags", first.get("Features", ""))  # x86, ARM
    return Processor(architecture, frozenset(flags.split()), first.get("vendor_id", ""))


@cache
def this_processor() -> Processor:
    """Return this machine's processor."""
    return read_processor(Path("/proc/cpuinfo"), platform.machine())
