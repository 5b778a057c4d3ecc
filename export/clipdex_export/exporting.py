"""The export: source → family → towers → ONNX → precision, fusion → gate → assets and configs → install."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import ExportError, InvalidArgument
from clipdex.model.assets import pack_assets
from clipdex.model.card import ModelCard, check_model_name
from clipdex.version import __version__
from clipdex_export.catalogue import resolve
from clipdex_export.install import Staging, check_free, staging
from clipdex_export.loading import check_source_format, load_source
from clipdex_export.precisions import Precision, find_precision
from clipdex_export.targets import DEFAULT_ENGINE_CACHE, Serving, find_target

if TYPE_CHECKING:
    from clipdex_export.checkpoint import Checkpoint

__all__ = ["DEFAULT_MAX_BATCH_SIZE", "ExportReport", "export_model"]

DEFAULT_MAX_BATCH_SIZE = 64

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    paths: the three model directories, by "image", "text" and "assets".
    bytes_on_disk: their total size.
    unused_weights: names of weights in the checkpoint that the architecture does not have.
    random_weights: names of weights that were missing and filled at random, as `allow_random` permits.
    """

    card: ModelCard
    repository: Path
    paths: dict[str, Path]
    bytes_on_disk: int
    unused_weights: tuple[str, ...]
    random_weights: tuple[str, ...]


