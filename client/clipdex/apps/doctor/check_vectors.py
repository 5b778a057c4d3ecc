"""Checks for silently different vectors, caused by what runs the model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Model, Snapshot, release_of
from clipdex.wire.inspect.findings import InspectedModel
from clipdex.wire.runtimes.choice import OPENVINO, asks_for_bf16

__all__ = ["CHECKS", "WORDINGS"]

WRONG, NOTE = Severity.WRONG, Severity.NOTE

WORDINGS = {
    "tensorrt_engines_unnamed": Words(
        WRONG,
        "its TensorRT engines are cached under a name that is the same for every export (prefix: {prefix})",
        "If other weights are exported under this name, the old engine answers: old vectors, new fingerprint.",
        "Export it again with  clipdex export --overwrite --target tensorrt : the name then contains a hash of "
        "the file, and the old engines can be deleted.",
    ),
    "tensorrt_one_gpu": Words(
        WRONG,
        "it has instances on GPU {gpus}, and Triton {version} runs every TensorRT engine on GPU 0",
        "Triton before 2.57 (25.04) does not tell TensorRT which GPU an instance is on.",
        "Use Triton 25.04 or later, give the server one GPU, or export with  --target cuda.",
    ),
    "tf32": Words(
        NOTE,
        "its card says fp32, but its configuration does not turn off TensorFloat-32",
        "NVIDIA's container then rounds float32 products to 10 bits on a GPU (`clipdex serve` does not).",
        "Export it again with  clipdex export --overwrite ; see docs/gpu.md.",
    ),
    "openvino": Words(
        NOTE,
        "OpenVINO computes it, {how}",
        "Its vectors differ from onnxruntime's by rounding; both may be in one index (docs/cpu.md).",
        "",
    ),
    "bf16_unused": Words(
        NOTE,
        "its card allows bf16, and onnxruntime computes it in float32",
        "OpenVINO in bf16 is faster on processors with AMX, and AMD's with AVX512_BF16{here}.",
        "If the server's processor is one of them, install the extra `openvino` for  clipdex serve .",
    ),
    "int8_versions": Words(
        NOTE,
        "it was exported in int8 with onnxruntime {onnxruntime}, and {server} serves it",
        "Results in int8 depend on the runtime and its version, in the third decimal (docs/export.md).",
        "If that matters, index and search with the same server release.",
    ),
}


# 25.04: the first whose backend tells TensorRT which GPU an instance is on.
_TELLS_TENSORRT_THE_GPU = (2, 57)
# An export ends the name of its engines with the hash of its file.
_OF_A_FILE = re.compile(r"_[0-9a-f]{16}$")


def engines(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that cached TensorRT engines are named by their weights."""
    for tower in _towers(snapshot):
        options = tower.accelerators.get("tensorrt", {})
        prefix = options.get("trt_engine_cache_prefix", "")
        kept = options.get("trt_engine_cache_enable", "0") in ("1", "true")
        if kept and not _OF_A_FILE.search(prefix):
            yield Finding("tensorrt_engines_unnamed", tower.name, {"prefix": prefix or "none"})


def gpus(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that TensorRT knows which of several GPUs an instance is on."""
    release = release_of(snapshot.server)
    if release is None or release >= _TELLS_TENSORRT_THE_GPU:
        return
    for tower in _towers(snapshot):
        others = _gpus_but_the_first(snapshot, tower)
        if "tensorrt" in tower.accelerators and others:
            facts = {"gpus": ", ".join(map(str, others)), "version": snapshot.server.version}
            yield Finding("tensorrt_one_gpu", tower.name, facts)


def tensor_float(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that float32 on a GPU is not rounded to TensorFloat-32."""
    for model in snapshot.models:
        if model.card is None or model.card.precision != "fp32":
            continue
        for tower in model.towers.values():
            if tower.on_gpu and tower.accelerators.get("cuda", {}).get("use_tf32") != "0":
                yield Finding("tf32", tower.name)


def quantized(snapshot: Snapshot) -> Iterator[Finding]:
    """Note the onnxruntime versions that int8 vectors depend on."""
    for model in snapshot.models:
        if model.card is not None and model.card.precision == "int8":
            versions = model.card.parity.get("versions")
            made = versions.get("onnxruntime") if isinstance(versions, dict) else None
            facts = {
                "onnxruntime": made or "of no stated version",
                "server": f"{snapshot.server.name} {snapshot.server.version}",
            }
            yield Finding("int8_versions", model.name, facts)


def runtimes(snapshot: Snapshot) -> Iterator[Finding]:
    """Note towers that OpenVINO computes, and those that it could compute faster."""
    here = snapshot.processor
    lacking = here is not None and not here.gains_by_bf16
    for model in snapshot.models:
        for part, tower in model.towers.items():
            asks = asks_for_bf16(tower.parameters)
            if tower.backend == OPENVINO:
                how = "in bf16 where its processor gains by it" if asks else "in float32"
                if asks and here is not None:
                    how = f"in float32, since {here} gains nothing by bf16" if lacking else f"in bf16, on {here}"
                if _precision(model, part) == "int8":
                    how = f"in int8, and the rest {how}"
                yield Finding("openvino", tower.name, {"how": how})
            elif asks and not tower.on_gpu:
                facts = {"here": "; this one gains nothing by it" if lacking else ""}
                yield Finding("bf16_unused", tower.name, facts)


def _precision(model: Model, part: str) -> str | None:
    if model.card is None:
        return None
    return model.card.text_precision if part == "text" else model.card.precision


def _towers(snapshot: Snapshot) -> Iterator[InspectedModel]:
    for model in snapshot.models:
        yield from model.towers.values()


def _gpus_but_the_first(snapshot: Snapshot, tower: InspectedModel) -> list[int]:
    """Return the numbers, other than 0, of the GPUs with instances; all GPUs if the configuration names none."""
    groups = [group for group in tower.groups if group.kind == "KIND_GPU"]
    named = {gpu for group in groups for gpu in group.gpus}
    if not groups:
        return []
    return sorted(named - {0}) if named else list(range(1, len(snapshot.metrics.gpus)))


CHECKS = (engines, gpus, tensor_float, runtimes, quantized)
