"""A CLIP as sentence-transformers saves it: the checkpoint in a subdirectory, and a list of modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipdex_export.checkpoint import Checkpoint
from clipdex_export.families.checkpoint_json import peek_json
from clipdex_export.families.family import Family
from clipdex_export.families.hf_clip import load_hf_clip
from clipdex_export.hub import CheckpointFiles

__all__ = ["ST_CLIP", "load_st_clip"]


def load_st_clip(source: str, files: CheckpointFiles, allow_random: bool) -> Checkpoint:
    """Load the CLIP inside, which sentence-transformers runs with transformers' own processor and tokenizer."""
    inner = _inner(files.directory)
    assert inner is not None
    loaded = load_hf_clip(source, replace(files, directory=inner), allow_random)
    loaded.family = ST_CLIP.name
    return loaded


def _inner(directory: Path) -> Path | None:
    """Return the directory of the CLIP, if modules.json begins with one, else None."""
    listed = peek_json(directory / "modules.json")
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return None
    if not str(listed[0].get("type", "")).endswith(".CLIPModel"):
        return None
    return directory / str(listed[0].get("path", ""))


ST_CLIP = Family(
    name="sentence-transformers-clip",
    title="A CLIP of sentence-transformers",
    examples="`sentence-transformers/clip-ViT-B-32`, a directory with `0_CLIPModel/`",
    marks="modules.json of sentence-transformers that begins with a CLIPModel",
    picture="shorter side, crop",
    text="byte-level BPE; causal mask",
    fused="both towers",
    recognises=lambda directory: _inner(directory) is not None,
    weights=(
        "0_CLIPModel/model*.safetensors",
        "0_CLIPModel/pytorch_model*.bin",
        "model*.safetensors",
        "pytorch_model*.bin",
    ),
    load=load_st_clip,
)
