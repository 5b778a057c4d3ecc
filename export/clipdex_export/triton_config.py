"""The three `config.pbtxt` of a model, with comments for those who read and tune them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from clipdex.model.assets import SHA256_PARAMETER
from clipdex.model.card import ModelCard
from clipdex.wire.runtimes.choice import BF16_PARAMETER, PRECISION_PARAMETER
from clipdex.wire.transport import FINGERPRINT_PARAMETER
from clipdex_export.accelerators import TowerInput, accelerator, gpu_parameters, warm_up
from clipdex_export.precisions import find_precision
from clipdex_export.targets import Serving

__all__ = ["FINGERPRINT_PARAMETER", "assets_config", "image_config", "text_config"]

Leading = Sequence[tuple[str, tuple[int, ...]]]

_TOWER = """\
# {title}
# Exported by clipdex from {source}; the fields are explained in docs/model-repository.md.
name: "{name}"
backend: "{backend}"{file_name}

# A request carries 1 to max_batch_size rows: one more dimension, in front of those below.
max_batch_size: {max_batch_size}
input [ {{ name: "{input}", data_type: {data_type}, dims: [ {dims} ] }} ]
output [ {{ name: "embedding", data_type: TYPE_FP32, dims: [ {embedding_dim} ] }} ]

# Small requests that arrive close together run as one batch. A full batch in one request is taken without a copy.
# No preferred_batch_size: some Triton releases then build batches of one row too many. No default_queue_policy:
# with a max_queue_size or a timeout, Triton's batcher overlooks a request now and then, for half a second.
dynamic_batching {{
  max_queue_delay_microseconds: {delay_us}
}}

# {where}
instance_group [ {{ count: {instances}, kind: {kind} }} ]

{runtime}# The identity of the embedding space. The same in {base}_image, {base}_text and {base}_assets.
parameters {{ key: "{fingerprint_key}", value: {{ string_value: "{fingerprint}" }} }}
{accelerator}{warm_up}"""

_FILE_NAME = """
# OpenVINO's own default is model.xml.
default_model_filename: "model.onnx\""""

_ONNXRUNTIME = """\
# On a CPU, "0" lets ONNX Runtime use all physical cores; lower it where two models share them.
parameters { key: "intra_op_thread_count", value: { string_value: "0" } }
parameters { key: "inter_op_thread_count", value: { string_value: "1" } }
# 1 = heuristic. Left out, a GPU would search exhaustively for every new batch size, seconds each.
parameters { key: "cudnn_conv_algo_search", value: { string_value: "1" } }
"""

_OPENVINO = """\
# "0": all cores that the process may use; lower it where two models share them.
parameters { key: "INFERENCE_NUM_THREADS", value: { string_value: "0" } }
# One batch at a time, on all threads. More streams need more copies (instance_group), and memory for each.
parameters { key: "NUM_STREAMS", value: { string_value: "1" } }
parameters { key: "PERFORMANCE_HINT", value: { string_value: "LATENCY" } }
# For Triton's C++ backend, which computes full batches only, and fills up the others: docs/cpu.md. clipdex's own
# takes batches of any size, and ignores this.
parameters { key: "ENABLE_BATCH_PADDING", value: { string_value: "YES" } }
"""

_BF16 = """\
# What the card allows: products in bfloat16, where the processor gains by it (AMX, or AMD's AVX512_BF16).
parameters { key: "%s", value: { string_value: "YES" } }
"""

_INT8 = """\
# On a CPU, whichever runtime is faster there for int8 files computes it: docs/cpu.md.
parameters { key: "%s", value: { string_value: "int8" } }
"""

# The comment about a tower's copies, by the kind of its instance group.
_WHERE = {
    "KIND_AUTO": "on each GPU, or on the CPU where there is none",
    "KIND_CPU": "on the CPU; each would use all cores",
    "KIND_GPU": "on each GPU; two keep it busy between batches, for twice the memory",
}

_ASSETS = """\
# The model card and tokenizer of {base}: a byte range of a zip with card.json and tokenizer.json.
# Exported by clipdex from {source}; the fields are explained in docs/model-repository.md.
name: "{name}"
backend: "onnxruntime"

# 0: the inputs are two numbers, not a batch.
max_batch_size: 0
input [
  {{ name: "start", data_type: TYPE_INT64, dims: [ 1 ] }},
  {{ name: "end", data_type: TYPE_INT64, dims: [ 1 ] }}
]
output [ {{ name: "bytes", data_type: TYPE_UINT8, dims: [ -1 ] }} ]

# Copying bytes is no work for a GPU, nor for a second thread.
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
parameters {{ key: "intra_op_thread_count", value: {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count", value: {{ string_value: "1" }} }}

# Of the {size:,} bytes of the zip: a client that has them cached does not fetch them again.
parameters {{ key: "{sha256_key}", value: {{ string_value: "{sha256}" }} }}
# The identity of the embedding space. The same in {base}_image, {base}_text and {base}_assets.
parameters {{ key: "{fingerprint_key}", value: {{ string_value: "{fingerprint}" }} }}
"""


