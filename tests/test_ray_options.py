"""`clipdex index --engine ray` where there is no Ray, or none that answers: a sentence, and nothing is started."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipdex import Client
from clipdex.cli import connection_options as connection
from clipdex.pipeline.engines import ray_cluster
from clipdex.pipeline.engines.ray_engine import Resources, _Speaker, require_room
from clipdex.wire import FakeTransport

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: Path) -> None:
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ray, as far as it is asked before anything answers."""
    found = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setattr(ray_cluster, "_started_here", lambda: None)
    return found


def refused(run: Run, *words: str) -> str:
    status, out, err = run("index", "pictures", "--out", "x.parts", *words)
    assert (status, out) == (1, "") and err.count("\n") == 1, err
    assert not Path("x.parts").exists()
    return err


def test_without_ray_the_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    err = refused(run, "--parts", "2", "--engine", "ray")
    assert err.startswith("clipdex: --engine ray needs ray: run ") and "[ray]" in err


@pytest.mark.parametrize(
    "words, what",
    [
        (("--ray-address", "auto"), "--ray-address is for --engine ray"),
        (("--part-cpus", "2"), "--part-cpus is for --engine ray"),
        (("--engine", "ray"), "x.parts has no parts yet; give their number as --parts N"),
        (("--engine", "ray", "--parts", "2", "--part", "1"), "cannot be used with --part 1"),
        (("--engine", "ray", "--parts", "2", "--refresh-metadata"), "cannot be used with --refresh-metadata"),
        (
            ("--engine", "ray", "--parts", "2", "--ray-address", "auto"),
            "no Ray cluster was started on this machine",
        ),
        (("--engine", "ray", "--parts", "2", "--ray-address", "head"), "expected HOST:PORT of a cluster's head"),
        (("--engine", "ray", "--parts", "2", "--ray-address", "ray://head:10001"), "Ray Client is not supported"),
        (
            ("--engine", "ray", "--parts", "2", "--server", "a:1", "--serve-on-workers", "models"),
            "--server a:1 and --serve-on-workers models are both given",
        ),
        (("--engine", "ray", "--parts", "2", "--serve-on-workers", "models"), "models"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_options_that_do_not_fit_are_a_sentence(
    run: Run, ray: SimpleNamespace, words: tuple[str, ...], what: str
) -> None:
    assert what in refused(run, *words)


def test_an_address_at_which_nothing_listens_is_told_at_once(run: Run, ray: SimpleNamespace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    err = refused(run, "--engine", "ray", "--parts", "2", "--ray-address", place)
    assert f"no Ray cluster answers at {place} (Connection refused); give the address of its head" in err


class Board:
    """An actor that is slow: `words` have arrived, `futures` say whether they were read."""

    def __init__(self) -> None:
        self.words: list[object] = []
        self.futures: list[Future[None]] = []
        self.put = SimpleNamespace(remote=self._take)

    def _take(self, number: int, progress: object) -> SimpleNamespace:
        self.words.append(progress)
        self.futures.append(Future())
        return SimpleNamespace(future=lambda: self.futures[-1])


def test_a_part_speaks_only_when_its_last_word_has_arrived_and_never_waits_for_that() -> None:
    board = Board()
    speak = _Speaker(board, 0, 0.0)
    for word in range(3):
        speak(word)  # type: ignore[arg-type]
    assert board.words == [0]
    board.futures[0].set_exception(RuntimeError("the actor is gone"))
    speak(3)  # type: ignore[arg-type]
    assert board.words == [0, 3]


def test_a_part_that_no_node_has_room_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 9.0, "GPU": 1.0}}]
    ray = SimpleNamespace(nodes=lambda: nodes)
    require_room(ray, Resources(2), is_ours=True)
    assert not caplog.records
    with pytest.raises(ValueError, match="3 CPUs and 0 GPUs, and no node has both: this machine has 2 CPUs"):
        require_room(ray, Resources(3), is_ours=True)
    require_room(ray, Resources(1, 1), is_ours=False)  # it may grow
    assert "waiting for one that has" in caplog.text
