"""Half precision beyond plain CLIP: fused for CUDA, and networks that hold what float16 is too small for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_families import (  # noqa: E402
    LAYERS,
    LENGTH,
    WIDTH,
    open_clip_config,
    open_clip_model,
    write_xlm_roberta_tokenizer,
)

from clipdex_export import ExportReport, export_model  # noqa: E402


def graph(report: ExportReport, tower: str) -> onnx.GraphProto:  # type: ignore[name-defined]
    return onnx.load(report.paths[tower] / "1" / "model.onnx").graph


@pytest.mark.parametrize("case", ["siglip", "open_clip_vit"])
def test_fused_for_cuda(family_sources: dict[str, str], tmp_path: Path, case: str) -> None:
    """No causal mask and GELU by tanh in the one, packed attention and OpenCLIP's own layers in the other."""
    report = export_model(family_sources[case], name="fused", repository=tmp_path, target="cuda", max_batch_size=4)
    assert report.card.precision == "fp16" and not report.card.parity["forced"]
    for tower in ("image", "text"):
        assert report.card.parity[f"{tower}_cosine_min"] >= 0.9999
        nodes = Counter(node.op_type for node in graph(report, tower).node)
        assert nodes["Attention"] >= LAYERS and not nodes["Softmax"] - (case == "siglip" and tower == "image")
        types = Counter(tensor.data_type for tensor in graph(report, tower).initializer)
        assert types[onnx.TensorProto.FLOAT16] > types[onnx.TensorProto.FLOAT]


@pytest.fixture(scope="module")
def mt5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As OpenCLIP's mt5-base-ViT-B-32, with embeddings whose squares are beyond float16, as trained ones have."""
    from transformers import MT5Config

    directory = tmp_path_factory.mktemp("mt5")
    MT5Config(
        vocab_size=950,
        d_model=WIDTH,
        d_kv=16,
        d_ff=64,
        num_layers=LAYERS,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    ).save_pretrained(directory / "base")
    write_xlm_roberta_tokenizer(directory)
    config = open_clip_config()
    config["text_cfg"] = {
        "hf_model_name": str(directory / "base"),
        "hf_tokenizer_name": str(directory / "base"),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": LENGTH,
    }
    model = open_clip_model(directory, config, {"interpolation": "bicubic"})
    with torch.no_grad():
        model.text.transformer.get_input_embeddings().weight.mul_(400)
    torch.save(model.state_dict(), directory / "open_clip_pytorch_model.bin")
    return str(directory)


def test_sums_of_squares_and_distances_stay_float32(mt5: str, tmp_path: Path) -> None:
    report = export_model(mt5, name="mt5", repository=tmp_path, precision="fp16", max_batch_size=4)
    # A distance in another bucket, by a rounded logarithm, would leave 0.9991.
    assert report.card.parity["text_cosine_min"] >= 0.9999
    nodes = graph(report, "text").node
    maker = {output: node for node in nodes for output in node.output}
    means = [node for node in nodes if node.op_type == "ReduceMean"]
    assert len(means) == 2 * LAYERS + 1
    for node in means:
        square = maker[node.input[0]]
        given = maker[square.input[0]]
        assert square.op_type == "Pow"
        assert given.op_type == "Cast" and given.attribute[0].i == onnx.TensorProto.FLOAT
