"""Reading of a graph: its fingerprint counts every weight's bytes, wherever they are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from clipdex.base.errors import CheckpointError
from clipdex_export.onnx_sources.graph import external_files, graph_sha256, load_weights, read_graph

VALUES = np.arange(4, dtype=np.float32)


def inner(weights: list[Any], name: str) -> Any:
    output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [4])
    node = helper.make_node("Identity", [weights[0].name], [f"{name}_out"])
    return helper.make_graph([node], name, [], [output], initializer=weights)


def initializer(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Identity", [tensor.name], ["y"])], [tensor]


def constant(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Constant", [], ["y"], value=tensor)], []


def branch(tensor: Any) -> tuple[list[Any], list[Any]]:
    other = numpy_helper.from_array(VALUES, "other")
    then, otherwise = inner([tensor], "then"), inner([other], "else")
    return [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)], []


def branch_of_a_branch(tensor: Any) -> tuple[list[Any], list[Any]]:
    nodes, _ = branch(tensor)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    middle = helper.make_graph(nodes, "middle", [], [output])
    other = inner([numpy_helper.from_array(VALUES, "another")], "last")
    return [helper.make_node("If", ["c"], ["z"], then_branch=middle, else_branch=other)], []


def several_tensors(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Many", [], ["y"], values=[numpy_helper.from_array(VALUES, "w0"), tensor])], []


def several_graphs(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Many", [], ["y"], bodies=[inner([tensor], "body")])], []


PLACES = [initializer, constant, branch, branch_of_a_branch, several_tensors, several_graphs]
Place = Callable[[Any], tuple[list[Any], list[Any]]]


def written(folder: Path, place: Place, tensor: Any, sparse: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    nodes, weights = place(tensor)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [condition], [output], initializer=weights, sparse_initializer=sparse)
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return folder / "m.onnx"


def external(location: str = "w.bin") -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def fingerprint(path: Path) -> str:
    return graph_sha256(read_graph(path, "m.onnx"), path, "m.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_the_fingerprint_counts_the_bytes_of_weights_in_other_files(place: Place, tmp_path: Path) -> None:
    path = written(tmp_path / "outside", place, external())
    weights = path.parent / "w.bin"
    weights.write_bytes(VALUES.tobytes())
    one = fingerprint(path)
    weights.write_bytes((VALUES + 1).tobytes())
    assert fingerprint(path) != one
    weights.write_bytes(VALUES.tobytes())
    assert fingerprint(path) == one
    # Whether they are inside makes no difference.
    assert fingerprint(written(tmp_path / "inside", place, numpy_helper.from_array(VALUES, "w"))) == one
    model = read_graph(path, "m.onnx")
    load_weights(model, path, "m.onnx")
    weights.unlink()
    assert graph_sha256(model, path, "m.onnx") == one


def test_a_location_that_no_runtime_reads_does_not_hide_the_weights(tmp_path: Path) -> None:
    found = []
    for values in (VALUES, VALUES + 1):
        tensor = numpy_helper.from_array(values, "w")
        tensor.external_data.add(key="location", value="w.bin")
        path = written(tmp_path, initializer, tensor)
        (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
        found.append(fingerprint(path))
    assert found[0] != found[1]


@pytest.mark.parametrize("place", PLACES)
def test_weights_in_other_files_are_found_and_refused_elsewhere(place: Place, tmp_path: Path) -> None:
    path = written(tmp_path, place, external())
    assert external_files(read_graph(path, "m.onnx"), "m.onnx") == ("w.bin",)
    for location in ("../w.bin", "/etc/passwd", "folder/w.bin", ""):
        model = read_graph(written(tmp_path, place, external(location)), "m.onnx")
        for call in (lambda: external_files(model, "m.onnx"), lambda: graph_sha256(model, path, "m.onnx")):  # noqa: B023
            with pytest.raises(CheckpointError, match="expected a file beside it"):
                call()


def test_texts_count_by_their_letters() -> None:
    """NumPy holds texts by reference: as bytes, an array of them is where they were in memory."""

    def hashed(*texts: str) -> str:
        tensor = helper.make_tensor("words", TensorProto.STRING, [len(texts)], [text.encode() for text in texts])
        y = helper.make_tensor_value_info("y", TensorProto.STRING, [len(texts)])
        graph = helper.make_graph([helper.make_node("Identity", ["words"], ["y"])], "g", [], [y], [tensor])
        return graph_sha256(helper.make_model(graph), Path("model.onnx"), "here")

    assert hashed("one", "two" * 50) == hashed("one", "two" * 50)
    assert len({hashed("one", "two"), hashed("onet", "wo"), hashed("two", "one")}) == 3


def sparse_tensor() -> Any:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [4])


def sparse_constant(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Constant", [], ["y"], sparse_value=sparse_tensor())], []


def sparse_attributes(tensor: Any) -> tuple[list[Any], list[Any]]:
    return [helper.make_node("Many", [], ["y"], values=[sparse_tensor()])], []


def sparse_branch(tensor: Any) -> tuple[list[Any], list[Any]]:
    nodes, _ = branch(tensor)
    nodes[0].attribute[0].g.sparse_initializer.append(sparse_tensor())
    return nodes, []


@pytest.mark.parametrize("place", [initializer, sparse_constant, sparse_attributes, sparse_branch])
def test_sparse_weights_are_refused_wherever_they_are(place: Place, tmp_path: Path) -> None:
    sparse = [sparse_tensor()] if place is initializer else None
    path = written(tmp_path, place, numpy_helper.from_array(VALUES, "w"), sparse)
    assert onnx.load(path).graph.node
    with pytest.raises(CheckpointError) as caught:
        read_graph(path, "m.onnx")
    assert str(caught.value) == ("m.onnx has sparse weights; expected dense ones: export the model without them")
