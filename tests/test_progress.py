"""The progress of a run: its total, its stages, a step for each picture, and one rate for bar and summary."""

import io
import re
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import noise
from rich.console import Console
from rich.progress import BarColumn
from rich.progress_bar import ProgressBar

import clipdex
from clipdex import Client, Progress, index_pictures
from clipdex.cli import progress as shown
from clipdex.cli.printing import Verbosity, set_verbosity
from clipdex.cli.run_outcome import run_sentence
from clipdex.pipeline import run as running
from clipdex.pipeline.picture_count import PictureCount
from clipdex.sources import PathList, open_source
from clipdex.wire import FakeTransport


@pytest.fixture
def told(monkeypatch):
    """Every report of a run over a source -> reports."""
    monkeypatch.setattr(running, "_REPORT_S", 0.0)

    def told(source: Any, index: Path) -> list[Progress]:
        reports: list[Progress] = []
        with Client(FakeTransport(max_batch_size=4)) as client:
            vars(told)["report"] = index_pictures(client, source, index, workers=1, progress=reports.append)
        return reports

    return told


@pytest.fixture
def loud():
    yield set_verbosity
    set_verbosity(Verbosity.NORMAL)


def test_the_total_of_a_list_is_known_from_the_first_report_on(told, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(PictureCount, "_count", lambda count: None)  # which goes through the source once more
    paths = [bytes(path) for path in sorted(pictures.rglob("*.*"))] + [b"gone.png"]
    reports = told(PathList(paths, "list"), tmp_path / "x")
    assert {report.total for report in reports} == {13}
    assert reports[-1].done == 13


def test_the_total_of_a_table_of_pictures_is_known_from_the_first_report_on(told, tmp_path, monkeypatch):
    monkeypatch.setattr(PictureCount, "_count", lambda count: None)
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cells = []
    for i in range(6):
        file = io.BytesIO()
        noise(i).save(file, "PNG")
        cells.append(file.getvalue())
    pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet")
    reports = told(open_source(tmp_path / "t.parquet"), tmp_path / "x")
    assert {report.total for report in reports} == {6}


def test_the_total_of_a_folder_is_known_before_the_run_is_over(told, pictures, tmp_path):
    reports = told(pictures, tmp_path / "x")
    assert [report.total for report in reports if report.indexed][-1] == 12
    assert reports[-1].done == 12


def test_a_step_is_what_has_just_been_decoded_and_not_a_batch(told, pictures, tmp_path):
    reports = told(pictures, tmp_path / "x")
    steps = [after.done + after.waiting - before.done - before.waiting for before, after in pairwise(reports)]
    assert min(steps) >= 0
    assert max(steps) < 12
    assert sum(steps) + reports[0].done + reports[0].waiting == 12
    assert max(report.waiting for report in reports) > 1
    assert reports[-1].waiting == 0


def test_the_stages_come_in_order(told, pictures, tmp_path):
    stages = [report.stage for report in told(pictures, tmp_path / "x")]
    assert list(dict.fromkeys(stages)) == ["scanning", "embedding", "committing"]
    assert stages == sorted(stages, key=["scanning", "embedding", "committing"].index)


def test_the_last_rate_that_a_bar_shows_is_that_of_the_summary(told, pictures, tmp_path):
    last = told(pictures, tmp_path / "x")[-1]
    report = told.report
    assert last.images_per_s == report.images_per_s > 0
    sentence = run_sentence(report, tmp_path / "x")
    ((seconds, busy),) = re.findall(r"in ([\d.]+) s \(indexing took ([\d.]+) s: ", sentence)
    assert shown.shown_rate(last.images_per_s) in sentence
    assert float(busy) == pytest.approx(report.indexed / last.images_per_s, abs=0.06)
    assert float(busy) <= float(seconds) + 0.1


def test_a_slow_rate_has_a_decimal():
    assert [shown.shown_rate(rate) for rate in (0.42, 9.99, 10.4, 1234.5)] == [
        "0.4 images/s",
        "10.0 images/s",
        "10 images/s",
        "1234 images/s",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of a hundred columns -> what is on it."""
    file = io.StringIO()
    monkeypatch.setattr(shown, "bar_console", lambda: Console(file=file, force_terminal=True, width=100))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    return file


def test_the_bar_shows_stage_total_rate_and_failures(terminal):
    with shown.index_progress() as report:
        assert report is not None
        report(Progress(0, 0, 0, None, 0.0, stage="scanning"))
        report(Progress(64, 0, 2, 1000, 21.3, waiting=128))
        report(Progress(998, 0, 2, 1000, 21.5, stage="committing"))
    screen = terminal.getvalue()
    assert "committing" in screen and "1,000 of 1,000" in screen
    assert "22 images/s" in screen and "2 failed" in screen


def test_the_bar_counts_a_decoded_picture_as_half_done(terminal, monkeypatch):
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(vars(shown)["Bar"], "update", lambda self, task, **fields: given.append(fields))
    with shown.index_progress() as report:
        assert report is not None
        report(Progress(64, 0, 2, 1000, 21.3, waiting=128))
    assert given[0]["completed"] == 66 + 64
    assert given[0]["total"] == 1000
    assert given[0]["description"].strip() == "embedding"


def test_the_bar_goes_on_while_a_batch_is_under_way_and_no_further_than_it(terminal, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bars: list[ProgressBar] = []
    with shown.index_progress() as report:
        assert report is not None
        monkeypatch.setattr(
            BarColumn,
            "render",
            lambda self, task: bars.append(ProgressBar(100, task.completed)) or bars[-1],
        )
        report(Progress(10, 0, 0, 100, 4.0, waiting=20))
        column = shown._SmoothBar()
        task = next(iter(shown_tasks(report)))
        drawn = []
        for now in (100.0, 101.0, 105.0, 150.0):  # noqa: B007
            drawn.append(column.render(task).completed)
    assert drawn == [20, 22, 30, 30]


def shown_tasks(report):
    """The tasks of the bar that `report` moves."""
    held = [cell.cell_contents for cell in report.__closure__]
    (bar,) = [each for each in held if isinstance(each, vars(shown)["Bar"])]
    return bar.tasks


def test_quiet_shows_no_bar(terminal, loud):
    loud(Verbosity.QUIET)
    with shown.index_progress() as report, shown.rows_progress("coding") as rows:
        assert report is None and rows is None
    assert terminal.getvalue() == ""


def test_verbose_names_the_stages_where_there_is_no_terminal(loud, capsys, told, pictures, tmp_path):
    loud(Verbosity.VERBOSE)
    with shown.index_progress() as report, Client(FakeTransport()) as client:
        index_pictures(client, pictures, tmp_path / "x", workers=1, progress=report)
    assert [line for line in capsys.readouterr().err.splitlines() if line.endswith(" ...")] == [
        "scanning ...",
        "embedding ...",
        "committing ...",
    ]


def test_a_run_without_pictures_to_embed_has_no_rate(told, pictures, tmp_path):
    told(pictures, tmp_path / "x")
    assert told(pictures, tmp_path / "x")[-1].images_per_s == 0
    assert "images/s" not in run_sentence(told.report, tmp_path / "x")
    assert isinstance(told.report, clipdex.RunReport)
