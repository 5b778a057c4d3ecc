"""The ONNX towers give PyTorch's vectors: cosine ≥ 0.99999, in the shapes of the real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime")

from tiny_clip import TINY, edit_json, write_tiny  # noqa: E402

from clipdex_export.families import load_checkpoint  # noqa: E402
from clipdex_export.onnx_files import write_tower  # noqa: E402
from clipdex_export.random_checkpoint import SHAPES  # noqa: E402

FLOOR = 0.99999


@dataclass
class Exported:
    """A checkpoint's PyTorch model beside its two ONNX sessions."""

    model: Any
    image: Any
    text: Any
    size: int
    length: int
    end_id: int


def as_module(tower: object) -> Any:
    """A tower of a checkpoint, which is PyTorch's; those of ready-made ONNX are files."""
    assert isinstance(tower, torch.nn.Module)
    return tower


def export(checkpoint_dir: Path, out: Path) -> Exported:
    checkpoint = load_checkpoint(str(checkpoint_dir))
    size, text = checkpoint.image.spec.size, checkpoint.text.spec
    write_tower(
        as_module(checkpoint.image.take_tower()),
        torch.zeros(2, size, size, 3, dtype=torch.uint8),
        out / "image.onnx",
        input_name="pixels",
        output_name="embedding",
    )
    write_tower(
        as_module(checkpoint.text.take_tower()),
        torch.full((2, text.context_length), text.end_id, dtype=torch.int32),
        out / "text.onnx",
        input_name="token_ids",
        output_name="embedding",
    )
    sessions = [
        onnxruntime.InferenceSession(out / f"{tower}.onnx", providers=["CPUExecutionProvider"])
        for tower in ("image", "text")
    ]
    model = checkpoint.image.reference.model  # type: ignore[union-attr]
    return Exported(model, sessions[0], sessions[1], size, text.context_length, text.end_id)


@pytest.fixture(scope="module", params=["vit_b_32", "vit_l_14"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Two layers of the true width, patch and resolution. B/16 is B/32 with more patches."""
    directory = tmp_path_factory.mktemp(request.param)
    shape = replace(SHAPES[request.param].cut_to(2), vocabulary=1000)
    write_tiny(directory / "checkpoint", shape=shape, seed=1)
    yield export(directory / "checkpoint", directory)


def image_vectors(model: Any, pixels: np.ndarray) -> np.ndarray:
    """As transformers alone would have it, from uint8 (B, S, S, 3)."""
    from transformers import CLIPImageProcessorPil

    normalize = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    with torch.inference_mode():
        return model.get_image_features(**normalize(list(pixels), return_tensors="pt")).pooler_output.numpy()


def text_vectors(model: Any, token_ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.get_text_features(torch.from_numpy(token_ids).long()).pooler_output.numpy()


def random_pixels(size: int, count: int) -> np.ndarray:
    """Noise, flat colours and gradients: the extremes of what the tower can be given."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count - 3, size, size, 3), dtype=np.uint8)
    gradient = np.broadcast_to(np.linspace(0, 255, size).astype(np.uint8)[:, None, None], (size, size, 3))
    return np.stack([*noise, np.zeros_like(gradient), np.full_like(gradient, 255), gradient])


def random_ids(length: int, end_id: int, count: int, pad_id: int) -> np.ndarray:
    """int32 (count, length): texts of 0 to length - 2 tokens between start and end."""
    rng = np.random.default_rng(0)
    ids = np.full((count, length), pad_id, dtype=np.int32)
    for row, words in enumerate(np.linspace(0, length - 2, count).astype(int)):
        ids[row, : words + 2] = [end_id - 1, *rng.integers(0, 400, words), end_id]
    return ids


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_image_tower(exported: Exported) -> None:
    pixels = random_pixels(exported.size, 5)
    (vectors,) = exported.image.run(["embedding"], {"pixels": pixels})
    assert cosines(vectors, image_vectors(exported.model, pixels)).min() >= FLOOR
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_text_tower(exported: Exported) -> None:
    ids = random_ids(exported.length, exported.end_id, 9, pad_id=exported.end_id)
    (vectors,) = exported.text.run(["embedding"], {"token_ids": ids})
    assert cosines(vectors, text_vectors(exported.model, ids)).min() >= FLOOR
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_only_the_batch_is_dynamic(exported: Exported) -> None:
    for session, shape, kind in (
        (exported.image, ["batch", exported.size, exported.size, 3], "tensor(uint8)"),
        (exported.text, ["batch", exported.length], "tensor(int32)"),
    ):
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        assert (given.shape, given.type) == (shape, kind)
        assert (result.name, result.type) == ("embedding", "tensor(float)")
        assert result.shape == ["batch", exported.model.config.projection_dim]


def test_a_row_does_not_depend_on_its_batch(exported: Exported) -> None:
    pixels = random_pixels(exported.size, 5)
    (together,) = exported.image.run(None, {"pixels": pixels})
    alone = np.concatenate([exported.image.run(None, {"pixels": row[None]})[0] for row in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("pad", ["end", "zero"])
@pytest.mark.parametrize("legacy", [False, True], ids=["pooled at the end token", "pooled at the largest id"])
def test_poolings(tmp_path: Path, legacy: bool, pad: str) -> None:
    """Old configs say eos_token_id 2 and mean the largest id; OpenAI's own are among them."""
    checkpoint = write_tiny(tmp_path / "checkpoint")
    if legacy:
        config = checkpoint / "config.json"
        import json

        edit_json(config, text_config=json.loads(config.read_text())["text_config"] | {"eos_token_id": 2})
    exported = export(checkpoint, tmp_path)
    assert exported.model.config.text_config.eos_token_id == (2 if legacy else exported.end_id)
    ids = random_ids(exported.length, exported.end_id, 12, pad_id=exported.end_id if pad == "end" else 0)
    (vectors,) = exported.text.run(None, {"token_ids": ids})
    assert cosines(vectors, text_vectors(exported.model, ids)).min() >= FLOOR


def test_what_follows_the_end_token_is_never_read(tmp_path: Path) -> None:
    exported = export(write_tiny(tmp_path / "checkpoint"), tmp_path)
    ids = random_ids(exported.length, exported.end_id, 4, pad_id=exported.end_id)[:3]
    other = ids.copy()
    for row in other:
        row[row.tolist().index(exported.end_id) + 1 :] = 7
    first, second = (exported.text.run(None, {"token_ids": x})[0] for x in (ids, other))
    np.testing.assert_array_equal(first, second)


def test_a_vector_of_zeros_is_no_nan(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_tiny(tmp_path / "checkpoint")))
    torch.nn.init.zeros_(present(checkpoint.image.reference).model.visual_projection.weight)  # type: ignore[attr-defined]
    pixels = torch.zeros(2, TINY.image_size, TINY.image_size, 3, dtype=torch.uint8)
    write_tower(
        as_module(checkpoint.image.take_tower()),
        pixels,
        tmp_path / "image.onnx",
        input_name="pixels",
        output_name="embedding",
    )
    session = onnxruntime.InferenceSession(tmp_path / "image.onnx", providers=["CPUExecutionProvider"])
    assert (session.run(None, {"pixels": pixels.numpy()})[0] == 0).all()
