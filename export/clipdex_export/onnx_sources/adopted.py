"""Adoption of a source of ready-made ONNX as a Checkpoint: layout → files → towers, specs, references."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec
from clipdex_export.checkpoint import Checkpoint, ImageHalf, TextHalf
from clipdex_export.json_files import read_json
from clipdex_export.onnx_sources.compose import ComposedImageTower, ComposedTextTower, freed_network
from clipdex_export.onnx_sources.graph import Tensor, external_files, read_graph
from clipdex_export.onnx_sources.layout import ImageFiles, Layout, TextFiles
from clipdex_export.onnx_sources.model_files import Repository
from clipdex_export.onnx_sources.picture_rules import image_spec
from clipdex_export.onnx_sources.reference import OriginalImages, OriginalTexts, run_original
from clipdex_export.onnx_sources.scale import scale_of
from clipdex_export.onnx_sources.text_rules import TextRules, text_rules
from clipdex_export.onnx_sources.tower_file import TowerFile, TowerKind
from clipdex_export.sessions import open_session

__all__ = ["Found", "adopt"]

# Models whose network pools its own vectors, with no projection after it.
_WITHOUT_PROJECTION = ("siglip",)
_PROBES = 3
_ROUNDING = 0.1


@dataclass(frozen=True)
class Found:
    """The repositories and layouts of a source's image tower and text tower; they may be the same."""

    source: str
    images: tuple[Repository, Layout, ImageFiles]
    texts: tuple[Repository, Layout, TextFiles]

    @property
    def layout(self) -> str:
        """The layout's name; for a pair of two layouts, both."""
        names = dict.fromkeys(layout.name for _, layout, _ in (self.images, self.texts))
        return "+".join(names)

    @property
    def revision(self) -> str:
        """The commits on the hub."""
        commits = dict.fromkeys(repository.files.revision for repository, _, _ in (self.images, self.texts))
        return "+".join(commit for commit in commits if commit)


def adopt(found: Found) -> Checkpoint:
    """Load the two towers of a source, in the precision that they have, float32 or float16.

    Raises:
        CheckpointError: a file is missing or unreadable, or a tower or a setting cannot be adopted.
    """
    (with_images, _, image_files), (with_texts, _, text_files) = found.images, found.texts
    image, settings, spec = _image(with_images, image_files)
    text, path, rules, config = _text(with_texts, text_files)
    # The other tower's input, where a file has both, must be of a size that the file takes.
    text = replace(text, others=tuple(_of_size(tensor, spec.size) for tensor in text.others))
    image, image_width = _probed_image(image, spec)
    text, text_width = _probed_text(text, rules)
    row_by_row = image.row_by_row or text.row_by_row
    scale = scale_of(image, text, spec.size, rules.spec.context_length)
    return Checkpoint(
        family=f"onnx-{found.layout}",
        source=found.source,
        revision=found.revision,
        image=ImageHalf(
            embedding_dim=image_width,
            tower=ComposedImageTower(image, spec),
            layers=None,
            spec=spec,
            reference=OriginalImages(settings, image_files.style, image),
        ),
        text=TextHalf(
            embedding_dim=text_width,
            tower=ComposedTextTower(text, rules.spec, rules.mask),
            layers=None,
            spec=rules.spec,
            tokenizer_json=rules.tokenizer_json,
            reference=OriginalTexts(
                path,
                text_files.style,
                rules.spec.context_length,
                rules.spec.pad_id,
                config,
                text,
            ),
        ),
        logit_scale=scale.scale,
        logit_bias=scale.bias,
        weights_sha256=hashlib.sha256(f"onnx {image.sha256} {text.sha256}".encode()).hexdigest(),
        precision="fp16" if image.half or text.half else "fp32",
        row_by_row=row_by_row,
        ready_made=True,
        remarks={"layout": found.layout, "logit_scale": scale.source}
        | ({"rows": "one by one"} if row_by_row else {}),
    )


def _image(repository: Repository, files: ImageFiles) -> tuple[TowerFile, Mapping[str, Any], ImageSpec]:
    settings = read_json(repository.path(files.settings))
    tower = _tower(repository, files.graph, "image", _json(repository, files.config))
    return tower, settings, image_spec(settings, files.style, tower.side, _where(repository, files.settings))


