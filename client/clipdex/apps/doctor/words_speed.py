"""The words for what `check_speed` finds."""

from __future__ import annotations

from clipdex.apps.doctor.finding import Severity, Words

__all__ = ["WORDINGS"]

WRONG, SLOW, NOTE = Severity.WRONG, Severity.SLOW, Severity.NOTE

WORDINGS = {
    "gpu_unused": Words(
        SLOW,
        "it runs on the CPU ({kinds}) although the machine has a GPU",
        "A GPU embeds many times as many pictures.",
        "Export with  --target cuda  or set instance_group to KIND_GPU; see docs/gpu.md.",
    ),
    "gpu_idle": Words(
        SLOW,
        "it is set to run on a GPU, but no GPU has more than {megabytes} MB of its memory in use",
        "Where CUDA does not start, ONNX Runtime computes on the CPU, and only the server's log says so.",
        "Look for CPUExecutionProvider and for errors about CUDA in the server's log; see docs/gpu.md.",
    ),
    "gpu_unknown": Words(
        NOTE,
        "it runs on the CPU, and whether there is a GPU could not be checked: nothing answers at {metrics}",
        "Only the metrics tell of GPUs on another machine.",
        "Name them:  --metrics HOST:PORT",
    ),
    "batch_small": Words(
        SLOW,
        "its batches hold {rows} rows at most",
        "Neither GPU nor CPU is full with so few, and each batch has its own cost.",
        "Raise max_batch_size in its config.pbtxt: 64 is a good start.",
    ),
    "no_batching": Words(
        SLOW,
        "it has no dynamic_batching",
        "Small requests of many users are computed one by one.",
        "Add dynamic_batching to its config.pbtxt, as an export writes it.",
    ),
    "preferred_batch_size": Words(
        WRONG,
        "preferred_batch_size is set by hand: {sizes}",
        "Some Triton releases then build batches of a row more than max_batch_size, which fail (server#8141).",
        "Remove it: Triton prefers full batches by itself.",
    ),
    "delay_long": Words(
        SLOW,
        "a request waits up to {milliseconds} ms for others to share its batch",
        "Every lone query pays for it; under load batches fill without.",
        "Set max_queue_delay_microseconds to 100.",
    ),
    "delay_none": Words(
        NOTE,
        "max_queue_delay_microseconds is 0",
        "Only requests that wait already share a batch: short answers, and small batches at light load.",
        "Set 100 if many small requests arrive at once.",
    ),
    "queue_policy": Words(
        NOTE,
        "its default_queue_policy has {bounds}",
        "With bounds Triton's batcher overlooks a request now and then, for half a second (docs/performance.md).",
        "Remove the policy, unless strangers could fill the queue.",
    ),
    "queue_short": Words(
        SLOW,
        "its queue holds {size} requests; {instances} instances are busy with {busy}",
        "Clients are refused while instances idle.",
        "Raise max_queue_size to several times {busy}.",
    ),
    "queue_large": Words(
        SLOW,
        "its queue of {size} full batches may hold {gigabytes} GB",
        "Under load the server's memory may be at its end before the queue is.",
        "Lower max_queue_size, or max_batch_size.",
    ),
    "cpu_instances": Words(
        SLOW,
        "there are {count} instances of it on the CPU, each using all cores",
        "They take the cores from each other, and each holds the weights.",
        "Set count: 1, or share the cores out with intra_op_thread_count.",
    ),
    "gpu_instances": Words(
        SLOW,
        "there are {count} instances of it on one GPU",
        "Two keep a GPU busy between batches; more only hold the weights again.",
        "Set count: 2.",
    ),
    "batches_of_one": Words(
        SLOW,
        "its batches had {rows} rows on average over {requests} requests, which waited {queued} ms each "
        "and were computed in {computed} ms",
        "Requests that wait beside each other are computed one after the other.",
        "Look at dynamic_batching and max_batch_size in its config.pbtxt.",
    ),
    "requests_alone": Words(
        NOTE,
        "its batches had {rows} rows on average over {requests} requests; they hardly waited ({queued} ms)",
        "That is as it should be for lone queries. For bulk work it wastes most of the model's speed.",
        "Send full batches, or from many threads at once.",
    ),
    "conv_search_gpu": Words(
        SLOW,
        "it has parameters, but cudnn_conv_algo_search is not among them, or exhaustive",
        "ONNX Runtime then searches exhaustively for every new batch size: seconds at each first use.",
        'Add  parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}',
    ),
    "conv_search": Words(
        NOTE,
        "it has parameters, but cudnn_conv_algo_search is not among them, or exhaustive",
        "On a GPU, ONNX Runtime would search exhaustively for every new batch size.",
        'Add  parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}',
    ),
    "no_warm_up": Words(
        SLOW,
        "it is on a GPU and has no model_warmup",
        "The first requests wait for kernels to load, and with TensorRT for an engine to be built: minutes.",
        "Add model_warmup with a full batch and one row; an export for cuda or tensorrt writes it.",
    ),
    "tensorrt_no_cache": Words(
        SLOW,
        "TensorRT does not keep its engines",
        "They are built anew at every start of the server: minutes.",
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
        "one row takes {total} ms: {queued} waiting, {computed} computing, {outside} on the way",
        "On the way is gRPC, the network, and preparing the request.",
        "",
    ),
    "lone_request_waits": Words(
        SLOW,
        "a lone request waits {queued} ms in the queue",
        "Nobody was there to share its batch: the delay is too long, or others keep the model busy.",
        "Look at max_queue_delay_microseconds, and at who else uses the server.",
    ),
    "far_away": Words(
        NOTE,
        "of the {total} ms that one row takes, {outside} are spent on the way",
        "The network, or a proxy, takes longer than the model might.",
        "Bulk runs hide it; queries do not. Put the client nearer to the server.",
    ),
}
