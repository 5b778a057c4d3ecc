"""A deployment in order, and ways to change it: what the doctor's tests start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clipdex.apps.doctor import Snapshot, examine
from clipdex.apps.doctor.snapshot import Exposure, Gpu, Metrics, Model, Single, Trial
from clipdex.model.card import ImageSpec, ModelCard, TextSpec
from clipdex.wire.inspect.findings import Batching, InspectedModel, InspectedServer, InstanceGroup, Tensor
from clipdex.wire.transport import ModelStatistics

ADDRESS = "gpu-1:8001"
CARD = ModelCard(
    name="m",
    source="somewhere",
    revision="",
    weights_sha256="1" * 64,
    embedding_dim=512,
    image=ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3),
    text=TextSpec(77, 1, 1, "none", "2" * 64),
    logit_scale=100.0,
    logit_bias=0.0,
    precision="fp16",
    parity={"floor": 0.999, "image_cosine_min": 0.9999, "text_cosine_min": 0.9998, "random_weights": 0},
)
PARAMETERS = {"cudnn_conv_algo_search": "1", "clipdex_fingerprint": CARD.fingerprint}
TENSORRT = {
    "trt_engine_cache_enable": "1",
    "trt_engine_cache_prefix": "m_image_0123456789abcdef",
    "trt_profile_min_shapes": "pixels:1x224x224x3",
    "trt_profile_opt_shapes": "pixels:64x224x224x3",
    "trt_profile_max_shapes": "pixels:64x224x224x3",
}
EMBEDDING = (Tensor("embedding", "FP32", (512,)),)
ON_GPU = (InstanceGroup("KIND_GPU", 2, (0,)),)
ON_CPU = (InstanceGroup("KIND_CPU", 1),)


def tower(part: str = "image") -> InspectedModel:
    """One on a GPU, as an export for CUDA is served."""
    pixels, token_ids = Tensor("pixels", "UINT8", (224, 224, 3)), Tensor("token_ids", "INT32", (77,))
    return InspectedModel(
        name=f"m_{part}",
        backend="onnxruntime",
        max_batch_size=64,
        inputs=(pixels if part == "image" else token_ids,),
        outputs=EMBEDDING,
        groups=ON_GPU,
        batching=Batching(delay_us=500),
        parameters=PARAMETERS,
        accelerators={"cuda": {"use_tf32": "0"}},
        warm_ups=(64, 1),
    )


ASSETS = InspectedModel(
    name="m_assets",
    backend="onnxruntime",
    max_batch_size=0,
    inputs=(Tensor("start", "INT64", (1,)), Tensor("end", "INT64", (1,))),
    outputs=(Tensor("bytes", "UINT8", (-1,)),),
    groups=ON_CPU,
    batching=None,
    parameters={"clipdex_fingerprint": CARD.fingerprint},
)
TRIAL = Trial(dim=512, single=Single(0.004, 0.0006, 0.002), full_bytes=9_633_792, norm=1.00001)
MODEL = Model(
    name="m",
    parts={"image": tower("image"), "text": tower("text"), "assets": ASSETS},
    card=CARD,
    assets_sha256="a" * 64,
    stated_sha256="a" * 64,
    trials={"image": TRIAL, "text": TRIAL},
)
HEALTHY = Snapshot(
    address=ADDRESS,
    server=InspectedServer(
        name="triton",
        version="2.73.0",
        ready=True,
        models=("m_assets", "m_image", "m_text"),
        unready={},
        system_memory=False,
        cuda_memory=False,
        model_control=False,
        settings=False,
    ),
    exposure=Exposure(local=True),
    metrics=Metrics("gpu-1:8002", reachable=True, asked=False, gpus=(Gpu("GPU-1", 3 << 30, 24 << 30),)),
    models=(MODEL,),
)
# Said of every deployment that was tried.
ALWAYS = {"time_of_one"}


def with_model(**changes: Any) -> Snapshot:
    return replace(HEALTHY, models=(replace(MODEL, **changes),))


def with_tower(part: str = "image", **changes: Any) -> Snapshot:
    parts = {**MODEL.parts, part: replace(MODEL.parts[part], **changes)}
    return with_model(parts=parts)


def with_batching(**changes: Any) -> Snapshot:
    return with_tower(batching=Batching(**{"delay_us": 500, **changes}))


def with_parameters(part: str = "image", **changes: str | None) -> Snapshot:
    """None removes one."""
    parameters = {**MODEL.parts[part].parameters, **changes}
    return with_tower(part, parameters={k: v for k, v in parameters.items() if v is not None})


def with_card(**changes: Any) -> Snapshot:
    return with_model(card=replace(CARD, **changes))


def with_parity(**changes: Any) -> Snapshot:
    return with_card(parity={**CARD.parity, **changes})


def with_trial(**changes: Any) -> Snapshot:
    return with_model(trials={"image": replace(TRIAL, **changes)})


def with_single(round_trip_s: float, queue_s: float, compute_s: float) -> Snapshot:
    return with_trial(single=Single(round_trip_s, queue_s, compute_s))


def with_gpus(*gpus: Gpu) -> Snapshot:
    return replace(HEALTHY, metrics=replace(HEALTHY.metrics, gpus=gpus))


def with_server(**changes: Any) -> Snapshot:
    return replace(HEALTHY, server=replace(HEALTHY.server, **changes))


def with_exposure(snapshot: Snapshot = HEALTHY, **changes: Any) -> Snapshot:
    return replace(snapshot, exposure=replace(snapshot.exposure, **changes))


def with_tensorrt(**changes: str) -> Snapshot:
    options = {key: value for key, value in {**TENSORRT, **changes}.items() if value}
    return with_tower(accelerators={"tensorrt": options, "cuda": {"use_tf32": "0"}})


def with_tensorrt_on(groups: tuple[InstanceGroup, ...], version: str, gpus: int = 2) -> Snapshot:
    """Several GPUs of a server of that version, instances of one tower on some of them."""
    (model,) = with_tensorrt().models
    image = replace(model.parts["image"], groups=groups)
    metrics = replace(HEALTHY.metrics, gpus=tuple(Gpu(f"GPU-{i}", 3 << 30, 24 << 30) for i in range(gpus)))
    return replace(
        with_server(version=version),
        metrics=metrics,
        models=(replace(model, parts={**model.parts, "image": image}),),
    )


def with_precision(precision: str, accelerators: Mapping[str, Mapping[str, str]]) -> Snapshot:
    """An image tower with these accelerators, of a card in this precision."""
    (model,) = with_tower(accelerators=accelerators).models
    return replace(HEALTHY, models=(replace(model, card=replace(CARD, precision=precision)),))


def with_counted(batches: Mapping[int, int], *, queue_ms: float, compute_ms: float) -> Snapshot:
    """Requests of one row each, computed in these batches; times are a request's."""
    requests = sum(rows * count for rows, count in batches.items())
    counted = ModelStatistics(
        requests=requests,
        rows=requests,
        batches=batches,
        queue_ns=int(requests * queue_ms * 1e6),
        compute_ns=int(requests * compute_ms * 1e6),
    )
    return with_tower(statistics=counted)


def codes(*snapshots: Snapshot) -> set[str]:
    """What is found, but for what is always said."""
    return {finding.code for finding in examine(snapshots)} - ALWAYS
