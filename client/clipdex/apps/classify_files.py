"""Classify picture files and folders batch by batch: memory does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from clipdex.base.arrays import Pixels, Vectors
from clipdex.base.errors import ImageError, SourceError
from clipdex.client.classification import DEFAULT_TEMPLATES, label_steps, probabilities
from clipdex.client.client import Client
from clipdex.client.steps import run
from clipdex.model.card import ImageSpec
from clipdex.model.images import model_pixels
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.sources import Folder, PassedOver

__all__ = ["Classified", "FileClassifier"]


@dataclass(frozen=True)
class Classified:
    """A picture file and its labels: (label, probability), the most probable first."""

    path: str
    labels: list[tuple[str, float]]


@dataclass
class FileClassifier:
    """A classifier for picture files and folders.

    Args:
        client: a client of the model.
        labels: the labels to choose from.
        templates: texts around a label, with `{}` in its place; CLIP's own if empty.
        top: labels per picture.
        rules: how pictures are decoded.
        on_failure: called with a sentence for each file that cannot be read.
        on_passed_over: called after each folder with what was skipped in it.
    """

    client: Client
    labels: Sequence[str]
    templates: Sequence[str] = ()
    top: int = 3
    rules: PictureRules = EXACT
    on_failure: Callable[[str], None] = field(default=lambda sentence: None)
    on_passed_over: Callable[[PassedOver], None] = field(default=lambda passed_over: None)
    failed: int = field(default=0, init=False)

    def classify(self, pictures: Sequence[Path]) -> Iterator[Classified]:
        """Embed the labels, then classify -> each readable picture, in order; `failed` counts the others.

        Raises:
            InvalidArgument: the labels or templates are invalid.
            SourceError: there is no picture.
            ServerError: the server did not answer.
        """
        vectors = run(label_steps(self.client, self.labels, self.templates or DEFAULT_TEMPLATES, wait=True))
        return self._classified(pictures, vectors)

    def _classified(self, pictures: Sequence[Path], vectors: Vectors) -> Iterator[Classified]:
        files = self._files(pictures)
        seen = 0
        while batch := list(islice(files, self.client.max_batch_size)):
            read = self._read(self.client.card.image, batch)
            seen += len(batch)
            if not read:
                continue
            pixels = np.stack([each for _, each in read])
            chances = probabilities(self.client.card, self.client.embed_pixels(pixels), vectors)
            for (path, _), row in zip(read, chances, strict=True):
                best = np.argsort(-row, kind="stable")[: self.top]
                yield Classified(path, [(self.labels[i], float(row[i])) for i in best])
        if not seen:
            raise SourceError(f"{', '.join(map(str, pictures))}: holds no picture")

    def _files(self, pictures: Sequence[Path]) -> Iterator[str]:
        for path in pictures:
            if path.is_dir():
                folder = Folder(path)
                for file in folder.files(
                    lambda failure: self.on_failure(f"{os.fsdecode(failure.path)}: {failure.detail}")
                ):
                    yield os.fsdecode(file.path)
                self.on_passed_over(folder.passed_over())
            else:
                yield str(path)

    def _read(self, spec: ImageSpec, paths: Sequence[str]) -> list[tuple[str, Pixels]]:
        def decode(path: str) -> Pixels | ImageError:
            try:
                return model_pixels(path, spec, self.rules)
            except ImageError as exc:
                return exc

        read = []
        with ThreadPoolExecutor() as threads:
            for path, pixels in zip(paths, threads.map(decode, paths), strict=True):
                if isinstance(pixels, ImageError):
                    self.failed += 1
                    self.on_failure(str(pixels))
                else:
                    read.append((path, pixels))
        return read