def export_model(
    source: str | os.PathLike[str],
    *,
    name: str,
    repository: str | os.PathLike[str],
    revision: str | None = None,
    allow_random: bool = False,
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    target: str = "auto",
    precision: str | None = None,
    instances: int = 1,
    engine_cache: str = DEFAULT_ENGINE_CACHE,
    calibrate: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    force: bool = False,
    source_format: str | None = None,
    same_as: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a CLIP checkpoint to the Triton models NAME_image, NAME_text and NAME_assets.

    Nothing is installed unless the export reproduces the checkpoint's results (docs/export.md).

    Args:
        source: a listed name such as vit-b-32 (`clipdex_export.catalogue.available_models`), a directory, a hub id
            such as openai/clip-vit-base-patch32, or a name with a prefix: PyTorch weights (docs/families.md), or
            ready-made ONNX towers, which need no torch (docs/onnx-sources.md).
        name: the model's name: lower-case letters, digits and underscores.
        repository: a Triton model repository; created if it does not exist.
        revision: a branch, tag or commit, for hub ids.
        allow_random: fill missing weights at random, for speed benchmarks.
        max_batch_size: the most rows in a request, and in a batch on the server.
        target: where it will run: "auto", "cpu", "openvino", "cuda" or "tensorrt"; see `clipdex_export.targets`.
        precision: "fp32", "fp16", "tf32" for cuda, or for CPUs "bf16" or "int8"; None for the target's default:
            fp16 on GPUs, bf16 for openvino, else fp32.
        instances: copies of each tower on the server, on each GPU.
        engine_cache: for TensorRT, the directory on the server for engines.
        calibrate: for int8, a directory of typical pictures, and of texts in .txt files.
        overwrite: replace a model of the same name.
        force: install a model that fails the gate, with a card that says so.
        source_format: "onnx" or "torch", for a source that has both; None for PyTorch's where there are any.
        same_as: a model of the repository, by name, or the path DIR/NAME of one elsewhere. If both give the same
            vectors, the export takes that model's fingerprint, so that they may share an index.
        progress: called with a short description at the start of each stage.

    Raises:
        MissingExtra: a package is not installed: onnx, onnxruntime and huggingface_hub (the extra `onnx`), and for
            PyTorch weights torch, transformers and others (the extra `export`).
        InvalidArgument, CardError: an argument is out of range.
        CheckpointError: the checkpoint is missing, incomplete or of an unknown kind.
        ParityError: the export does not reproduce the checkpoint's results, or those of `same_as`; its `table`
            shows at which stage.
        ExportError: the repository cannot be written, or already has a model of that name.
    """
    check_model_name(name)
    check_source_format(source_format)
    if isinstance(max_batch_size, bool) or not isinstance(max_batch_size, int) or max_batch_size < 1:
        raise InvalidArgument(f"max_batch_size is {max_batch_size!r}; expected a whole number from 1")
    serving = Serving(find_target(target), instances, engine_cache)
    in_precision = find_precision(precision or serving.target.precision, target)
    if calibrate is not None and in_precision.quantize is None:
        raise InvalidArgument(f"calibrate is for the precision int8, not for {in_precision.name}")
    directory = Path(repository).expanduser().resolve()
    try:
        with staging(directory, name) as stage:
            if not overwrite:
                check_free(directory, name)
            return _export(
                stage,
                resolve(os.fspath(source), source_format),
                revision=revision,
                allow_random=allow_random,
                max_batch_size=max_batch_size,
                serving=serving,
                precision=in_precision,
                calibrate=None if calibrate is None else Path(calibrate).expanduser(),
                overwrite=overwrite,
                force=force,
                source_format=source_format,
                asked_precision=precision,
                same_as=None if same_as is None else Path(same_as).expanduser(),
                tell=progress or (lambda stage: None),
            )
    except OSError as exc:
        raise ExportError(f"{directory}: the export cannot be written: {exc.strerror or exc}") from exc


def _export(
    stage: Staging,
    source: str,
    *,
    revision: str | None,
    allow_random: bool,
    max_batch_size: int,
    serving: Serving,
    precision: Precision,
    calibrate: Path | None,
    overwrite: bool,
    force: bool,
    source_format: str | None,
    asked_precision: str | None,
    same_as: Path | None,
    tell: Progress,
) -> ExportReport:
    from clipdex_export.adapt import TowerFiles, adapt_and_judge
    from clipdex_export.calibration import calibration
    from clipdex_export.gate import Gate
    from clipdex_export.same_space import as_same_space, find_other
    from clipdex_export.verdict import OVERLAP_FLOOR, Floors

    other = None if same_as is None else find_other(same_as, stage.repository)
    tell("loading the checkpoint")
    checkpoint = load_source(source, revision=revision, allow_random=allow_random, source_format=source_format)
    precision = _fitting(precision, asked_precision, checkpoint)
    image, text, tokenizer = checkpoint.image.spec, checkpoint.text.spec, checkpoint.text.tokenizer_json
    card = checkpoint.card(stage.name, precision.name)

    examples = None
    if precision.quantize is not None:
        tell("preparing calibration pictures and texts")
        examples = calibration(calibrate, image, text, tokenizer)
    tell(f"computing the reference with {checkpoint.runtime}")
    gate = Gate(checkpoint)

    towers = TowerFiles.of(stage, checkpoint)
    _write_towers(checkpoint, card, towers.image, towers.text, tell)
    same: dict[str, Any] = {}
    if other is not None:
        tell(f"comparing with {other.card.name}")
        card, tokenizer, same = as_same_space(card, towers.image, towers.text, other)
    # With random weights, rankings mean nothing.
    floors = Floors(precision.floor, 0.0 if checkpoint.random_weights else OVERLAP_FLOOR)
    verdict, text_precision = adapt_and_judge(towers, precision, serving.target, examples, gate, floors, tell)
    if not force:
        verdict.require()
    card = replace(
        card,
        parity=verdict.to_dict()
        | {"text_precision": text_precision, "random_weights": len(checkpoint.random_weights)}
        | {"reference": checkpoint.runtime, **checkpoint.remarks, **same}
        | {"versions": _versions(checkpoint)},
    )

    tell("installing")
    _write_assets_and_configs(stage, card, tokenizer, max_batch_size, serving)
    paths = stage.install(overwrite=overwrite)
    return ExportReport(
        card=card,
        repository=stage.repository,
        paths=paths,
        bytes_on_disk=_bytes_on_disk(paths.values()),
        unused_weights=checkpoint.unused_weights,
        random_weights=checkpoint.random_weights,
    )


def _fitting(precision: Precision, asked: str | None, checkpoint: Checkpoint) -> Precision:
    """Return the precision in which a checkpoint's weights can be exported.

    Raises:
        InvalidArgument: another one is asked than that of the weights, or than towers for single rows have.
    """
    if checkpoint.precision == "fp16":
        if asked not in (None, "fp16"):
            raise InvalidArgument(
                f"{checkpoint.source} has its weights in half precision only: it can be exported in fp16, not in "
                f"{asked}"
            )
        # As they are: the gate compares with the file itself.
        return replace(find_precision("fp16"), convert=None)
    if checkpoint.row_by_row and precision.name != "fp32":
        raise InvalidArgument(
            f"{checkpoint.source} has a tower for batches of one, which can be exported in fp32 only, not in "
            f"{precision.name}: give  --precision fp32, or a source that takes batches of any size"
        )
    return precision


def _write_towers(
    checkpoint: Checkpoint, card: ModelCard, image_onnx: Path, text_onnx: Path, tell: Progress
) -> None:
    """Write both towers, and release each, so that at most one is in memory at the end."""
    from clipdex_export.checkpoint import WrittenTower

    checkpoint.forget_references()
    tell("writing the image tower")
    image = checkpoint.image.take_tower()
    if isinstance(image, WrittenTower):
        image.write(image_onnx)
    else:
        import torch

        from clipdex_export.onnx_files import write_tower

        # Two rows: with one, the tracer may drop the batch dimension.
        pixels = torch.zeros(2, card.image.size, card.image.size, 3, dtype=torch.uint8)
        write_tower(image, pixels, image_onnx, input_name="pixels", output_name="embedding")
    del image
    tell("writing the text tower")
    text = checkpoint.text.take_tower()
    if isinstance(text, WrittenTower):
        text.write(text_onnx)
    else:
        import torch

        from clipdex_export.onnx_files import write_tower

        token_ids = torch.full((2, card.text.context_length), card.text.end_id, dtype=torch.int32)
        write_tower(text, token_ids, text_onnx, input_name="token_ids", output_name="embedding")


def _write_assets_and_configs(
    stage: Staging, card: ModelCard, tokenizer: bytes, max_batch_size: int, serving: Serving
) -> None:
    from clipdex_export.accelerators import leading_tensors
    from clipdex_export.assets_model import write_assets_model
    from clipdex_export.onnx_files import file_sha256
    from clipdex_export.triton_config import assets_config, image_config, text_config

    assets = pack_assets(card, tokenizer)
    write_assets_model(assets, stage.model_directory("assets") / "1" / "model.onnx")
    side = card.image.size
    image, text = (stage.model_directory(tower) / "1" / "model.onnx" for tower in ("image", "text"))
    pixels = leading_tensors(image, "pixels", (side, side, 3))
    configs = {
        "image": image_config(card, max_batch_size, serving, pixels, file_sha256(image)),
        "text": text_config(card, max_batch_size, serving, file_sha256(text)),
        "assets": assets_config(card, assets),
    }
    for suffix, config in configs.items():
        (stage.model_directory(suffix) / "config.pbtxt").write_text(config, encoding="utf-8")


def _versions(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the versions of all packages involved, so that later differences can be traced to one."""
    torch = () if checkpoint.ready_made else ("torch", "transformers")
    modules = (*torch, "tokenizers", "onnx", "onnxruntime", "PIL", "numpy")
    found = {name: str(import_module(name).__version__) for name in modules}
    return {"clipdex": __version__, "python": platform.python_version()} | found


def _bytes_on_disk(directories: Iterable[Path]) -> int:
    return sum(file.stat().st_size for d in directories for file in d.rglob("*") if file.is_file())
