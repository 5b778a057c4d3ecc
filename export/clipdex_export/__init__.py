"""Export of CLIP checkpoints to Triton model directories. The only package that uses torch, transformers and onnx.

The stages, in order: source → families (an adapter each), or onnx_sources (a layout each, without torch) → towers,
specs, tokenizer → onnx_files → gate → assets_model, triton_config → install. `exporting.py` joins them.
"""

import os

from clipdex_export.exporting import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]

# onnxruntime sends telemetry over the network from its import on, unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