def _text(repository: Repository, files: TextFiles) -> tuple[TowerFile, Path, TextRules, Mapping[str, Any]]:
    config = _json(repository, files.config)
    path = repository.path(files.tokenizer)
    tower = _tower(repository, files.graph, "text", config)
    settings = _json(repository, files.tokenizer_config)
    return tower, path, text_rules(path, settings, config, files.style, tower), config


def _tower(repository: Repository, graph: str, kind: TowerKind, config: Mapping[str, Any]) -> TowerFile:
    where, path = _where(repository, graph), repository.path(graph)
    folder = graph.rpartition("/")[0]
    for name in external_files(read_graph(path, where), where):
        repository.path(f"{folder}/{name}" if folder else name)
    tower = TowerFile.read(path, kind, where, pooled=config.get("model_type") in _WITHOUT_PROJECTION)
    if tower.rows not in (None, 1):
        raise CheckpointError(f"{where} takes batches of exactly {tower.rows}; expected any size, or one")
    return tower


def _of_size(tensor: Tensor, side: int) -> Tensor:
    return replace(tensor, dims=(1, 3, side, side))


def _probed_image(tower: TowerFile, spec: ImageSpec) -> tuple[TowerFile, int]:
    # Of growing contrast: the vectors of noise alone are much alike.
    rows = np.random.default_rng(0).standard_normal((_PROBES, 3, spec.size, spec.size))
    rows *= np.arange(_PROBES).reshape(-1, 1, 1, 1)
    return _probed(tower, {tower.given: rows})


def _probed_text(tower: TowerFile, rules: TextRules) -> tuple[TowerFile, int]:
    spec = rules.spec
    # One token more in each row: all different, all valid.
    ids = np.full((_PROBES, spec.context_length), spec.end_id)
    for row, fewer in enumerate(ids):
        fewer[: row + 1] = np.arange(row + 1)
    beside = ((tower.mask,) if tower.mask else ()) + tower.zeros
    return _probed(tower, {tower.given: ids} | {tensor: np.ones_like(ids) for tensor in beside})


def _probed(tower: TowerFile, rows: Mapping[Tensor, Any]) -> tuple[TowerFile, int]:
    """Run a tower on rows alone and together -> the tower as it proved to be, and the length of its vectors.

    A file may declare a free batch and still have 1 written into its shapes: then it takes single rows only.
    """
    from onnx import helper

    feeds = {t.name: v.astype(helper.tensor_dtype_to_np_dtype(t.kind)) for t, v in rows.items()}
    alone = run_original(replace(tower, rows=1), feeds)
    if alone.ndim != 2 or len(alone) != _PROBES or alone.shape[1] < 1:
        raise CheckpointError(
            f"{tower.where}: its output {tower.output} has the shape {alone.shape} for {_PROBES} single rows; "
            f"expected one vector for each"
        )
    if tower.rows is None:
        try:
            together = run_original(tower, feeds)
        except CheckpointError:
            together = np.zeros((0, 0))
        if not _alike(together, alone):
            tower = replace(tower, rows=1)
    if tower.rows is not None:
        tower = replace(tower, freed=_alike(_freed(tower, feeds), alone))
    return tower, int(alone.shape[1])


def _freed(tower: TowerFile, feeds: Mapping[str, Any]) -> Any:
    """Run a tower for single rows, rewritten for any batch -> its vectors; none if it cannot be rewritten."""
    network = freed_network(tower, feeds[tower.given.name].shape[1:])
    try:
        return np.zeros((0, 0)) if network is None else open_session(network).run([tower.output], dict(feeds))[0]
    # onnxruntime raises its own kinds of errors.
    except Exception:
        return np.zeros((0, 0))


def _alike(found: Any, alone: Any) -> bool:
    """Return whether vectors differ by rounding only: by a small part of the difference between rows."""
    if found.shape != alone.shape:
        return False
    expected = alone.astype(np.float64)
    spread = np.abs(expected - expected.mean(axis=0)).max()
    return bool(np.abs(found - expected).max() <= _ROUNDING * spread)


def _json(repository: Repository, name: str | None) -> Mapping[str, Any]:
    return {} if name is None else read_json(repository.path(name))


def _where(repository: Repository, name: str) -> str:
    return f"{repository.source}/{name}"
