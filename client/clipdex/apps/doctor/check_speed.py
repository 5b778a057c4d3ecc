"""Checks of a setup for speed.

The limits are deliberately coarse: what they catch costs a multiple, not a few per cent.
"""

from __future__ import annotations

from collections.abc import Iterator

from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Model, Snapshot
from clipdex.wire.inspect.findings import InspectedModel

__all__ = ["CHECKS", "WORDINGS"]

WRONG, SLOW, NOTE = Severity.WRONG, Severity.SLOW, Severity.NOTE

WORDINGS = {
    "gpu_unused": Words(
        SLOW,
        "it runs on the CPU ({kinds}) although the machine has a GPU",
        "A GPU embeds pictures many times faster.",
        "Export with  --target cuda  or set instance_group to KIND_GPU; see docs/gpu.md.",
    ),
    "gpu_idle": Words(
        SLOW,
        "it is set to run on a GPU, but no GPU has more than {megabytes} MB of its memory in use",
        "If CUDA does not start, ONNX Runtime computes on the CPU, and only the server's log says so.",
        "Look for CPUExecutionProvider and for errors about CUDA in the server's log; see docs/gpu.md.",
    ),
    "gpu_unknown": Words(
        NOTE,
        "it runs on the CPU, and whether there is a GPU could not be checked: no metrics answer at {metrics}",
        "Only the metrics show the GPUs of another machine.",
        "Give their address:  --metrics HOST:PORT",
    ),
    "batch_small": Words(
        SLOW,
        "its batches hold at most {rows} rows",
        "That is too few to keep a GPU or CPU busy, and each batch has its own cost.",
        "Raise max_batch_size in its config.pbtxt: 64 is a good start.",
    ),
    "no_batching": Words(
        SLOW,
        "it has no dynamic_batching",
        "Small requests from many users are computed one by one.",
        "Add dynamic_batching to its config.pbtxt, as an export writes it.",
    ),
    "preferred_batch_size": Words(
        WRONG,
        "preferred_batch_size is set by hand: {sizes}",
        "Some Triton releases then build batches one row larger than max_batch_size, which fail (server#8141).",
        "Remove it: Triton prefers full batches by itself.",
    ),
    "delay_long": Words(
        SLOW,
        "a request waits up to {milliseconds} ms for others to share its batch",
        "Every lone query pays for it; under load, batches fill without it.",
        "Set max_queue_delay_microseconds to 100.",
    ),
    "delay_none": Words(
        NOTE,
        "max_queue_delay_microseconds is 0",
        "Only requests that are already waiting share a batch: short answers, but small batches at light load.",
        "Set 100 if many small requests arrive at once.",
    ),
    "queue_policy": Words(
        NOTE,
        "its default_queue_policy has {bounds}",
        "With such limits, Triton's batcher occasionally overlooks a request for half a second "
        "(docs/performance.md).",
        "Remove the policy, unless strangers could fill the queue.",
    ),
    "queue_short": Words(
        SLOW,
        "its queue holds {size} requests; keeping {instances} instances busy takes {busy}",
        "Clients are refused while instances are idle.",
        "Raise max_queue_size to several times {busy}.",
    ),
    "queue_large": Words(
        SLOW,
        "its queue of {size} full batches may hold {gigabytes} GB",
        "Under load, the server may run out of memory before the queue is full.",
        "Lower max_queue_size, or max_batch_size.",
    ),
    "cpu_instances": Words(
        SLOW,
        "there are {count} instances of it on the CPU, each using all cores",
        "They compete for the cores, and each holds a copy of the weights.",
        "Set count: 1, or divide the cores with intra_op_thread_count.",
    ),
    "gpu_instances": Words(
        SLOW,
        "there are {count} instances of it on one GPU",
        "Two keep a GPU busy between batches; more only hold further copies of the weights.",
        "Set count: 2.",
    ),
    "batches_of_one": Words(
        SLOW,
        "its batches had {rows} rows on average over {requests} requests, which waited {queued} ms each "
        "and were computed in {computed} ms",
        "Requests that wait at the same time are computed one after the other.",
        "Check dynamic_batching and max_batch_size in its config.pbtxt.",
    ),
    "requests_alone": Words(
        NOTE,
        "its batches had {rows} rows on average over {requests} requests; they hardly waited ({queued} ms)",
        "That is normal for lone queries. For bulk work, it wastes most of the model's speed.",
        "Send full batches, or send from many threads at once.",
    ),
    "conv_search_gpu": Words(
        SLOW,
        "it has parameters, but cudnn_conv_algo_search is missing or exhaustive",
        "ONNX Runtime then searches exhaustively for every new batch size: seconds at each first use.",
        'Add  parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}',
    ),
    "conv_search": Words(
        NOTE,
        "it has parameters, but cudnn_conv_algo_search is missing or exhaustive",
        "On a GPU, ONNX Runtime would search exhaustively for every new batch size.",
        'Add  parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}',
    ),
    "no_warm_up": Words(
        SLOW,
        "it is on a GPU and has no model_warmup",
        "The first requests wait for kernels to load and, with TensorRT, minutes for an engine to be built.",
        "Add model_warmup with a full batch and one row; an export for cuda or tensorrt writes it.",
    ),
    "tensorrt_no_cache": Words(
        SLOW,
        "TensorRT does not cache its engines",
        "They are built again at every start of the server, which takes minutes.",
        "Set trt_engine_cache_enable and trt_engine_cache_path; see docs/gpu.md.",
    ),
    "tensorrt_no_profile": Words(
        SLOW,
        "TensorRT was not told the batch sizes to expect: {missing} missing",
        "It builds another engine at the first request of every new size: half a minute or more each.",
        "Set the three trt_profile_*_shapes; an export for tensorrt writes them.",
    ),
    "time_of_one": Words(
        NOTE,
        "one row takes {total} ms: {queued} waiting, {computed} computing, {outside} in transit",
        "Transit is gRPC, the network, and preparing the request.",
        "",
    ),
    "lone_request_waits": Words(
        SLOW,
        "a lone request waits {queued} ms in the queue",
        "No other request was there to share its batch: the delay is too long, or others keep the model busy.",
        "Check max_queue_delay_microseconds, and who else uses the server.",
    ),
    "far_away": Words(
        NOTE,
        "of the {total} ms that one row takes, {outside} are spent in transit",
        "The network, or a proxy, may take longer than the model.",
        "Bulk runs hide it; queries do not. Move the client closer to the server.",
    ),
}


