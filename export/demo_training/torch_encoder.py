"""The demo checkpoint run by PyTorch, with its own image processor and tokenizer: the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from clipdex.base.errors import CheckpointError
from clipdex_export.quiet import quiet

_BATCH = 64


class TorchEncoder:
    """A Hugging Face CLIP checkpoint on disk, as an `evaluate.Encoder`.

    Raises CheckpointError if the directory contains none.
    """

    def __init__(self, directory: Path) -> None:
        if not (directory / "model.safetensors").is_file():
            raise CheckpointError(
                f"{directory}: contains no model.safetensors; expected a Hugging Face checkpoint, as written by "
                f"python -m demo_training.train --out {directory}"
            )
        with quiet():
            self._model = CLIPModel.from_pretrained(str(directory)).eval()
            self._processor = CLIPImageProcessorPil.from_pretrained(str(directory))
            self._tokenizer = CLIPTokenizer.from_pretrained(str(directory))

    def embed_images(self, images: Sequence[Path], /) -> NDArray[np.float32]:
        """Embed picture files -> float32 (N, D) of norm 1."""
        rows = []
        for start in range(0, len(images), _BATCH):
            pictures = []
            for path in images[start : start + _BATCH]:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
            with torch.no_grad():
                inputs = self._processor(pictures, return_tensors="pt")
                rows.append(_unit(self._model.get_image_features(**inputs).pooler_output))
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Embed texts -> float32 (N, D) of norm 1."""
        inputs = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return _unit(self._model.get_text_features(**inputs).pooler_output)


def _unit(vectors: Tensor) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=1).numpy()
    return unit
