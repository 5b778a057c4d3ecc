"""The choice between the two kinds of source: PyTorch checkpoints, and ready-made ONNX, which needs no torch.

If a source has both, PyTorch weights win, on every machine: the same model read from the other kind of file has a
different fingerprint, so the choice must not depend on what happens to be installed. The user can override it.
"""

from __future__ import annotations

from clipdex.base.errors import CheckpointError, InvalidArgument
from clipdex_export.checkpoint import PAIR_PREFIX, Checkpoint
from clipdex_export.onnx_sources import has_onnx, has_pytorch, load_onnx
from clipdex_export.onnx_sources.model_files import Repository
from clipdex_export.requirements import need_export_extra, need_onnx_extra

__all__ = ["SOURCE_FORMATS", "check_source_format", "load_source"]

SOURCE_FORMATS = ("onnx", "torch")

_OPEN_CLIP_PREFIX = "open_clip:"


def check_source_format(source_format: str | None) -> str | None:
    """Return `source_format` if it is one of SOURCE_FORMATS or None; else raise InvalidArgument."""
    if source_format not in (None, *SOURCE_FORMATS):
        raise InvalidArgument(f"source_format is {source_format!r}; expected {' or '.join(SOURCE_FORMATS)}")
    return source_format


def load_source(source: str, *, revision: str | None, allow_random: bool, source_format: str | None) -> Checkpoint:
    """Load a source from its PyTorch weights or from its ONNX files; see `clipdex_export.export_model`.

    Raises:
        MissingExtra: a package that this kind of source needs is not installed.
        CheckpointError: the source is missing, incomplete or of an unknown kind.
    """
    chosen, both = _chosen(source, revision, source_format)
    if revision is not None and source.startswith((_OPEN_CLIP_PREFIX, PAIR_PREFIX)):
        raise CheckpointError(f"{source} names its weights: a revision ({revision}) is for hub ids only")
    if chosen == "onnx":
        need_onnx_extra()
        if allow_random:
            raise InvalidArgument("allow_random is for PyTorch checkpoints: an ONNX file has all its weights")
        return load_onnx(source, revision=revision)
    if not both:
        need_export_extra()
    else:
        need_export_extra("exporting from PyTorch weights (--from onnx uses the ONNX files beside them)")
    from clipdex_export.families import load_checkpoint

    try:
        return load_checkpoint(source, revision=revision, allow_random=allow_random)
    except CheckpointError as exc:
        if both:
            raise CheckpointError(f"{exc}; it also has ONNX towers: --from onnx uses them") from exc
        raise


def _chosen(source: str, revision: str | None, source_format: str | None) -> tuple[str, bool]:
    """Return the kind to load, and whether the source has ONNX files although PyTorch's are loaded."""
    if source_format is not None or source.startswith(_OPEN_CLIP_PREFIX):
        return source_format or "torch", False
    if source.startswith(PAIR_PREFIX):
        halves = source.removeprefix(PAIR_PREFIX).rpartition("+")[::2]
        if not all(halves) or any(half.startswith(_OPEN_CLIP_PREFIX) for half in halves):
            return "torch", False
        repositories = [Repository.find(half, None) for half in halves]
    else:
        repositories = [Repository.find(source, revision)]
    ready = all(has_onnx(repository) for repository in repositories)
    if ready and not any(has_pytorch(repository) for repository in repositories):
        return "onnx", False
    return "torch", ready
