"""The shapes, their arithmetic, and their exports with random weights."""

from __future__ import annotations

from pathlib import Path

from clipdex_export.random_checkpoint import SHAPES, ClipShape, write_random_checkpoint

__all__ = ["checkpoint", "export", "image_flops", "shape_of"]

# For seeing that everything runs.
TINY = ClipShape(
    image_size=64,
    patch_size=32,
    vision_width=64,
    vision_layers=1,
    text_width=64,
    text_layers=1,
    projection=32,
    vocabulary=1200,
)


def shape_of(name: str) -> ClipShape:
    """The sizes of a shape."""
    return TINY if name == "tiny" else SHAPES[name]


def image_flops(shape: ClipShape) -> float:
    """Floating-point operations for one picture in the image tower: 2 for each multiply-add of its products."""
    patches = (shape.image_size // shape.patch_size) ** 2
    tokens, width = patches + 1, shape.vision_width
    # Query, key, value and output are 4 products of width × width, the MLP two of width × 4 width.
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width
    embedding = patches * 3 * shape.patch_size**2 * width
    return 2.0 * (shape.vision_layers * layer + embedding + width * shape.projection)


def checkpoint(name: str, directory: Path) -> Path:
    """A checkpoint without weights: the export, and PyTorch, make them up."""
    path = directory / "checkpoints" / name
    if not path.exists():
        write_random_checkpoint(path, shape_of(name), weights=False)
    return path


def export(name: str, target: str, directory: Path, *, batch: int, instances: int) -> Path:
    """The repository of its own into which it was exported, and which is found there the next time."""
    from clipdex_export import export_model

    repository = directory / f"{name}-{target}-{batch}-{instances}"
    if not (repository / f"{name}_assets").exists():
        engines = directory / "engines"
        engines.mkdir(parents=True, exist_ok=True)
        export_model(
            checkpoint(name, directory),
            name=name,
            repository=repository,
            allow_random=True,
            max_batch_size=batch,
            target=target,
            instances=instances,
            engine_cache=str(engines),
        )
    return repository
