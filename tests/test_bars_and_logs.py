"""What an indexing run says of itself meanwhile: a bar on a terminal, a line now and then in a log."""

import io
import time
from contextlib import redirect_stderr
from typing import Any

import pytest

from clipdex.pipeline.report import Progress

pytest.importorskip("rich")

from clipdex.cli import progress

PROGRESS: dict[str, Any] = {"indexed": 1200, "failed": 3, "total": 5000, "images_per_s": 41.6}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def test_a_bar_over_rows_has_their_number(terminal):
    with redirect_stderr(terminal), progress.rows_progress("verifying") as report:
        assert report is not None
        report(300, 900)
    assert "verifying" in terminal.getvalue() and "300/900" in terminal.getvalue()


def test_a_bar_is_gone_when_it_is_done(terminal):
    with redirect_stderr(terminal), progress.rows_progress("verifying") as report:
        assert report is not None
        report(9, 9)
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased
    assert "\x1b[?25h" in terminal.getvalue()  # and the cursor back


def test_a_log_gets_a_line_every_ten_seconds_and_no_control_characters(monkeypatch, capsys):
    seconds = iter([0.0, 1.0, 10.5, 10.5, 19.0, 21.0, 21.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with progress.index_progress() as report:
        assert report is not None
        report(Progress(unchanged=0, **PROGRESS))  # after 1 s: nothing
        report(Progress(unchanged=7, **PROGRESS))  # after 10.5 s
        report(Progress(unchanged=8, **PROGRESS))  # 8.5 s after that line: nothing
        report(Progress(unchanged=9, **PROGRESS | {"total": None}))
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 1,210 of 5,000 done, 42 images/s, 3 failed",
        "embedding: 1,212 done, 42 images/s, 3 failed",
    ]


def test_a_log_gets_no_bar_over_rows(capsys):
    with progress.rows_progress("verifying") as report:
        assert report is None
    assert capsys.readouterr().err == ""