def image_config(
    card: ModelCard,
    max_batch_size: int,
    serving: Serving | None = None,
    leading: Leading = (),
    file_sha256: str = "",
) -> str:
    """Return the config.pbtxt of NAME_image. leading, file_sha256: for TensorRT, see TowerInput."""
    side = card.image.size
    return _tower(
        card,
        suffix="image",
        title=f"Pictures to unit vectors: RGB, {side} × {side}, not normalised.",
        max_batch_size=max_batch_size,
        given=TowerInput("pixels", "TYPE_UINT8", (side, side, 3), "random_data", leading, file_sha256),
        serving=serving or Serving(),
        precision=card.precision,
        # The GPU time of a few pictures, and little compared with the milliseconds that a single picture takes.
        delay_us=100,
    )


def text_config(
    card: ModelCard, max_batch_size: int, serving: Serving | None = None, file_sha256: str = ""
) -> str:
    """Return the config.pbtxt of NAME_text. file_sha256: for TensorRT, see TowerInput."""
    length = card.text.context_length
    return _tower(
        card,
        suffix="text",
        title=f"Token ids, {length} a text, to unit vectors.",
        max_batch_size=max_batch_size,
        # Zeros: random numbers would not be valid token ids.
        given=TowerInput("token_ids", "TYPE_INT32", (length,), "zero_data", file_sha256=file_sha256),
        serving=serving or Serving(),
        precision=card.text_precision,
        # Short, since a person is waiting for the answer to a query.
        delay_us=100,
    )


def assets_config(card: ModelCard, data: bytes) -> str:
    """Return the config.pbtxt of NAME_assets, whose zip is `data`."""
    return _ASSETS.format(
        name=f"{card.name}_assets",
        base=card.name,
        source=_one_line(card.source),
        size=len(data),
        sha256_key=SHA256_PARAMETER,
        sha256=hashlib.sha256(data).hexdigest(),
        fingerprint_key=FINGERPRINT_PARAMETER,
        fingerprint=card.fingerprint,
    )


def _tower(
    card: ModelCard,
    *,
    suffix: str,
    title: str,
    max_batch_size: int,
    given: TowerInput,
    serving: Serving,
    precision: str,
    delay_us: int,
) -> str:
    """precision: of this tower's file; the card's is that of the model."""
    name = f"{card.name}_{suffix}"
    copies = "One copy" if serving.instances == 1 else f"{serving.instances} copies"
    return _TOWER.format(
        name=name,
        base=card.name,
        title=title,
        source=_one_line(card.source),
        max_batch_size=max_batch_size,
        input=given.name,
        data_type=given.data_type,
        dims=", ".join(map(str, given.dims)),
        embedding_dim=card.embedding_dim,
        delay_us=delay_us,
        where=f"{copies} of the weights {_WHERE[serving.target.kind]}.",
        instances=serving.instances,
        kind=serving.target.kind,
        backend=serving.target.backend,
        file_name=_FILE_NAME if serving.target.backend == "openvino" else "",
        runtime=_runtime(serving, card.precision, precision),
        fingerprint_key=FINGERPRINT_PARAMETER,
        fingerprint=card.fingerprint,
        accelerator=accelerator(serving, name, given, card.precision, max_batch_size),
        warm_up=warm_up(serving, given, max_batch_size),
    )


def _runtime(serving: Serving, allowed: str, precision: str) -> str:
    """Return a tower's parameters for the runtime. allowed: the model's precision; precision: this tower's."""
    target = serving.target
    own = _OPENVINO if target.backend == "openvino" else _ONNXRUNTIME
    if target.name in find_precision(allowed, target.name).bf16_on:
        own += _BF16 % BF16_PARAMETER
    elif precision == "int8":
        own += _INT8 % PRECISION_PARAMETER
    return own + gpu_parameters(serving)


def _one_line(source: str) -> str:
    """Remove line breaks from a path, which would end the comment that it is part of."""
    return " ".join(source.split())
