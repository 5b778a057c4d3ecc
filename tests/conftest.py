"""Fixtures that several files use. Nothing here imports more than the base install when it is loaded."""

from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
from PIL import Image

import clipdex
from clipdex import Failure
from clipdex.wire import FakeTransport

if TYPE_CHECKING:
    from clipdex_server import LocalTriton

ROOT = Path(__file__).resolve().parent.parent
MODEL_REPOSITORY = ROOT / "model_repository"


T = TypeVar("T")


def present(value: T | None) -> T:
    """A value that the test expects to be there."""
    assert value is not None
    return value


def no_failure(failure: Failure) -> None:
    """For what asks whom to tell of a file that cannot be read: there shall be none."""
    pytest.fail(f"unexpected: {failure}")


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, which some tests press."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that pytest would import only to deselect them.

    With `-m "thin and ..."`, those that need more than the base install; with `-m "not slow"`, those that are
    slow as a whole, most of which import torch.
    """
    if collection_path.suffix == ".py":
        wanted, text = config.option.markexpr, collection_path.read_text()
        if wanted.startswith("thin") and "pytest.mark.thin" not in text:
            return True
        if "not slow" in wanted and re.search(r"^pytestmark = .*pytest\.mark\.slow", text, re.M):
            return True
    return None


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no settings of the person who runs it."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPDEX_CACHE", str(directory))
    monkeypatch.delenv("CLIPDEX_SERVER", raising=False)
    for setting in ("MODEL", "INDEX", "TOKEN", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_NAME"):
        monkeypatch.delenv(f"CLIPDEX_{setting}", raising=False)
    return directory


@pytest.fixture
def fake() -> Iterator[clipdex.Client]:
    with clipdex.Client(FakeTransport()) as client:
        yield client


@once
def _get_command() -> Any:
    """Typer's own, which makes the commands, but once: that takes longer than most of them."""
    import typer.main

    return once(typer.main.get_command)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def update(transport: FakeTransport, tmp_path: Path) -> Callable[..., tuple[clipdex.RunReport, int]]:
    """Bring the index tmp_path/x up to date with a source -> (the report, how many pictures were embedded)."""

    def embedded() -> int:
        return sum(rows for model, rows in transport.requests if model == "fake_image")

    def update(source: Any, **options: Any) -> tuple[clipdex.RunReport, int]:
        before = embedded()
        with clipdex.Client(transport) as client:
            report = clipdex.index_pictures(client, source, tmp_path / "x", workers=2, **options)
        assert report.discovered == report.indexed + report.unchanged + report.failed
        return report, embedded() - before

    return update


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a `clipdex` command in this process -> (exit status, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        import typer.main

        from clipdex.cli import main

        monkeypatch.setattr(typer.main, "get_command", _get_command())
        monkeypatch.setattr(sys, "argv", ["clipdex", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return status, out, err

    return run


@pytest.fixture
def not_for_ever() -> Iterator[None]:
    """End what hangs once the test's timer is up, 30 s if it sets none: opening a FIFO waits for its other end."""

    def end(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 30)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """One real Triton for the whole session, serving the committed model."""
    from clipdex_server import LocalTriton

    with LocalTriton(MODEL_REPOSITORY, stop_timeout_s=0) as server:
        yield server


@pytest.fixture(scope="session")
def family_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny checkpoint of every family -> what to give to an export, by the names of tiny_families.FAMILIES."""
    from tiny_families import FAMILIES

    return {case: write(tmp_path_factory.mktemp(case) / "checkpoint") for case, write in FAMILIES.items()}


@pytest.fixture(scope="session")
def onnx_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A small repository of ready-made ONNX, by its name in onnx_layouts.LAYOUTS -> what to give to an export.

    Tracing takes long: the processes of one test run share them.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "onnx"

    def write(case: str) -> str:
        from onnx_layouts import source_of, write_layout

        shared.mkdir(exist_ok=True)
        with (shared / f"{case}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = shared / f"{case}.done"
            if not done.exists():
                write_layout(case, shared / case)
                done.touch()
        return source_of(case, shared / case)

    return once(write)


@pytest.fixture(scope="session")
def known_sides() -> dict[Any, Any]:
    """What PyTorch made of a checkpoint, by all that it depends on."""
    return {}


@pytest.fixture(scope="module")
def pytorch_once(known_sides: dict[Any, Any]) -> Iterator[None]:
    """For modules that export one checkpoint many times: the gate asks PyTorch once, and on one thread.

    For networks as small as these, the second thread is all waiting.
    """
    torch = pytest.importorskip("torch")
    from clipdex_export import gate

    ask, threads = gate.checkpoint_side, torch.get_num_threads()

    def side(checkpoint: Any, pictures: Any, texts: Any) -> Any:
        specs = (checkpoint.image.spec, checkpoint.text.spec, checkpoint.text.tokenizer_json)
        key = (checkpoint.source, checkpoint.weights_sha256, *specs, len(pictures), len(texts))
        if key not in known_sides:
            known_sides[key] = ask(checkpoint, pictures, texts)
        return known_sides[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "checkpoint_side", side)
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture like no other."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """The file of a picture of noise."""
    buffer = io.BytesIO()
    noise(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve pictures, three of them in a subfolder."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i in range(9):
        noise(i).save(folder / f"{i}.png")
    for i in range(9, 12):
        noise(i).save(folder / "more" / f"{i}.jpg")
    return folder


def unit_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
