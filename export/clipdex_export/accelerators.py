"""The part of config.pbtxt that is for GPUs: accelerators and warm-up.

The names are those of Triton's onnxruntime backend: it passes top-level `parameters` and those of the accelerator
`cuda` to the CUDA provider, and rejects unknown keys of `tensorrt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdex_export.precisions import find_precision
from clipdex_export.targets import Serving

__all__ = ["TowerInput", "accelerator", "gpu_parameters", "leading_tensors", "warm_up"]


@dataclass(frozen=True)
class TowerInput:
    """The input of a tower.

    data_type: as in config.pbtxt. dims: without the batch. data: the data for the warm-up.
    leading: (name, dims) of the tensors after it at which TensorRT may start, since it does not support uint8.
    file_sha256: of the tower's ONNX file and its external weights, in hexadecimal; part of the name of TensorRT's
        engines.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    data: str
    leading: Sequence[tuple[str, tuple[int, ...]]] = ()
    file_sha256: str = ""


_ARENA = """\
# 1: the arena takes from the GPU what it needs, and not the next power of two.
parameters { key: "arena_extend_strategy", value: { string_value: "1" } }
"""

# A CPU-only build of the backend ignores it, and so does any build for an instance on the CPU.
_ON_A_GPU = """
optimization { execution_accelerators {
  gpu_execution_accelerator [ {
    name: "cuda"
    # On a GPU, ONNX Runtime would round float32 products to TensorFloat-32, 10 bits: the card promises more.
    parameters { key: "use_tf32" value: "0" }
  } ]
} }
"""

_CUDA = """
optimization {{ execution_accelerators {{
  gpu_execution_accelerator [ {{
    name: "cuda"
    # {tf32_why}
    parameters {{ key: "use_tf32" value: "{tf32}" }}
    # Convolutions (the patches) may take what memory the fastest algorithm wants.
    parameters {{ key: "cudnn_conv_use_max_workspace" value: "1" }}
  }} ]
}} }}
"""
_NO_TF32 = "TensorFloat-32 would round float32 products to 10 bits: the card promises more."
_TF32 = "What the card says: factors of float32 products are rounded to 10 bits (TensorFloat-32)."

_TENSORRT = """
optimization {{ execution_accelerators {{
  gpu_execution_accelerator [ {{
    name: "tensorrt"
    # {mode_why}
    parameters {{ key: "precision_mode" value: "{mode}" }}
    # Sums of squares over a row can leave float16's range. The file has them in float32 already, which binds
    # TensorRT from 11 on; before, it may choose types against the file, and this keeps it from that.
    parameters {{ key: "trt_layer_norm_fp32_fallback" value: "1" }}
    # For trying kernels while an engine is built. Not kept.
    parameters {{ key: "max_workspace_size_bytes" value: "4294967296" }}
    # Building an engine takes minutes: it is kept here, and built anew for another GPU, driver or TensorRT.
    parameters {{ key: "trt_engine_cache_enable" value: "1" }}
    parameters {{ key: "trt_engine_cache_path" value: "{cache}" }}
    # An engine holds the weights and is found by its name: this one is of {model}/1/model.onnx, by its sha256.
    # Do not shorten it: the engine of another export would answer.
    parameters {{ key: "trt_engine_cache_prefix" value: "{prefix}" }}
    # How long each kernel took, so that the next build measures only what is new. It holds no weights.
    parameters {{ key: "trt_timing_cache_enable" value: "1" }}
    parameters {{ key: "trt_timing_cache_path" value: "{cache}" }}
    # One engine for every batch size from 1 to max_batch_size, fastest at a full batch. Without these, there would
    # be a new one for each new size, at its first request.{why_several}
    parameters {{ key: "trt_profile_min_shapes" value: "{least}" }}
    parameters {{ key: "trt_profile_opt_shapes" value: "{best}" }}
    parameters {{ key: "trt_profile_max_shapes" value: "{most}" }}
  }}, {{
    # What TensorRT leaves to CUDA.
    name: "cuda"
    parameters {{ key: "use_tf32" value: "0" }}
  }} ]
}} }}
"""

