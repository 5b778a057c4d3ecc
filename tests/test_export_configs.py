"""The configurations say to Triton what its protobuf schema and the design ask for."""

from __future__ import annotations

import hashlib

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clipdex.assets import SHA256_PARAMETER
from clipdex.card import ImageSpec, ModelCard, TextSpec
from clipdex_export.triton_config import assets_config, image_config, text_config

CARD = ModelCard(
    name="vit_b_32",
    source="openai/clip-vit-base-patch32",
    revision="3d74acf9",
    weights_sha256="1" * 64,
    embedding_dim=512,
    image=ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3),
    text=TextSpec(77, 49407, 49407, "none", "2" * 64),
    logit_scale=100.0,
    logit_bias=0.0,
    precision="fp32",
)


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


@pytest.fixture(params=["image", "text"])
def tower(request: pytest.FixtureRequest) -> pb.ModelConfig:
    return parsed({"image": image_config, "text": text_config}[request.param](CARD, 64))


def test_the_image_tower() -> None:
    config = parsed(image_config(CARD, 64))
    assert (config.name, config.backend, config.max_batch_size) == ("vit_b_32_image", "onnxruntime", 64)
    (given,), (result,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("pixels", pb.TYPE_UINT8, [224, 224, 3])
    assert (result.name, result.data_type, list(result.dims)) == ("embedding", pb.TYPE_FP32, [512])


def test_the_text_tower() -> None:
    config = parsed(text_config(CARD, 16))
    assert (config.name, config.backend, config.max_batch_size) == ("vit_b_32_text", "onnxruntime", 16)
    (given,), (result,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("token_ids", pb.TYPE_INT32, [77])
    assert (result.name, result.data_type, list(result.dims)) == ("embedding", pb.TYPE_FP32, [512])


def test_the_assets() -> None:
    config = parsed(assets_config(CARD, b"a zip"))
    assert (config.name, config.backend, config.max_batch_size) == ("vit_b_32_assets", "onnxruntime", 0)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("start", pb.TYPE_INT64, [1]),
        ("end", pb.TYPE_INT64, [1]),
    ]
    (result,) = config.output
    assert (result.name, result.data_type, list(result.dims)) == ("bytes", pb.TYPE_UINT8, [-1])
    stated = config.parameters[SHA256_PARAMETER].string_value
    assert stated == hashlib.sha256(b"a zip").hexdigest()
    assert [(g.count, g.kind) for g in config.instance_group] == [(1, pb.ModelInstanceGroup.KIND_CPU)]


def test_requests_are_batched_and_the_queue_ends(tower: pb.ModelConfig) -> None:
    batching = tower.dynamic_batching
    assert 0 < batching.max_queue_delay_microseconds <= 10_000
    assert list(batching.preferred_batch_size) == []  # triton-inference-server/server#8141
    policy = batching.default_queue_policy
    assert policy.max_queue_size > 0 and policy.allow_timeout_override
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT


def test_one_instance_wherever_it_runs(tower: pb.ModelConfig) -> None:
    """Left out, Triton makes two on a CPU: the weights twice."""
    assert [(g.count, g.kind) for g in tower.instance_group] == [(1, pb.ModelInstanceGroup.KIND_AUTO)]


def test_cudnn_does_not_search_for_every_shape(tower: pb.ModelConfig) -> None:
    """A parameters block without it makes the CUDA provider search exhaustively."""
    assert tower.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert tower.parameters["intra_op_thread_count"].string_value == "0"


def test_all_three_state_one_fingerprint() -> None:
    configs = [image_config(CARD, 64), text_config(CARD, 64), assets_config(CARD, b"")]
    stated = {parsed(text).parameters["clipdex_fingerprint"].string_value for text in configs}
    assert stated == {CARD.fingerprint}


def test_a_source_with_a_line_break_stays_a_comment() -> None:
    from dataclasses import replace

    card = replace(CARD, source='a\nname: "other"\rpath')
    assert parsed(image_config(card, 64)).name == "vit_b_32_image"
    assert parsed(assets_config(card, b"")).name == "vit_b_32_assets"


def test_every_line_can_be_read() -> None:
    for text in (image_config(CARD, 64), text_config(CARD, 64), assets_config(CARD, b"")):
        comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
        assert len(comments) >= 5
        assert max(map(len, text.splitlines())) <= 140
