"""What OpenCLIP and timm import of torchvision, for machines that it has no build for.

No build of torchvision without CUDA is in reach of the machines that test this. Real use installs it whole, as
OpenCLIP asks. Here are its transforms for Pillow images, its arithmetic written out; the rest are names that are
imported and not called. Where torchvision is installed, it is used, and nothing of this file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps


class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_PILLOW = {mode: Image.Resampling[mode.name] for mode in InterpolationMode if mode.name != "NEAREST_EXACT"}


def resize(
    image: Image.Image, size: Any, interpolation: InterpolationMode = InterpolationMode.BILINEAR
) -> Image.Image:
    """torchvision.transforms.functional.resize: a number is for the shorter side, a pair is (height, width)."""
    sizes = [size] if isinstance(size, int) else list(size)
    if len(sizes) == 1:
        width, height = image.size
        short, long = (width, height) if width <= height else (height, width)
        new_short, new_long = sizes[0], int(sizes[0] * long / short)
        sizes = [new_long, new_short] if width <= height else [new_short, new_long]
    if tuple(sizes[::-1]) == image.size:
        return image
    return image.resize((int(sizes[1]), int(sizes[0])), _PILLOW[interpolation])


def get_dimensions(image: Image.Image) -> list[int]:
    return [len(image.getbands()), image.height, image.width]


def pad(image: Image.Image, padding: Sequence[int], fill: int = 0) -> Image.Image:
    return ImageOps.expand(image, border=tuple(padding), fill=(fill,) * len(image.getbands()))


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))


def center_crop(image: Image.Image, output_size: Sequence[int]) -> Image.Image:
    height, width = output_size
    if width > image.width or height > image.height:
        sides = (max(width - image.width, 0), max(height - image.height, 0))
        image = pad(image, [sides[0] // 2, sides[1] // 2, (sides[0] + 1) // 2, (sides[1] + 1) // 2])
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return crop(image, int(top), int(left), height, width)


def to_tensor(image: Image.Image) -> torch.Tensor:
    values = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
    return values.to(torch.get_default_dtype()).div(255)


class Resize(torch.nn.Module):
    def __init__(self, size: Any, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        super().__init__()
        self.size, self.interpolation = size, interpolation

    def forward(self, image: Image.Image) -> Image.Image:
        return resize(image, self.size, self.interpolation)


class CenterCrop(torch.nn.Module):
    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, image: Image.Image) -> Image.Image:
        return center_crop(image, self.size)


class ToTensor:
    def __call__(self, image: Image.Image) -> torch.Tensor:
        return to_tensor(image)


class Normalize(torch.nn.Module):
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        mean, std = (
            torch.as_tensor(values, dtype=tensor.dtype).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (tensor - mean) / std


class Compose:
    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class _Named(ModuleType):
    """A module in which every other name is a class that nobody calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


def _modules() -> dict[str, ModuleType]:
    functional, transforms = _Named("torchvision.transforms.functional"), _Named("torchvision.transforms")
    for function in (resize, get_dimensions, pad, crop, center_crop, to_tensor):
        setattr(functional, function.__name__, function)
    functional.InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
    for kind in (InterpolationMode, Resize, CenterCrop, ToTensor, Normalize, Compose):
        setattr(transforms, kind.__name__, kind)
    transforms.functional = functional  # type: ignore[attr-defined]
    names = (
        "torchvision",
        "torchvision.ops",
        "torchvision.ops.misc",
        "torchvision.models",
        "torchvision.datasets",
    )
    modules: dict[str, ModuleType] = {name: _Named(name) for name in names}
    modules |= {"torchvision.transforms": transforms, "torchvision.transforms.functional": functional}
    modules["torchvision"].transforms = transforms  # type: ignore[attr-defined]
    modules["torchvision"].__version__ = "0"  # type: ignore[attr-defined]
    for module in modules.values():
        module.__path__ = []  # a package, so that what it has not can be asked for and missed
    return modules


@contextmanager
def torchvision_or_standin() -> Iterator[None]:
    """While OpenCLIP is imported; afterwards nobody else finds a torchvision that is none."""
    if find_spec("torchvision") is not None:
        yield
        return
    import transformers.utils

    transformers.utils.is_torchvision_available()  # it remembers the answer
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def import_open_clip() -> ModuleType:
    """open_clip, with timm, and torchvision or what stands in for it."""
    with torchvision_or_standin():
        import open_clip
        import timm  # noqa: F401
    return open_clip
