"""The configurations say to Triton what its protobuf schema and the design ask for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from clipdex.base.errors import InvalidArgument
from clipdex.model.assets import SHA256_PARAMETER, unpack_assets
from clipdex.model.card import ImageSpec, ModelCard, TextSpec
from clipdex_export.precisions import find_precision
from clipdex_export.targets import DEFAULT_ENGINE_CACHE, TARGETS, Serving, find_target
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
    return parsed(image_config(CARD, 64) if request.param == "image" else text_config(CARD, 64))


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


def test_requests_are_batched_without_a_queue_policy(tower: pb.ModelConfig) -> None:
    """With one, Triton's batcher overlooks requests for half a second (benchmarks/queue_policy.py)."""
    batching = tower.dynamic_batching
    assert 0 < batching.max_queue_delay_microseconds <= 10_000
    assert list(batching.preferred_batch_size) == []  # triton-inference-server/server#8141
    assert not batching.HasField("default_queue_policy")


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


# targets


def served(target: str, *, instances: int = 1, precision: str = "fp16") -> dict[str, pb.ModelConfig]:
    from dataclasses import replace

    card = replace(CARD, precision=precision)
    serving = Serving(TARGETS[target], instances)
    leading = [("/Transpose_output_0", (3, 224, 224))]
    return {
        "image": parsed(image_config(card, 64, serving, leading, "a" * 64)),
        "text": parsed(text_config(card, 32, serving, "b" * 64)),
    }


def accelerators(config: pb.ModelConfig) -> dict[str, dict[str, str]]:
    chosen = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {each.name: dict(each.parameters) for each in chosen}


@pytest.mark.parametrize("target", TARGETS)
def test_what_every_target_has(target: str) -> None:
    for config in served(target, instances=3).values():
        assert [g.count for g in config.instance_group] == [3]
        assert pb.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind) == TARGETS[target].kind
        assert config.backend == TARGETS[target].backend
        if config.backend == "onnxruntime":
            assert config.parameters["cudnn_conv_algo_search"].string_value == "1"
        assert config.dynamic_batching.max_queue_delay_microseconds == 100
        assert config.parameters["clipdex_fingerprint"].string_value == CARD.fingerprint


@pytest.mark.parametrize("target", ["auto", "cpu"])
def test_where_no_gpu_is_sure_nothing_is_set_for_its_speed(target: str) -> None:
    for config in served(target).values():
        assert accelerators(config) == ({"cuda": {"use_tf32": "0"}} if target == "auto" else {})
        assert list(config.model_warmup) == []
        assert "arena_extend_strategy" not in config.parameters


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
def test_a_gpu_computes_a_full_batch_and_one_row_before_it_is_ready(target: str) -> None:
    for tower, config in served(target).items():
        assert [w.batch_size for w in config.model_warmup] == [config.max_batch_size, 1]
        for warm_up in config.model_warmup:
            ((name, given),) = warm_up.inputs.items()
            assert (name, given.data_type, list(given.dims)) == (
                config.input[0].name,
                config.input[0].data_type,
                list(config.input[0].dims),
            )
            # Random numbers would be no token ids.
            assert given.random_data if tower == "image" else given.zero_data


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["auto", "cuda", "tensorrt"])
def test_wherever_cuda_may_run_it_float32_stays_what_it_is(target: str, precision: str) -> None:
    """For `tensorrt`: what TensorRT leaves to CUDA. The server's environment keeps TensorRT itself from TF32."""
    for config in served(target, precision=precision).values():
        assert accelerators(config)["cuda"]["use_tf32"] == "0"


# The keys that the C++ backend knows (its README); it refuses a model that names another.
TENSORRT_KEYS = {
    "precision_mode",
    "max_workspace_size_bytes",
    "trt_layer_norm_fp32_fallback",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}


