"""Parts that an engine makes: what is started when, tried again or given up; and what a node does with a part."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import clipdex
from clipdex import Client, Index
from clipdex.base.errors import PartFailed, PartLost
from clipdex.index.part_plan import PartPlan
from clipdex.pipeline.engines import schedule
from clipdex.pipeline.engines.overall import Overall
from clipdex.pipeline.engines.part_job import PartJob, PartOutcome, Recipe, make_part
from clipdex.pipeline.engines.schedule import Effort, make_parts
from clipdex.pipeline.index_parts import opened_plan
from clipdex.pipeline.report import Progress, RunReport
from clipdex.sources import open_sources
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

HERE = Path("x.parts")


def made(rows: int = 3) -> PartOutcome:
    return PartOutcome("made", "node", RunReport(rows, rows, 0, 0, 0, 0, rows, 1.0, 3.0, {}, "wire"))


class Played:
    """An engine that answers what it is told to, part by part, try by try; then that the part was made."""

    def __init__(self, **answers: list[PartOutcome | Exception]) -> None:
        self.answers = {int(name[1:]): deque(each) for name, each in answers.items()}
        self.started: list[tuple[int, int]] = []
        self.most = self.at_work = 0
        self.stopped: list[int] = []
        self.said: dict[int, Progress] = {}
        self.at_wait: Callable[[], None] = lambda: None

    def start(self, number: int, attempt: int) -> int:
        self.started.append((number, attempt))
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        return number

    def wait(self, running: Sequence[int], seconds: float) -> Sequence[int]:
        self.at_wait()
        return running[:1]

    def outcome(self, handle: int) -> PartOutcome:
        self.at_work -= 1
        answers = self.answers.get(handle)
        answer = answers.popleft() if answers else made()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def news(self) -> Mapping[int, Progress]:
        return self.said

    def stop(self, running: Sequence[int]) -> None:
        self.stopped += running


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "PAUSE_S"):
        monkeypatch.setattr(schedule, name, 0.0)


def run(
    engine: Played, parts: int, *, most: int = 9, retries: int = 3, tell: Any = None, total: int | None = None
) -> dict[int, RunReport]:
    return make_parts(engine, range(parts), HERE, Effort(most, retries), Overall(parts, tell, lambda: total))


def test_all_parts_are_made_a_few_at_a_time() -> None:
    engine = Played()
    assert sorted(run(engine, 7, most=3)) == list(range(7))
    assert engine.most == 3
    assert engine.started == [(number, 0) for number in range(7)]


def test_a_part_whose_node_is_lost_is_started_again_and_no_other_is() -> None:
    engine = Played(p1=[PartLost("its node is gone"), PartOutcome("may_pass", "b", why="no answer")])
    assert len(run(engine, 3)) == 3
    assert sorted(engine.started) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_a_part_that_is_lost_too_often_is_named_with_the_reason() -> None:
    engine = Played(p1=[PartLost("its node is gone")] * 3)
    with pytest.raises(
        PartFailed, match=r"part 1 of x\.parts failed 3 times, last: its node is gone; 2 parts of 3"
    ):
        run(engine, 3, retries=2)


def test_after_a_part_that_fails_for_good_those_at_work_are_finished_and_no_other_is_started() -> None:
    engine = Played(p0=[PartOutcome("failed", "b", why="/photos: no such folder")])
    with pytest.raises(PartFailed) as raised:
        run(engine, 5, most=2)
    assert "part 0 of x.parts failed on the node b: /photos: no such folder; 1 part of 5 is up to date" in str(
        raised.value
    )
    assert [number for number, _ in engine.started] == [0, 1]
    assert engine.at_work == 0 and not engine.stopped


def test_a_part_that_another_process_has_not_let_go_of_yet_is_no_failure() -> None:
    engine = Played(p0=[PartOutcome("locked", "b", why="another process")] * 50)
    assert len(run(engine, 1, retries=0)) == 1


def test_a_part_that_another_process_keeps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LOCK_PATIENCE_S", 0.02)
    engine = Played(p0=[PartOutcome("locked", "b", why="part 0 is written to by another process")] * 10**6)
    with pytest.raises(PartFailed, match="part 0 is written to by another process"):
        run(engine, 1)


def test_ctrl_c_stops_what_is_at_work() -> None:
    engine = Played()

    def press() -> None:
        raise KeyboardInterrupt

    engine.at_wait = press
    with pytest.raises(KeyboardInterrupt):
        run(engine, 4, most=2)
    assert engine.stopped == [0, 1]


def test_progress_is_that_of_all_parts_together() -> None:
    heard: list[Progress] = []
    engine = Played()
    engine.said = {0: Progress(2, 1, 0, None, 5.0, waiting=4), 1: Progress(1, 0, 1, None, 5.0, stage="scanning")}
    run(engine, 2, tell=heard.append, total=6, most=1)
    first, last = heard[0], heard[-1]
    # Part 0 had ended by then, and what it had said before counts no longer.
    assert (first.indexed, first.done, first.total, first.stage) == (4, 5, 6, "scanning")
    assert (last.done, last.total, last.waiting, last.stage) == (6, 6, 0, "committing")


def job(pictures: Path, out: Path, client: Client, **given: Any) -> PartJob:
    recipe = Recipe(partial(open_sources, [pictures]), fake_server, "", {"workers": 1})
    plan = opened_plan(client.card, recipe.open_source(), out, 2, None, "float16", None, None)
    return PartJob(recipe, str(out), plan, **given)


def fake_server(address: str) -> Client:
    return Client(FakeTransport(name="fake", embedding_dim=int(address or 8)))


@pytest.mark.slow
def test_a_node_makes_its_part_from_a_job_that_travels(fake: Client, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.parts"
    told = pickle.loads(pickle.dumps(job(pictures, out, fake)))
    heard: list[Progress] = []
    outcomes = [make_part(told, number, heard.append) for number in (1, 0)]
    assert [each.ended for each in outcomes] == ["made", "made"]
    assert sum(each.report.rows for each in outcomes if each.report) == 12
    assert all(progress.total is None for progress in heard)  # one counts for all, and not each part
    clipdex.index_pictures(fake, pictures, tmp_path / "one", workers=1)
    assert content(out) == content(tmp_path / "one")


def content(index: Path) -> dict[bytes, bytes]:
    with Index.open(index) as opened:
        return {path: opened.vectors[row].tobytes() for row, path in opened.live_paths()}


def test_a_node_says_in_a_sentence_why_it_cannot_make_a_part(fake: Client, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.parts"
    ready = job(pictures, out, fake)
    recipe = ready.recipe

    def told(**changed: Any) -> PartOutcome:
        values: dict[str, Any] = {
            "recipe": recipe,
            "directory": str(out),
            "plan": ready.plan,
            "version": ready.version,
        } | changed
        outcome = make_part(PartJob(**values), 0)
        assert "\n" not in outcome.why and outcome.node
        return outcome

    away = Recipe(partial(open_sources, [tmp_path / "away"]), fake_server, "", {})
    assert told(recipe=away).why.endswith("every node must have the source at this path")
    assert "file system that all share" in told(directory=str(tmp_path / "other")).why
    another = PartPlan(3, ready.plan.fingerprint, ready.plan.model, 8)
    assert "file system that all share" in told(plan=another).why
    assert "install the same version on every node" in told(version="0.0").why
    wrong = told(recipe=Recipe(recipe.open_source, fake_server, "4", {}))
    assert wrong.ended == "failed" and "is planned for the model fake" in wrong.why
    silent = Recipe(recipe.open_source, partial(clipdex.connect, timeout_s=1.0), "127.0.0.1:1", {})
    assert told(recipe=silent).ended == "may_pass"
    broken = Recipe(recipe.open_source, int, "x", {})  # type: ignore[arg-type]
    assert "internal error: ValueError" in told(recipe=broken).why
    assert not list(out.glob("part-*")) and not list(out.glob(".part-*.building"))


@pytest.mark.slow
def test_a_part_at_which_another_process_is_at_work_is_locked(
    fake: Client, pictures: Path, tmp_path: Path
) -> None:
    ready = job(pictures, tmp_path / "x.parts", fake)
    met: list[str] = []

    def meanwhile(progress: Progress) -> None:
        if not met:
            met.append("")
            met[0] = make_part(ready, 0).ended

    make_part(ready, 0, meanwhile)
    assert met == ["locked"]