_DELAY_US = 5_000  # longer than a GPU takes for several pictures
_SMALL_BATCH = 8
_ENOUGH_REQUESTS = 200
_ALONE = 1.5  # rows per batch
_QUEUE_BYTES = 8 << 30
_MANY_ON_A_GPU = 4
_LONE_WAIT_S = 0.005
_FAR_S = 0.020
# An estimate: Triton's own CUDA context and pool take some 500 MB; with ONNX Runtime's libraries and weights it is
# a GB or more.
_GPU_IDLE_BYTES = 768 << 20
_TENSORRT_PROFILE = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


def _towers(snapshot: Snapshot) -> Iterator[tuple[Model, str, InspectedModel]]:
    for model in snapshot.models:
        for part, tower in model.towers.items():
            yield model, part, tower


def device(snapshot: Snapshot) -> Iterator[Finding]:
    """Check for models on the CPU although there is a GPU, or although their configuration says otherwise."""
    used = max((gpu.memory_used for gpu in snapshot.metrics.gpus if gpu.memory_total), default=None)
    for _, _, tower in _towers(snapshot):
        if tower.on_gpu:
            # If CUDA does not start, ONNX Runtime falls back to the CPU, and only the log says so.
            if used is not None and used < _GPU_IDLE_BYTES:
                yield Finding("gpu_idle", tower.name, {"megabytes": used // 10**6})
        else:
            if snapshot.gpu_there:
                yield Finding("gpu_unused", tower.name, {"kinds": _kinds(tower)})
            elif snapshot.gpu_there is None:
                yield Finding("gpu_unknown", tower.name, {"metrics": snapshot.metrics.address})


def batching(snapshot: Snapshot) -> Iterator[Finding]:
    """Check whether requests may share a batch, and how long they wait for others."""
    for _, _, tower in _towers(snapshot):
        if tower.max_batch_size == 0:
            continue  # batch_in_dims says so
        if tower.max_batch_size < _SMALL_BATCH:
            yield Finding("batch_small", tower.name, {"rows": tower.max_batch_size})
        found = tower.batching
        if found is None:
            yield Finding("no_batching", tower.name)
            continue
        if found.preferred:
            yield Finding("preferred_batch_size", tower.name, {"sizes": ", ".join(map(str, found.preferred))})
        if found.delay_us > _DELAY_US:
            yield Finding("delay_long", tower.name, {"milliseconds": f"{found.delay_us / 1e3:g}"})
        elif found.delay_us == 0:
            yield Finding("delay_none", tower.name)


def queue(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that a bounded queue holds enough to keep all instances busy, and no more than fits in memory."""
    for model, part, tower in _towers(snapshot):
        if tower.batching is None or tower.max_batch_size == 0:
            continue
        size, busy = tower.batching.queue_size, 2 * tower.instances
        row_bytes = model.trials[part].full_bytes // tower.max_batch_size if part in model.trials else 0
        full = size * tower.max_batch_size * row_bytes
        bounds = [f"max_queue_size {size}"] if size else []
        if tower.batching.queue_timeout_us:
            bounds.append(f"a timeout of {tower.batching.queue_timeout_us / 1e3:g} ms")
        if bounds:
            yield Finding("queue_policy", tower.name, {"bounds": " and ".join(bounds)})
        if 0 < size < busy:
            yield Finding("queue_short", tower.name, {"size": size, "busy": busy, "instances": tower.instances})
        elif full > _QUEUE_BYTES:
            yield Finding("queue_large", tower.name, {"size": size, "gigabytes": f"{full / 1e9:.0f}"})


def instances(snapshot: Snapshot) -> Iterator[Finding]:
    """Check for instances that only compete for cores or memory."""
    for _, _, tower in _towers(snapshot):
        on_cpu = sum(group.count for group in tower.groups if group.kind == "KIND_CPU")
        on_a_gpu = max((group.count for group in tower.groups if group.kind == "KIND_GPU"), default=0)
        all_cores = tower.parameters.get("intra_op_thread_count", "0") in ("", "0")
        if on_cpu > 1 and all_cores:
            yield Finding("cpu_instances", tower.name, {"count": on_cpu})
        if on_a_gpu > _MANY_ON_A_GPU:
            yield Finding("gpu_instances", tower.name, {"count": on_a_gpu})


def executed_batches(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that requests that waited were computed together."""
    for _, _, tower in _towers(snapshot):
        counted = tower.statistics
        if counted.requests < _ENOUGH_REQUESTS or counted.mean_batch >= _ALONE:
            continue
        facts = {
            "requests": f"{counted.requests:,}",
            "rows": f"{counted.mean_batch:.1f}",
            "queued": f"{counted.queue_ns / counted.requests / 1e6:.1f}",
            "computed": f"{counted.compute_ns / counted.requests / 1e6:.1f}",
        }
        # Waiting longer than the delay means that there were others to share a batch with.
        delay_ns = 1e3 * (tower.batching.delay_us if tower.batching else 0)
        waited = counted.queue_ns / counted.requests > delay_ns + 0.5 * counted.compute_ns / counted.requests
        yield Finding("batches_of_one" if waited else "requests_alone", tower.name, facts)


def gpu_settings(snapshot: Snapshot) -> Iterator[Finding]:
    """Check the settings that matter on a GPU."""
    for _, part, tower in _towers(snapshot):
        search = tower.parameters.get("cudnn_conv_algo_search")
        # Without a parameters block the backend leaves ONNX Runtime's own default alone.
        if tower.backend == "onnxruntime" and tower.parameters and search in (None, "0") and part == "image":
            yield Finding("conv_search_gpu" if tower.on_gpu else "conv_search", tower.name)
        if tower.on_gpu and not tower.warm_ups:
            yield Finding("no_warm_up", tower.name)
        tensorrt = tower.accelerators.get("tensorrt")
        if tensorrt is not None:
            if tensorrt.get("trt_engine_cache_enable", "0") not in ("1", "true"):
                yield Finding("tensorrt_no_cache", tower.name)
            missing = [key for key in _TENSORRT_PROFILE if not tensorrt.get(key)]
            if missing:
                yield Finding("tensorrt_no_profile", tower.name, {"missing": ", ".join(missing)})


def time_of_one(snapshot: Snapshot) -> Iterator[Finding]:
    """Check whether a lone request waits, for a batch or in transit."""
    for model, part, tower in _towers(snapshot):
        trial = model.trials.get(part)
        if trial is None or trial.single is None:
            continue
        single = trial.single
        facts = {
            "total": f"{1e3 * single.round_trip_s:.1f}",
            "queued": f"{1e3 * single.queue_s:.1f}",
            "computed": f"{1e3 * single.compute_s:.1f}",
            "outside": f"{1e3 * single.outside_s:.1f}",
        }
        yield Finding("time_of_one", tower.name, facts)
        if single.queue_s > _LONE_WAIT_S:
            yield Finding("lone_request_waits", tower.name, facts)
        if single.outside_s > _FAR_S:
            yield Finding("far_away", tower.name, facts)


def _kinds(tower: InspectedModel) -> str:
    return ", ".join(sorted({group.kind for group in tower.groups})) or "no instance group"


CHECKS = (device, batching, queue, instances, executed_batches, gpu_settings, time_of_one)
