"""Every check, with a deployment that trips it and one just short of that, and the words for what is found."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from doctor_snapshots import (
    ADDRESS,
    ALWAYS,
    CARD,
    HEALTHY,
    MODEL,
    ON_CPU,
    ON_GPU,
    PARAMETERS,
    codes,
    with_batching,
    with_card,
    with_counted,
    with_exposure,
    with_gpus,
    with_model,
    with_parameters,
    with_parity,
    with_precision,
    with_server,
    with_single,
    with_tensorrt,
    with_tensorrt_on,
    with_tower,
    with_trial,
)

from clipdex.apps.doctor import Severity, Snapshot, examine, healthy, words_of
from clipdex.apps.doctor.examine import WORDINGS
from clipdex.apps.doctor.snapshot import Gpu, Metrics
from clipdex.base.processor import Processor
from clipdex.wire.inspect.findings import InstanceGroup, Tensor

pytestmark = pytest.mark.thin

REMOTE = with_exposure(local=False)
OPEN: dict[str, Any] = {"open_on": ("192.0.2.7",)}
BATCHED_DIMS = (Tensor("pixels", "UINT8", (-1, 224, 224, 3)),)
ON_BOTH = (InstanceGroup("KIND_GPU", 1, (0, 1)),)
ON_THE_SECOND = (InstanceGroup("KIND_CPU", 1), InstanceGroup("KIND_GPU", 1, (1,)))
ON_ALL = (InstanceGroup("KIND_GPU", 1),)
QUANTIZED = {"versions": {"onnxruntime": "1.32.0"}}
BF16 = {**PARAMETERS, "HINT_BF16": "YES"}
AVX2 = Processor("x86_64", frozenset({"avx2"}))
AMX = Processor("x86_64", frozenset({"amx_bf16"}))
TWO_GPUS = (InstanceGroup("KIND_GPU", 5, (0,)),)


def without(snapshot: Snapshot, part: str) -> Snapshot:
    parts = {name: found for name, found in MODEL.parts.items() if name != part}
    return replace(snapshot, models=(replace(MODEL, parts=parts, missing=(part,)),))


def no_metrics(snapshot: Snapshot, *, asked: bool) -> Snapshot:
    return replace(snapshot, metrics=Metrics("gpu-1:8002", reachable=False, asked=asked))


# code, a deployment that trips it, one that is near it and does not.
CASES = [
    ("part_missing", without(HEALTHY, "text"), HEALTHY),
    ("part_not_loaded", without(with_server(unready={"m_text": "no such file"}), "text"), HEALTHY),
    ("card_unreadable", with_model(card=None, card_error="of format version 9", trials={}), HEALTHY),
    ("assets_unstated", with_model(stated_sha256=None), HEALTHY),
    ("assets_differ", with_model(assets_sha256="b" * 64), HEALTHY),
    ("fingerprint_missing", with_parameters("text", clipdex_fingerprint=None), HEALTHY),
    ("fingerprint_differs", with_parameters("assets", clipdex_fingerprint="f" * 64), HEALTHY),
    ("batch_in_dims", with_tower(max_batch_size=0, inputs=BATCHED_DIMS), with_tower(max_batch_size=8)),
    ("batch_in_dims", with_tower(inputs=BATCHED_DIMS), HEALTHY),
    ("tensors_differ", with_tower(inputs=(Tensor("pixels", "UINT8", (336, 336, 3)),)), HEALTHY),
    ("tensors_differ", with_tower(inputs=(Tensor("pixels", "FP32", (224, 224, 3)),)), HEALTHY),
    ("tensors_differ", with_tower("text", outputs=(Tensor("embedding", "FP32", (768,)),)), HEALTHY),
    ("parity_unknown", with_card(parity={}), HEALTHY),
    ("parity_forced", with_parity(forced=True, problem="the tokenizer departs"), with_parity(forced=False)),
    ("parity_low", with_parity(text_cosine_min=0.9985), with_parity(text_cosine_min=0.9991)),
    # A floor that was lowered does not count.
    ("parity_low", with_parity(floor=0.5, image_cosine_min=0.99), with_parity(floor=0.5)),
    ("random_weights", with_parity(random_weights=398), HEALTHY),
    ("no_answer", with_trial(error="the server broke", single=None), HEALTHY),
    ("full_batch_refused", with_trial(full_error="larger than max (9633792 vs. 4194304)"), HEALTHY),
    ("not_finite", with_trial(finite=False, norm=math.nan), HEALTHY),
    ("not_unit", with_trial(norm=1.02), with_trial(norm=1.005)),
    ("not_unit", with_trial(norm=0.0), HEALTHY),
    ("batch_changes_vectors", with_trial(alone_to_full=0.9), with_trial(alone_to_full=0.9995)),
    ("wrong_dim", with_trial(dim=768), HEALTHY),
    # The name of the tower alone, as it was first written; or none; or no whole hash.
    ("tensorrt_engines_unnamed", with_tensorrt(trt_engine_cache_prefix="m_image"), with_tensorrt()),
    ("tensorrt_engines_unnamed", with_tensorrt(trt_engine_cache_prefix=""), HEALTHY),
    ("tensorrt_engines_unnamed", with_tensorrt(trt_engine_cache_prefix="m_image_0123456789abcde"), HEALTHY),
    (
        "tensorrt_engines_unnamed",
        with_tensorrt(trt_engine_cache_prefix="m_image"),
        with_tensorrt(trt_engine_cache_prefix="m_image", trt_engine_cache_enable="0"),
    ),
    ("tensorrt_one_gpu", with_tensorrt_on(ON_BOTH, "2.56.0"), with_tensorrt_on(ON_BOTH, "2.57.0")),
    ("tensorrt_one_gpu", with_tensorrt_on(ON_THE_SECOND, "2.51.0"), with_tensorrt_on(ON_CPU, "2.51.0")),
    ("tensorrt_one_gpu", with_tensorrt_on(ON_ALL, "2.51.0"), with_tensorrt_on(ON_ALL, "2.51.0", gpus=1)),
    ("tensorrt_one_gpu", with_tensorrt_on(ON_BOTH, "2.51.0"), with_tensorrt_on(ON_GPU, "2.51.0")),
    # The first exports for `auto` and `tensorrt` said nothing of it.
    ("tf32", with_precision("fp32", {}), with_precision("fp32", {"cuda": {"use_tf32": "0"}})),
    ("tf32", with_precision("fp32", {"tensorrt": {}}), with_precision("fp16", {"tensorrt": {}})),
    ("openvino", with_tower(backend="openvino"), HEALTHY),
    ("openvino", replace(with_tower(backend="openvino", parameters=BF16), processor=AVX2), HEALTHY),
    ("bf16_unused", with_tower(groups=ON_CPU, parameters=BF16), with_tower(parameters=BF16)),  # on a GPU
    ("int8_versions", with_card(precision="int8", parity={**CARD.parity, **QUANTIZED}), HEALTHY),
    ("int8_versions", with_card(precision="int8", parity={**CARD.parity, "versions": "none"}), HEALTHY),
    ("gpu_unused", with_tower(groups=ON_CPU), HEALTHY),
    ("gpu_unused", replace(no_metrics(with_tower(groups=ON_CPU), asked=False), gpu_here=True), HEALTHY),
    ("gpu_idle", with_gpus(Gpu("GPU-1", 500 << 20, 24 << 30)), with_gpus(Gpu("GPU-1", 1 << 30, 24 << 30))),
    # Of several GPUs a model may use any; where the metrics say nothing of memory, nothing is known.
    (
        "gpu_idle",
        with_gpus(Gpu("GPU-1", 0, 24 << 30), Gpu("GPU-2", 0, 24 << 30)),
        with_gpus(Gpu("GPU-1", 0, 24 << 30), Gpu("GPU-2", 2 << 30, 24 << 30)),
    ),
    ("gpu_idle", with_gpus(Gpu("GPU-1", 0, 24 << 30)), with_gpus(Gpu("GPU-1"))),
    ("gpu_unknown", no_metrics(with_exposure(with_tower(groups=ON_CPU), local=False), asked=False), HEALTHY),
    ("batch_small", with_tower(max_batch_size=4), with_tower(max_batch_size=8)),
    ("no_batching", with_tower(batching=None), HEALTHY),
    ("preferred_batch_size", with_batching(preferred=(8, 16)), HEALTHY),
    ("delay_long", with_batching(delay_us=100_000), with_batching(delay_us=2_000)),
    ("delay_none", with_batching(delay_us=0), with_batching(delay_us=1)),
    ("queue_policy", with_batching(queue_size=256), HEALTHY),
    ("queue_policy", with_batching(queue_timeout_us=60_000_000), HEALTHY),
    ("queue_short", with_batching(queue_size=3), with_batching(queue_size=4)),
    ("queue_large", with_batching(queue_size=4096), with_batching(queue_size=512)),
    ("cpu_instances", with_tower(groups=(InstanceGroup("KIND_CPU", 2),)), with_tower(groups=ON_CPU)),
    ("gpu_instances", with_tower(groups=TWO_GPUS), with_tower(groups=(InstanceGroup("KIND_GPU", 4, (0,)),))),
    (
        "batches_of_one",
        with_counted({1: 1000}, queue_ms=30, compute_ms=5),
        with_counted({32: 1000}, queue_ms=30, compute_ms=5),
    ),
    (
        "requests_alone",
        with_counted({1: 1000}, queue_ms=0.6, compute_ms=5),
        with_counted({1: 199}, queue_ms=0.6, compute_ms=5),
    ),
    ("conv_search_gpu", with_parameters(cudnn_conv_algo_search=None), HEALTHY),
    (
        "conv_search_gpu",
        with_parameters(cudnn_conv_algo_search=None),
        with_tower(backend="openvino", parameters={"NUM_STREAMS": "1"}),
    ),
    ("conv_search_gpu", with_parameters(cudnn_conv_algo_search="0"), with_parameters(cudnn_conv_algo_search="2")),
    (
        "conv_search",
        with_tower(groups=ON_CPU, parameters={"clipdex_fingerprint": CARD.fingerprint}),
        with_tower(groups=ON_CPU),
    ),
    ("no_warm_up", with_tower(warm_ups=()), with_tower(groups=ON_CPU, warm_ups=())),
    ("tensorrt_no_cache", with_tensorrt(trt_engine_cache_enable="0"), with_tensorrt()),
    ("tensorrt_no_profile", with_tensorrt(trt_profile_opt_shapes=""), with_tensorrt()),
    ("lone_request_waits", with_single(0.012, 0.008, 0.002), with_single(0.005, 0.002, 0.002)),
    ("far_away", with_single(0.060, 0.001, 0.002), with_single(0.015, 0.001, 0.002)),
    ("not_triton", with_server(name="another"), HEALTHY),
    ("triton_old", with_server(version="2.50.0"), with_server(version="2.51.0")),
    ("triton_old", with_server(version="2.9.0"), with_server(version="3.0")),
    ("other_not_loaded", with_server(unready={"resnet": "no such file"}), HEALTHY),
    ("not_ready", with_server(ready=False), HEALTHY),
    ("grpc_open", with_exposure(**OPEN), with_exposure(tls=True, **OPEN)),
    ("grpc_unencrypted", REMOTE, with_exposure(local=False, tls=True)),
    ("http_open", with_exposure(http_on=("192.0.2.7:8000",), http_beyond=("192.0.2.7:8000",)), HEALTHY),
    ("http_on", with_exposure(http_on=("localhost:8000",)), HEALTHY),
    ("control_open", with_exposure(with_server(model_control=True), **OPEN), with_server(model_control=True)),
    ("control_local", with_server(model_control=True), HEALTHY),
    ("memory_open", with_exposure(with_server(system_memory=True), local=False), with_server(system_memory=True)),
    ("memory_local", with_server(system_memory=True, cuda_memory=True), HEALTHY),
    ("settings_open", with_exposure(with_server(settings=True), local=False), with_server(settings=True)),
    ("metrics_unreachable", no_metrics(HEALTHY, asked=True), no_metrics(HEALTHY, asked=False)),
    ("metrics_not_found", no_metrics(HEALTHY, asked=False), HEALTHY),
]
# What needs two servers: code, the second, as it should be.
OTHER = replace(HEALTHY, address="gpu-2:8001")
FLEET_CASES = [
    ("versions_differ", replace(OTHER, server=replace(OTHER.server, version="2.51.0"))),
    ("model_not_everywhere", replace(OTHER, models=())),
    ("fleet_fingerprints_differ", replace(with_card(weights_sha256="3" * 64), address="gpu-2:8001")),
    ("fleet_precisions_differ", replace(with_card(precision="fp32"), address="gpu-2:8001")),
    ("fleet_batches_differ", replace(with_tower(max_batch_size=32), address="gpu-2:8001")),
]


def test_a_deployment_in_order_is_healthy() -> None:
    assert codes(HEALTHY) == set()
    assert healthy(examine([HEALTHY]))


@pytest.mark.parametrize(("code", "tripped", "spared"), CASES, ids=[case[0] for case in CASES])
def test_every_check(code: str, tripped: Snapshot, spared: Snapshot) -> None:
    assert code in codes(tripped)
    assert code not in codes(spared)
    assert healthy(examine([tripped])) is all(WORDINGS[c].severity is Severity.NOTE for c in codes(tripped))


@pytest.mark.parametrize(("code", "other"), FLEET_CASES, ids=[case[0] for case in FLEET_CASES])
def test_every_check_of_several_servers(code: str, other: Snapshot) -> None:
    assert code in codes(HEALTHY, other)
    assert codes(HEALTHY, OTHER) == set()
    assert code not in codes(other)


def test_every_wording_is_of_a_finding_that_a_case_trips() -> None:
    assert {case[0] for case in CASES} | {case[0] for case in FLEET_CASES} | ALWAYS == set(WORDINGS)


@pytest.mark.parametrize("tripped", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_every_blank_is_filled_and_nothing_is_left_over(tripped: Snapshot) -> None:
    for finding in examine([tripped]):
        words = words_of(finding)
        stated = WORDINGS[finding.code]
        blanks = {
            name
            for text in (stated.what, stated.why, stated.todo)
            for _, name, _, _ in Formatter().parse(text)
            if name is not None
        }
        assert blanks <= set(finding.facts)
        assert words.what and words.why and finding.where
        assert words.why[0].isupper() and words.why.endswith(".")
        assert words.todo == "" or words.todo[0].isupper()


def test_the_memory_of_gpus_is_read_from_the_metrics() -> None:
    pytest.importorskip("tritonclient.grpc")
    from clipdex.apps.doctor.collect import _gpus

    text = """# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 25769803776
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 471859200
nv_gpu_utilization{gpu_uuid="GPU-1"} 0
"""
    assert _gpus(text) == (Gpu("GPU-1", 471859200, 25769803776),)


def test_what_is_wrong_comes_first() -> None:
    found = examine(
        [with_exposure(with_tower(batching=None, max_batch_size=4), local=False, http_beyond=("h:1",))]
    )
    severities = [words_of(finding).severity for finding in found]
    assert severities == sorted(severities, key=list(Severity).index)
    assert {*severities} == {*Severity}


def test_a_card_that_cannot_be_read_does_not_hide_the_rest() -> None:
    found = codes(
        replace(
            with_tower(batching=None),
            models=(replace(with_tower(batching=None).models[0], card=None, card_error="no zip", trials={}),),
        )
    )
    assert {"card_unreadable", "no_batching"} <= found


def test_the_documented_findings_are_the_ones_there_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (wrong|slow|note) \|", page, re.M)
    assert dict(listed) == {code: words.severity.value for code, words in WORDINGS.items()}


def test_of_int8_the_versions_are_named() -> None:
    snapshot = with_card(precision="int8", parity={**CARD.parity, **QUANTIZED})
    (finding,) = [f for f in examine([snapshot]) if f.code == "int8_versions"]
    assert "onnxruntime 1.32.0, and triton 2.73.0 serves it" in words_of(finding).what


@pytest.mark.parametrize(
    ("part", "precision", "parameters", "processor", "words"),
    [
        ("image", "fp32", PARAMETERS, AVX2, "computes it, in float32"),
        ("image", "bf16", BF16, AMX, "computes it, in bf16, on x86_64 with AMX"),
        ("image", "bf16", BF16, AVX2, "computes it, in float32, since x86_64 with AVX2 gains nothing by bf16"),
        ("image", "bf16", BF16, None, "computes it, in bf16 where its processor gains by it"),
        ("image", "int8", PARAMETERS, AVX2, "computes it, in int8, and the rest in float32"),
        ("image", "int8", BF16, AMX, "computes it, in int8, and the rest in bf16, on x86_64 with AMX"),
        ("text", "int8", PARAMETERS, AVX2, "computes it, in float32"),  # the gate left it so
    ],
)
def test_what_openvino_computes_a_tower_in_is_said(
    part: str, precision: str, parameters: dict[str, str], processor: Processor | None, words: str
) -> None:
    parts = {**MODEL.parts, part: replace(MODEL.parts[part], backend="openvino", parameters=parameters)}
    card = replace(CARD, precision=precision, parity={**CARD.parity, "text_precision": "fp32"})
    snapshot = replace(HEALTHY, models=(replace(MODEL, parts=parts, card=card),), processor=processor)
    (finding,) = [f for f in examine([snapshot]) if f.code == "openvino"]
    assert finding.where == f"m_{part}" and words_of(finding).what == f"OpenVINO {words}"


def test_the_gpus_that_tensorrt_is_not_told_of_are_named() -> None:
    groups = (InstanceGroup("KIND_GPU", 1, (0, 2)), InstanceGroup("KIND_GPU", 1, (1,)))
    (finding,) = [f for f in examine([with_tensorrt_on(groups, "2.56.0", gpus=3)]) if f.code == "tensorrt_one_gpu"]
    assert "on GPU 1, 2, and Triton 2.56.0" in words_of(finding).what


def test_a_finding_names_the_model_or_the_address() -> None:
    (finding,) = [f for f in examine([with_tower("text", batching=None)]) if f.code == "no_batching"]
    assert finding.where == "m_text"
    (finding,) = [f for f in examine([REMOTE]) if f.code == "grpc_unencrypted"]
    assert finding.where == ADDRESS
