"""The GPU benchmark where no registry is in reach: wheels are cut, joined, checked, and installed in a folder."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPT = ROOT / "benchmarks" / "gpu"
NAME = "carried_thing-1.0-py3-none-any.whl"
PIECES = 3


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module, which installs into a folder of the test, for a machine that has what it needs."""
    monkeypatch.syspath_prepend(str(SCRIPT))
    module = importlib.import_module("carried")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "installed")
    monkeypatch.setattr(module, "NEEDED", ("json",))
    yield module
    for name in ("carried", "environment"):
        sys.modules.pop(name, None)


@pytest.fixture
def wheels(carried: Any, tmp_path: Path) -> Path:
    """One wheel in three pieces, with its checksum."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / NAME
    described = "carried_thing-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("carried_thing.py", "WORD = 'installed'\n")
        file.writestr(f"{described}/METADATA", "Metadata-Version: 2.1\nName: carried_thing\nVersion: 1.0\n")
        file.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{described}/RECORD", "")
    data = wheel.read_bytes()
    (folder / carried.SUMS).write_text(f"{hashlib.sha256(data).hexdigest()}  {NAME}\n")
    carried._cut(wheel, -(-len(data) // PIECES))
    assert len(list(folder.glob(f"{NAME}.*"))) == PIECES and not wheel.exists()
    return folder


def piece(folder: Path, number: int) -> Path:
    return folder / f"{NAME}.{number:03}"


def test_pieces_are_joined_and_installed_before_the_machines_own(carried: Any, wheels: Path) -> None:
    carried._install(wheels)
    code = "import carried_thing; print(carried_thing.WORD)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(carried.FOLDER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "installed\n"
    assert list((carried.FOLDER / "wheels").iterdir()) == []


def test_they_are_installed_once(carried: Any, wheels: Path) -> None:
    carried._install(wheels)
    for number in range(PIECES):
        piece(wheels, number).unlink()
    carried._install(wheels)


def test_a_whole_wheel_needs_no_pieces(carried: Any, wheels: Path) -> None:
    (wheels / NAME).write_bytes(b"".join(piece(wheels, number).read_bytes() for number in range(PIECES)))
    for number in range(PIECES):
        piece(wheels, number).unlink()
    carried._install(wheels)
    assert (carried.FOLDER / "carried_thing.py").exists()


def test_a_damaged_piece_is_refused(carried: Any, wheels: Path) -> None:
    damaged = bytearray(piece(wheels, 1).read_bytes())
    damaged[5] ^= 1
    piece(wheels, 1).write_bytes(damaged)
    with pytest.raises(carried.CannotCarry, match=rf"^{NAME} in .*of 3 files, is not what was fetched: a piece "):
        carried._install(wheels)
    assert not (carried.FOLDER / "carried_thing.py").exists()


def test_a_missing_piece_is_refused(carried: Any, wheels: Path) -> None:
    piece(wheels, 2).unlink()
    with pytest.raises(carried.CannotCarry, match="of 2 files, is not what was fetched"):
        carried._install(wheels)


def test_a_wheel_that_was_not_carried_is_refused(carried: Any, wheels: Path) -> None:
    for number in range(PIECES):
        piece(wheels, number).unlink()
    with pytest.raises(carried.CannotCarry, match=rf"^{NAME} is not in .*: carry it there, whole or in "):
        carried._install(wheels)


@pytest.mark.parametrize(
    "line", ["abc  a.whl", f"{'0' * 64}  ../a.whl", f"{'0' * 64}  a.zip", f"{'0' * 64} a.whl"]
)
def test_a_line_that_is_no_checksum_of_a_wheel_is_refused(carried: Any, wheels: Path, line: str) -> None:
    (wheels / carried.SUMS).write_text(line + "\n")
    with pytest.raises(carried.CannotCarry, match="no checksum of a wheel"):
        carried._install(wheels)


def test_cuda_of_the_machine_lies_beside_onnxruntime(
    carried: Any, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's packages install it: a folder `nvidia` without a file that makes it a package."""
    library = tmp_path / "site" / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    carried._install(wheels)
    assert (carried.FOLDER / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9").exists()


def test_a_python_without_torch_is_refused(carried: Any, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "NEEDED", ("json", "no_such_torch"))
    with pytest.raises(carried.CannotCarry, match="lacks no_such_torch, which --fetch leaves to the machine"):
        carried.run_with(wheels, [])
    assert not carried.FOLDER.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wheels", "none", "--cpu"], "name a folder that  benchmarks/gpu --fetch  has written"),
        (["--fetch", "."], "is not empty: name a new folder for the wheels"),
    ],
)
def test_a_wrong_folder_is_one_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "something").touch()
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("benchmarks/gpu: ") and said in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["something"]
