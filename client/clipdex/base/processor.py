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
_BF16 = {"amx_bf16", "avx512_bf16"}


@dataclass(frozen=True)
class Processor:
    """A processor. architecture: as `uname -m` says. flags: of /proc/cpuinfo; empty where there is none."""

    architecture: str
    flags: frozenset[str]

    @property
    def multiplies_bf16(self) -> bool:
        """Whether it has instructions that OpenVINO multiplies bfloat16 with: AMX, AVX512_BF16."""
        return not _BF16.isdisjoint(self.flags)

    @property
    def sets(self) -> tuple[str, ...]:
        """The instruction sets of interest that it has, the strongest first: ("AVX512", "AVX2")."""
        return tuple(name for flags, name in _SETS if not self.flags.isdisjoint(flags))

    def __str__(self) -> str:
        return f"{self.architecture} with {', '.join(self.sets)}" if self.sets else self.architecture


def read_processor(cpuinfo: Path, architecture: str) -> Processor:
    """Read the flags of the first processor in a file like /proc/cpuinfo; none if it cannot be read."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, ARM
            return Processor(architecture, frozenset(value.split()))
    return Processor(architecture, frozenset())


@cache
def this_processor() -> Processor:
    """Return this machine's processor."""
    return read_processor(Path("/proc/cpuinfo"), platform.machine())
