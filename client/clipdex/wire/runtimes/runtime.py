"""What a runtime is for `InprocTransport`: it opens an ONNX file, and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipdex.base.arrays import Array

__all__ = ["Opening", "Runtime", "Session", "reason_of"]


@dataclass(frozen=True)
class Opening:
    """How to open a file.

    threads: 0 for the runtime's own choice. bf16: multiply in bfloat16 where the processor does so natively.
    tf32: multiply in TensorFloat-32 on a GPU that does.
    """

    threads: int = 0
    bf16: bool = False
    tf32: bool = False


class Session(Protocol):
    """An opened model. Used by one thread at a time."""

    def run(self, inputs: Mapping[str, Array], output: str) -> Any:
        """Compute one output from all inputs.

        Raises:
            RequestRefused: names, dtypes or shapes are wrong.
            ServerFault: the runtime failed.
        """
        ...


class Runtime(Protocol):
    """A library that runs ONNX files in this process."""

    name: str
    version: str

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        ...

    def open(self, model: str, file: Path, opening: Opening) -> Session:
        """Open a file. model: its name in errors. Raises CardError if the runtime cannot load it."""
        ...


def reason_of(error: Exception) -> str:
    """Return what a runtime says, in one line."""
    return " ".join(str(error).split())
