"""Log lines go where a program sends them; the command line shows warnings as its own lines."""

import logging
import subprocess
import sys

import pytest

pytestmark = pytest.mark.thin


def test_the_library_writes_nothing_of_its_own_accord():
    program = "import clipdex, logging; logging.getLogger('clipdex.wire').warning('a server is away')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""


def test_the_command_line_shows_warnings(run, monkeypatch):
    pytest.importorskip("typer", reason="needs the extra 'cli'")

    def warn(path, **options):
        logging.getLogger("clipdex.wire").warning("%s is away\x1b[2J", path)
        logging.getLogger("clipdex.wire").info("nobody needs this")
        raise SystemExit(0)

    monkeypatch.setattr("clipdex.cli.maintenance.Index.open", warn)
    status, out, err = run("info", "x.clipdex")
    assert (status, out) == (0, "")
    assert err == "clipdex: x.clipdex is away\\x1b[2J\n"
