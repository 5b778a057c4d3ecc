"""From a CLIP checkpoint to Triton model directories. The only place for torch, transformers and onnx.

The stages, in order: source → families (an adapter each) → towers, specs, tokenizer → onnx_files → parity →
assets_model, triton_config → install. `export.py` joins them.
"""

from clipdex_export.exporting import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]
