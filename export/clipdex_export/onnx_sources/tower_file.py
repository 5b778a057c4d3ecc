"""One tower in an ONNX file: which input takes pictures or token ids, and which output is the embedding.

It refuses a file of the other tower, an output before the projection, quantized weights, and operators that only
one runtime knows, each with one sentence.

Quantized files are refused because they make a vector depend on its neighbours: they quantize activations by the
range of the whole batch, and a server puts strangers into one batch. `--precision int8` quantizes the full file by
ranges measured once, and the gate compares that with the full file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clipdex.base.errors import CheckpointError
from clipdex_export.onnx_sources.graph import Tensor, graph_sha256, inputs_of, outputs_of, read_graph

if TYPE_CHECKING:
    import onnx

__all__ = ["MaskRule", "TowerFile", "TowerKind"]

TowerKind: TypeAlias = Literal["image", "text"]
# The tokens that the mask covers: the graph has no mask, every token, all but padding, or all up to the first end.
MaskRule: TypeAlias = Literal["none", "ones", "not_padding", "until_end"]

# Outputs that are an embedding, by the tools that write them: transformers' names, Immich's, the older Immich's.
_EMBEDDINGS = {
    "image": ("image_embeds", "embedding", "image_embedding", "image_features", "sentence_embedding"),
    "text": ("text_embeds", "embedding", "text_embedding", "text_features", "sentence_embedding"),
}
# Outputs that are not: hidden states, and what is pooled from them before the projection.
_NOT_EMBEDDINGS = ("last_hidden_state", "pooler_output", "hidden_states", "logits", "attentions")
# Beside the ids: what a tokenizer of transformers gives. Types are all zeros for a single text.
_MASK, _TYPES = "attention_mask", "token_type_ids"
_QUANTIZED = {
    "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QuantizeLinear", "DequantizeLinear", "QLinearMatMul",
    "QLinearConv", "MatMulNBits", "MatMulBnb4", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention",
    "GatherBlockQuantized",
}  # fmt: skip


@dataclass(frozen=True)
class TowerFile:
    """A tower in an ONNX file.

    where: its name for messages. given: its input for pictures or ids. output: the embedding's name.
    mask: the input for the attention mask, if any. zeros: inputs that are zero for every text.
    others: further inputs that the file needs, if it holds the other tower too.
    rows: the batch size that it is fixed to; None if it takes any. freed: whether it is rewritten to take any.
    vocabulary: the number of ids that it knows; None if unknown.
    half: whether its weights are float16.
    sha256: hash of everything that determines its results.
    """

    kind: TowerKind
    path: Path
    where: str
    given: Tensor
    output: str
    output_kind: int
    mask: Tensor | None = None
    zeros: tuple[Tensor, ...] = ()
    others: tuple[Tensor, ...] = ()
    rows: int | None = None
    freed: bool = False
    vocabulary: int | None = None
    half: bool = False
    sha256: str = field(default="", repr=False)

    @classmethod
    def read(cls, path: Path, kind: TowerKind, where: str, *, pooled: bool) -> TowerFile:
        """Read a tower's graph.

        Args:
            path: the ONNX file.
            kind: which tower is wanted.
            where: the file's name for messages.
            pooled: whether its `pooler_output` is the embedding, as in SigLIP, which has no projection.

        Raises:
            CheckpointError: it is not that tower, or not one that can be adopted.
        """
        model = read_graph(path, where)
        _refuse_quantized(model, where)
        _refuse_domains(model, where)
        given, mask, zeros, others = _inputs(model, kind, where)
        output = _embedding(model, kind, where, pooled=pooled)
        if others and output.name not in _reached(model.graph, {given.name, *(t.name for t in zeros)}):
            raise CheckpointError(f"{where}: its output {output.name} does not depend on {given.name}")
        return cls(
            kind=kind,
            path=path,
            where=where,
            given=given,
            output=output.name,
            output_kind=output.kind,
            mask=mask,
            zeros=zeros,
            others=others,
            rows=given.dims[0] if given.dims is not None else None,
            vocabulary=_vocabulary(model.graph, given.name) if kind == "text" else None,
            half=_is_half(model.graph),
            sha256=graph_sha256(model, path, where),
        )

    @property
    def row_by_row(self) -> bool:
        """Whether the tower computes the rows of a batch one after another."""
        return self.rows is not None and not self.freed

    @property
    def side(self) -> int | None:
        """The side of an image tower's pictures in pixels, if the graph fixes it."""
        return self.given.dims[-1] if self.given.dims is not None else None

    @property
    def length(self) -> int | None:
        """The number of a text tower's tokens, if the graph fixes it."""
        return self.given.dims[1] if self.given.dims is not None else None


