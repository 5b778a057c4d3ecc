"""From a CLIP checkpoint to Triton model directories. The only place for torch, transformers and onnx."""
