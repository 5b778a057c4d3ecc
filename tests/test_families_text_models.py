"""The text models of transformers that OpenCLIP's architectures name, beside XLM-R: exported and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tiny_families import LAYERS, WIDTH, roberta_config, write_open_clip_text  # noqa: E402

from clipdex_export import export_model, gate  # noqa: E402
from clipdex_export.photographs import gate_pictures  # noqa: E402


def roberta() -> Any:
    """roberta-ViT-B-32."""
    from transformers import RobertaConfig

    return roberta_config(RobertaConfig, positions=40)


def mt5() -> Any:
    """mt5-base-ViT-B-32."""
    from transformers import MT5Config

    shape = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": LAYERS, "num_heads": 2}
    return MT5Config(vocab_size=950, pad_token_id=1, **shape)


def nllb() -> Any:
    """nllb-clip-base: the encoder of an M2M100."""
    from transformers import M2M100Config

    layers = {f"{half}_{what}": n for half in ("encoder", "decoder") for what, n in SHAPE.items()}
    return M2M100Config(vocab_size=950, d_model=WIDTH, max_position_embeddings=40, **layers)


SHAPE = {"layers": LAYERS, "attention_heads": 2, "ffn_dim": 64}


@pytest.mark.parametrize(
    ("config", "pooler"),
    [(roberta, "mean_pooler"), (mt5, "mean_pooler"), (nllb, "cls_pooler")],
    ids=["roberta", "mt5", "nllb"],
)
def test_a_text_model(config: Any, pooler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(picture for picture in gate_pictures() if len(picture.data) < 60_000)
    monkeypatch.setattr(gate, "gate_pictures", lambda drawn=False: few)
    source = write_open_clip_text(tmp_path / "checkpoint", config(), pooler)
    report = export_model(source, name="tiny", repository=tmp_path / "repository", max_batch_size=4)
    parity = report.card.parity
    assert parity["text_cosine_min"] >= 0.9999 and parity["token_mismatches"] == 0 and not parity["forced"]
    assert report.random_weights == report.unused_weights == ()