def _inputs(
    model: onnx.ModelProto, kind: TowerKind, where: str
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the main input, the mask, inputs of zeros, and those of the other tower."""
    inputs = inputs_of(model)
    pictures = [tensor for tensor in inputs if _takes_pictures(tensor)]
    ids = [tensor for tensor in inputs if _takes_ids(tensor) and tensor.name not in (_MASK, _TYPES)]
    mask = next((tensor for tensor in inputs if tensor.name == _MASK), None)
    types = tuple(tensor for tensor in inputs if tensor.name == _TYPES)
    beside = {_MASK, _TYPES}
    unknown = [t.name for t in inputs if t not in pictures and t not in ids and t.name not in beside]
    wanted, other = (pictures, ids) if kind == "image" else (ids, pictures)
    if not wanted and other:
        takes, expected = ("token ids", "pictures") if kind == "image" else ("pictures", "token ids")
        raise CheckpointError(
            f"{where} takes {takes} ({other[0].name}); expected the {kind} tower, which takes {expected}: are the "
            "two files swapped?"
        )
    if len(wanted) != 1 or unknown or len(other) > 1:
        listed = ", ".join(f"{tensor.name} {_dims(tensor)}" for tensor in inputs)
        one = "one of pictures, float (B, 3, S, S)" if kind == "image" else "one of token ids, integers (B, L)"
        raise CheckpointError(f"{where} has the inputs {listed}; expected {one}")
    main = wanted[0]
    if kind == "image":
        _check_square(main, where)
        rest = (*other, *((mask,) if mask else ()), *types)
        return main, None, (), rest
    return main, mask, types, tuple(other)


def _takes_pictures(tensor: Tensor) -> bool:
    from onnx import TensorProto

    return tensor.kind in (TensorProto.FLOAT, TensorProto.FLOAT16) and tensor.rank == 4


def _takes_ids(tensor: Tensor) -> bool:
    from onnx import TensorProto

    return tensor.kind in (TensorProto.INT64, TensorProto.INT32) and tensor.rank == 2


def _check_square(tensor: Tensor, where: str) -> None:
    assert tensor.dims is not None
    _, channels, height, width = tensor.dims
    if channels not in (3, None) or height != width:
        raise CheckpointError(
            f"{where} takes pictures of {_dims(tensor)}; expected three channels first, and a square: (B, 3, S, S)"
        )


def _embedding(model: onnx.ModelProto, kind: TowerKind, where: str, *, pooled: bool) -> Tensor:
    """Return the output that is the embedding."""
    outputs = {tensor.name: tensor for tensor in outputs_of(model)}
    names = (*_EMBEDDINGS[kind], *(("pooler_output",) if pooled else ()))
    for name in names:
        if name in outputs and outputs[name].rank in (2, None):
            return outputs[name]
    # An export by hand may give its only output any name.
    rest = [t for t in outputs.values() if not t.name.startswith(_NOT_EMBEDDINGS) and t.rank == 2]
    if len(rest) == 1 and len(outputs) == 1:
        return rest[0]
    listed = ", ".join(f"{tensor.name} {_dims(tensor)}" for tensor in outputs.values())
    raise CheckpointError(
        f"{where} has the outputs {listed}, and none is the embedding after the projection; expected "
        f"{names[0]}: give the {kind} tower with its projection"
    )


def _dims(tensor: Tensor) -> str:
    if tensor.dims is None:
        return "(…)"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in tensor.dims) + ")"


def _refuse_quantized(model: onnx.ModelProto, where: str) -> None:
    found = sorted({node.op_type for node in _nodes(model.graph)} & _QUANTIZED)
    if found:
        raise CheckpointError(
            f"{where} is quantized ({', '.join(found)}): a vector would depend on what else is in its batch, and "
            "there is nothing to compare it with; give the file in full precision, and quantize that with  "
            "--precision int8"
        )


def _refuse_domains(model: onnx.ModelProto, where: str) -> None:
    foreign = {node.domain: node.op_type for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")}
    if foreign:
        named = ", ".join(f"{op_type} of {domain}" for domain, op_type in sorted(foreign.items()))
        raise CheckpointError(
            f"{where} has operators that are not plain ONNX ({named}): it was optimized for one runtime; give the "
            "file as it was exported"
        )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _is_half(graph: Any) -> bool:
    """Return whether the matrices are float16."""
    from onnx import TensorProto

    kinds = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) >= 2]
    floats = [kind for kind in kinds if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    return floats.count(TensorProto.FLOAT16) * 2 > len(floats)


def _reached(graph: Any, names: set[str]) -> set[str]:
    """Return these tensors, and all that are computed from them."""
    found = set(names)
    for node in graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _vocabulary(graph: Any, ids: str) -> int | None:
    """Return the number of rows of the matrix that token ids choose from, if the graph shows it plainly."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer if len(tensor.dims) == 2}
    same = {ids}
    for node in graph.node:
        if node.op_type in ("Cast", "Reshape", "Identity") and node.input[0] in same:
            same.update(node.output)
        elif node.op_type == "Gather" and node.input[0] in weights and node.input[1] in same:
            return int(weights[node.input[0]][0])
    return None
