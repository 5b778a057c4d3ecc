"""The image tower alone: pixels are on the device already, and vectors stay there.

A package that is missing is the error of the rows that need it, so none is imported before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from table import median_rate

from clipdex.wire.model_config import read_config

__all__ = ["onnxruntime_run", "peak_flops", "torch_run"]

# Triton's names for options of ONNX Runtime's TensorRT provider, where they differ.
_TENSORRT = {"max_workspace_size_bytes": "trt_max_workspace_size"}


def peak_flops(device: str, seconds: float) -> float:
    """The most that a large matrix product reaches, in any of the types a tower may be computed in."""
    import torch

    size, types = (8192, (torch.bfloat16, torch.float16)) if device == "cuda" else (512, (torch.float32,))
    best = 0.0
    for dtype in types:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)

        def products(a: Any = a, b: Any = b, out: Any = out) -> int:
            for _ in range(20):
                torch.matmul(a, b, out=out)
            _wait(device)
            return 20

        best = max(best, 2.0 * size**3 * median_rate(products, seconds=seconds / 2, repeats=3))
    return best


def onnxruntime_run(repository: Path, name: str, provider: str, device: str, batch: int) -> Callable[[], int]:
    """A full batch in ONNX Runtime with the settings of the model's config.pbtxt.

    Raises RuntimeError where the provider is not the one that runs it.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls") and device == "cuda":
        onnxruntime.preload_dlls()
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"this onnxruntime {onnxruntime.__version__} has no {provider}")
    directory = repository / f"{name}_image"
    config = read_config(directory / "config.pbtxt")
    options = {} if provider == "CPUExecutionProvider" else _options(config, provider)
    session = onnxruntime.InferenceSession(
        str(directory / "1" / "model.onnx"), providers=[(provider, options), *_behind(provider)]
    )
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start: {session.get_providers()[0]} took its place")
    side = config.input[0].dims[0]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    binding = session.io_binding()
    binding.bind_ortvalue_input("pixels", onnxruntime.OrtValue.ortvalue_from_numpy(pixels, device, 0))
    binding.bind_output("embedding", device, 0)

    def run() -> int:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return batch

    run()
    vectors = binding.get_outputs()[0].numpy()
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2):
        raise RuntimeError("its vectors are not of norm 1")
    return run


def torch_run(checkpoint: Path, device: str, batch: int, *, compiled: bool) -> Callable[[], int]:
    """A full batch in PyTorch: half precision and its fused attention on a GPU, from normalised pixels."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    dtype = torch.float16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    config = CLIPConfig.from_pretrained(checkpoint, attn_implementation="sdpa")
    model = CLIPModel(config).eval().to(device, dtype)
    side = config.vision_config.image_size
    pixels = torch.randn(batch, 3, side, side, device=device, dtype=dtype)

    def tower(pixels: Any) -> Any:
        pooled = model.vision_model(pixel_values=pixels).pooler_output
        return torch.nn.functional.normalize(model.visual_projection(pooled).float(), dim=-1)

    # Without a GPU only the path is tried, and no C++ compiler is asked for.
    compute = torch.compile(tower, backend="inductor" if device == "cuda" else "eager") if compiled else tower

    def run() -> int:
        with torch.inference_mode():
            compute(pixels)
        _wait(device)
        return batch

    run()
    return run


def _options(config: Any, provider: str) -> dict[str, str]:
    """What config.pbtxt says to the provider, under the provider's own names."""
    options: dict[str, str] = {"device_id": "0"}
    if provider == "CUDAExecutionProvider":
        options["cudnn_conv_algo_search"] = "HEURISTIC"
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        if accelerator.name == ("cuda" if provider == "CUDAExecutionProvider" else "tensorrt"):
            for key, value in accelerator.parameters.items():
                if key == "precision_mode":
                    options["trt_fp16_enable"] = str(int(value == "FP16"))
                else:
                    options[_TENSORRT.get(key, key)] = value
    return options


def _behind(provider: str) -> list[str]:
    """Who takes what the provider does not."""
    order = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    return order[order.index(provider) + 1 :]


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