_WHY_SEVERAL = "\n    # TensorRT may begin behind the first steps: there are shapes for the tensors there, too."

_WARM_UP = """
# Computed before the model is called ready: the first request does not pay for {pays}.
model_warmup [
  {{
    name: "full batch" batch_size: {full}
    inputs {{ key: "{input}" value: {{ data_type: {data_type} dims: [ {dims} ] {data}: true }} }}
  }},
  {{
    name: "one row" batch_size: 1
    inputs {{ key: "{input}" value: {{ data_type: {data_type} dims: [ {dims} ] {data}: true }} }}
  }}
]
"""

# The card's precision -> TensorRT's, and why. int8 is for CPUs (precisions.py).
_MODES = {
    "fp16": ("FP16", "What the card says: TensorRT may choose half-precision kernels."),
    "fp32": (
        "FP32",
        "What the card says: no half precision. TensorFloat-32 has no option here: NVIDIA_TF32_OVERRIDE=0 in the\n"
        "    # server's environment keeps TensorRT from it, as the image and `clipdex serve` set it.",
    ),
}

_PREFIX_DIGITS = 16


def gpu_parameters(serving: Serving) -> str:
    """Return the top-level parameters for GPUs, in addition to those of every tower."""
    return _ARENA if serving.target.accelerator else ""


def accelerator(serving: Serving, model: str, given: TowerInput, precision: str, max_batch_size: int) -> str:
    """Return the block `optimization` of a tower; empty if no GPU may run it."""
    if serving.target.accelerator == "cuda":
        tf32 = find_precision(precision, serving.target.name).tf32
        return _CUDA.format(tf32=int(tf32), tf32_why=_TF32 if tf32 else _NO_TF32)
    if serving.target.accelerator != "tensorrt":
        return "" if serving.target.kind == "KIND_CPU" else _ON_A_GPU
    assert given.file_sha256, "an engine named without its weights would answer for those of the next export"
    tensors = [(given.name, given.dims), *given.leading]

    def shapes(rows: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, (rows, *dims)))}" for name, dims in tensors)

    mode, mode_why = _MODES[precision]
    return _TENSORRT.format(
        mode=mode,
        mode_why=mode_why,
        model=model,
        cache=serving.engine_cache,
        prefix=f"{model}_{given.file_sha256[:_PREFIX_DIGITS]}",
        why_several=_WHY_SEVERAL if given.leading else "",
        least=shapes(1),
        best=shapes(max_batch_size),
        most=shapes(max_batch_size),
    )


def warm_up(serving: Serving, given: TowerInput, max_batch_size: int) -> str:
    """Return the block `model_warmup` of a tower, or nothing."""
    if not serving.target.accelerator:
        return ""
    return _WARM_UP.format(
        pays="building TensorRT's engine"
        if serving.target.accelerator == "tensorrt"
        else "loading kernels and growing GPU memory",
        full=max_batch_size,
        input=given.name,
        data_type=given.data_type,
        dims=", ".join(map(str, given.dims)),
        data=given.data,
    )


def leading_tensors(path: Path, input_name: str, dims: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """List (name, dims without the batch) of the tensors after the input, up to the first that is computed."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    found: list[tuple[str, tuple[int, ...]]] = []
    name = input_name
    while True:
        users = [node for node in graph.node if name in node.input]
        if len(users) != 1 or users[0].op_type not in ("Transpose", "Cast"):
            return tuple(found)
        if users[0].op_type == "Transpose":
            order = next(attribute.ints for attribute in users[0].attribute if attribute.name == "perm")
            dims = tuple(dims[axis - 1] for axis in order[1:])  # the batch, axis 0, stays first
        name = users[0].output[0]
        found.append((name, dims))
