"""The targets that a model can be exported for. A target determines the graph's form and part of config.pbtxt.

auto        runs everywhere: on GPUs if there are any, else on the CPU
cpu         the CPU, even if there is a GPU
openvino    the CPU, by OpenVINO
cuda        GPUs, with ONNX Runtime's fused operators; no other runtime can read the file
tensorrt    GPUs, with TensorRT inside ONNX Runtime: an engine for the stated batch sizes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from clipdex.base.errors import InvalidArgument

__all__ = ["DEFAULT_ENGINE_CACHE", "TARGETS", "Serving", "Target", "find_target"]

# In the container, a volume is mounted here: docker/compose.tensorrt.yaml.
DEFAULT_ENGINE_CACHE = "/var/cache/clipdex"


@dataclass(frozen=True)
class Target:
    """A target for an export.

    kind: of Triton's instance groups. precision: the default for exports.
    fused: the graph is rewritten with ONNX Runtime's own operators (fusion.py).
    accelerator: name in Triton's gpu_execution_accelerator, or "".
    backend: name of Triton's backend for its towers.
    """

    name: str
    kind: str
    precision: str
    fused: bool = False
    accelerator: str = ""
    backend: str = "onnxruntime"

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains of the operators allowed in its ONNX files."""
        return ("ai.onnx", "com.microsoft") if self.fused else ("ai.onnx",)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("auto", "KIND_AUTO", "fp32"),
            Target("cpu", "KIND_CPU", "fp32"),
            Target("openvino", "KIND_CPU", "bf16", backend="openvino"),
            Target("cuda", "KIND_GPU", "fp16", fused=True, accelerator="cuda"),
            Target("tensorrt", "KIND_GPU", "fp16", accelerator="tensorrt"),
        )
    }
)


def find_target(name: str) -> Target:
    """Return the target of this name.

    Raises:
        InvalidArgument: the target does not exist.
    """
    if name not in TARGETS:
        raise InvalidArgument(f"target is {name!r}; expected {', '.join(TARGETS)}")
    return TARGETS[name]


@dataclass(frozen=True)
class Serving:
    """The settings with which a model's towers are served.

    instances: copies of each tower on each GPU, or on the CPU.
    engine_cache: the directory on the server for TensorRT's engines; for that target only.
    """

    target: Target = TARGETS["auto"]
    instances: int = 1
    engine_cache: str = DEFAULT_ENGINE_CACHE

    def __post_init__(self) -> None:
        if isinstance(self.instances, bool) or not isinstance(self.instances, int) or self.instances < 1:
            raise InvalidArgument(f"instances is {self.instances!r}; expected a whole number, at least 1")
        cache = self.engine_cache
        if not cache.startswith("/") or not cache.isprintable() or set(cache) & set('"\\'):
            raise InvalidArgument(
                f"engine_cache is {self.engine_cache!r}; expected the absolute path of a directory on the server"
            )
