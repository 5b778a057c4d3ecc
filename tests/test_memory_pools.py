"""The pinned pool follows from what is in flight, and only where there is a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MODEL_REPOSITORY

pytest.importorskip("tritonclient.grpc")

from clipdex.wire.model_config import from_message, read_config
from clipdex_server.command import ServeOptions, command_line
from clipdex_server.memory_pools import gpu_count, in_flight_bytes, pinned_pool_bytes
from clipdex_server.triton_binary import TritonBinary

IMAGE, TEXT = 64 * (64 * 64 * 3 + 128 * 4), 64 * (32 * 4 + 128 * 4)  # bytes of a full batch, in and out


def large(repository: Path, *, count: int = 2, kind: str = "KIND_GPU", gpus: str = "") -> Path:
    (repository / "l_image").mkdir(parents=True)
    (repository / "l_image" / "config.pbtxt").write_text(
        f"""name: "l_image" backend: "onnxruntime" max_batch_size: 256
        input [ {{ name: "pixels" data_type: TYPE_UINT8 dims: [ 336, 336, 3 ] }} ]
        output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ 768 ] }} ]
        instance_group [ {{ count: {count} kind: {kind} {gpus} }} ]"""
    )
    return repository


def test_two_full_batches_for_each_instance() -> None:
    assert in_flight_bytes(MODEL_REPOSITORY, None, gpus=1) == 2 * (IMAGE + TEXT)
    assert in_flight_bytes(MODEL_REPOSITORY, None, gpus=4) == 4 * 2 * (IMAGE + TEXT)
    assert in_flight_bytes(MODEL_REPOSITORY, ["demo_image"], gpus=1) == 2 * IMAGE


def test_instances_and_the_gpus_they_are_on(tmp_path: Path) -> None:
    batch = 256 * (336 * 336 * 3 + 768 * 4)
    assert in_flight_bytes(large(tmp_path / "all"), None, gpus=3) == 2 * 2 * 3 * batch
    assert in_flight_bytes(large(tmp_path / "one", gpus="gpus: [ 1 ]"), None, gpus=3) == 2 * 2 * batch
    assert in_flight_bytes(large(tmp_path / "cpu", kind="KIND_CPU"), None, gpus=3) == 0


def test_a_client_keeps_the_instances_on_all_gpus_busy(tmp_path: Path) -> None:
    four = large(tmp_path / "four", gpus="gpus: [ 0, 1, 2, 3 ]") / "l_image" / "config.pbtxt"
    assert from_message(read_config(four)).instance_count == 8
    one = large(tmp_path / "cpu", count=0, kind="KIND_CPU") / "l_image" / "config.pbtxt"
    assert from_message(read_config(one)).instance_count == 1


def test_the_pool_is_never_smaller_than_tritons_own(tmp_path: Path) -> None:
    assert pinned_pool_bytes(MODEL_REPOSITORY, None, gpus=1) == 256 << 20
    repository = large(tmp_path, count=4)
    assert pinned_pool_bytes(repository, None, gpus=2) == in_flight_bytes(repository, None, 2) > 256 << 20


def test_without_a_gpu_there_is_no_pool() -> None:
    assert pinned_pool_bytes(MODEL_REPOSITORY, None, gpus=0) is None


def test_a_configuration_that_cannot_be_read_is_left_to_triton(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.pbtxt").write_text("max_batch_size: many")
    assert in_flight_bytes(tmp_path, None, gpus=1) == 0


def test_gpus_are_counted_by_their_devices(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 2
    assert gpu_count(tmp_path / "none") == 0


@pytest.mark.parametrize("size", [None, 1 << 30])
def test_the_flag(size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipdex_server.command._usage", lambda triton: "")
    options = ServeOptions(
        Path("/models"), "127.0.0.1", 8001, None, None, None, True, 10.0, pinned_pool_bytes=size
    )
    triton = TritonBinary.__new__(TritonBinary)
    object.__setattr__(triton, "path", Path("/bin/tritonserver"))
    command = command_line(triton, options, backend_directory=None, shared_memory_prefix="x")
    flags = [word for word in command if "pinned" in word]
    assert flags == ([] if size is None else [f"--pinned-memory-pool-byte-size={size}"])
