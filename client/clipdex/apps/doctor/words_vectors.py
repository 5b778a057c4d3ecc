"""The words for what `check_vectors` finds."""

from __future__ import annotations

from clipdex.apps.doctor.finding import Severity, Words

__all__ = ["WORDINGS"]

WRONG, NOTE = Severity.WRONG, Severity.NOTE

WORDINGS = {
    "tensorrt_engines_unnamed": Words(
        WRONG,
        "its TensorRT engines are kept under a name that is the same for every export (prefix: {prefix})",
        "After an export of other weights under this name the old engine answers: old vectors, new fingerprint.",
        "Export it again with  clipdex export --overwrite --target tensorrt : the name then holds a hash of the "
        "file, and the old engines can be deleted.",
    ),
    "tensorrt_one_gpu": Words(
        WRONG,
        "it has instances on GPU {gpus}, and Triton {version} runs every TensorRT engine on GPU 0",
        "Triton before 2.57 (25.04) does not tell TensorRT which GPU an instance is on.",
        "Take Triton 25.04 or later, give the server one GPU, or export with  --target cuda.",
    ),
    "tf32": Words(
        NOTE,
        "its card says fp32, and its configuration does not switch TensorFloat-32 off",
        "NVIDIA's container then rounds float32 products to 10 bits on a GPU (`clipdex serve` does not).",
        "Export it again with  clipdex export --overwrite ; see docs/gpu.md.",
    ),
    "int8_versions": Words(
        NOTE,
        "its int8 was exported with onnxruntime {onnxruntime}, and {server} serves it",
        "What int8 products give depends on the version of onnxruntime, in the third decimal (docs/export.md).",
        "Where that matters, index and search with one server release.",
    ),
}