def test_tensorrt_has_one_engine_for_every_batch_and_keeps_it() -> None:
    for tower, config in served("tensorrt").items():
        assert list(accelerators(config)) == ["tensorrt", "cuda"]  # in which order a provider is asked
        options = accelerators(config)["tensorrt"]
        assert set(options) == TENSORRT_KEYS
        assert options["precision_mode"] == "FP16"
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
        assert options["trt_engine_cache_path"] == DEFAULT_ENGINE_CACHE
        assert options["trt_engine_cache_prefix"] == f"{config.name}_{('a' if tower == 'image' else 'b') * 16}"
        if tower == "text":
            assert options["trt_profile_min_shapes"] == "token_ids:1x77"
            assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "token_ids:32x77"
        else:
            assert options["trt_profile_min_shapes"] == "pixels:1x224x224x3,/Transpose_output_0:1x3x224x224"
            assert options["trt_profile_max_shapes"] == "pixels:64x224x224x3,/Transpose_output_0:64x3x224x224"


def test_tensorrt_in_float32_is_not_told_to_halve() -> None:
    options = accelerators(served("tensorrt", precision="fp32")["image"])["tensorrt"]
    assert options["precision_mode"] == "FP32"


def test_without_its_weights_hash_no_engine_is_named() -> None:
    """It would be the same for every export of that name."""
    for config in (image_config, text_config):
        with pytest.raises(AssertionError, match="would answer for those of the next export"):
            config(CARD, 64, Serving(TARGETS["tensorrt"]))


@pytest.mark.parametrize("bad", ["cache", "", '/a"b', "/a\\b", "/a\nb"])
def test_engine_caches_that_are_none(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="expected the absolute path of a directory on the server"):
        Serving(engine_cache=bad)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5])
def test_instance_counts_that_are_none(bad: Any) -> None:
    with pytest.raises(InvalidArgument, match="instances is"):
        Serving(instances=bad)


# The keys that Triton's own OpenVINO backend reads (its README and src/openvino.cc); it ignores others.
OPENVINO_KEYS = {
    "INFERENCE_NUM_THREADS",
    "COMPILATION_NUM_THREADS",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "HINT_BF16",
    "SKIP_OV_DYNAMIC_BATCHSIZE",
    "ENABLE_BATCH_PADDING",
    "RESHAPE_IO_LAYERS",
}


@pytest.mark.parametrize(("precision", "hint"), [("bf16", True), ("int8", True), ("fp32", False), ("fp16", False)])
def test_for_openvino_the_settings_have_the_names_of_tritons_own_backend(precision: str, hint: bool) -> None:
    for config in served("openvino", precision=precision).values():
        assert (config.backend, config.default_model_filename) == ("openvino", "model.onnx")
        assert set(config.parameters) - {"clipdex_fingerprint"} <= OPENVINO_KEYS
        assert ("HINT_BF16" in config.parameters) is hint  # its only value is YES
        # Without it, that backend refuses every batch that is not full.
        assert config.parameters["ENABLE_BATCH_PADDING"].string_value == "YES"


@pytest.mark.parametrize("target", ["auto", "cpu"])
def test_elsewhere_bf16_is_said_by_the_same_name_and_nothing_else_changes(target: str) -> None:
    for tower, config in served(target, precision="bf16").items():
        assert config.parameters["HINT_BF16"].string_value == "YES"
        del config.parameters["HINT_BF16"]
        assert config == served(target, precision="fp32")[tower]


def test_names_of_targets_and_precisions_that_are_none() -> None:
    with pytest.raises(InvalidArgument, match=r"target is 'gpu'; expected auto, cpu, openvino, cuda, tensorrt"):
        find_target("gpu")
    with pytest.raises(InvalidArgument, match=r"precision is 'fp8'; expected fp32(,| or) fp16"):
        find_precision("fp8")


def test_the_committed_demo_model_has_the_configs_that_an_export_writes() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(MODEL_REPOSITORY / "demo_assets" / "1" / "model.onnx"))
    data = session.run(None, {"start": np.array([0]), "end": np.array([2**62])})[0].tobytes()
    card = unpack_assets(data).card
    written = {
        "image": image_config(card, 64),
        "text": text_config(card, 64),
        "assets": assets_config(card, data),
    }
    for part, text in written.items():
        assert (MODEL_REPOSITORY / f"demo_{part}" / "config.pbtxt").read_text() == text
