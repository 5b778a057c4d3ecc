"""`make coverage` counts what the tests' own processes run, and adds up by package."""

import os
import subprocess
import sys

import coverage_table
import pytest
from conftest import ROOT

pytest.importorskip("coverage")

SCRIPT = """
import subprocess, sys
code = "import clipdex.looks.signature; import os; os._exit(0)"
subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
"""


def test_a_package_is_two_folders_deep():
    assert coverage_table.package("client/clipdex/index/side/int8.py") == "clipdex/index"
    assert coverage_table.package("client/clipdex/version.py") == "clipdex"
    assert coverage_table.package("export/clipdex_export/families/siglip.py") == "clipdex_export/families"


def test_the_last_line_is_the_sum():
    *_, last = coverage_table.table({"a": (30, 10), "b": (10, 0)})
    assert last.split() == ["total", "40", "10", "75.0%"]


@pytest.mark.slow
def test_what_a_process_of_a_test_runs_is_counted_wherever_it_runs(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["COVERAGE_FILE"] = str(tmp_path / "data")
    said = ""
    for command in (
        ["-m", "coverage", "run", str(tmp_path / "script.py")],
        ["-m", "coverage", "combine", "--quiet"],
        [str(ROOT / "tests" / "coverage_table.py")],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        said = done.stdout
    shares = {line.split()[0]: float(line.split()[-1].rstrip("%")) for line in said.splitlines()[1:]}
    assert shares["clipdex/looks"] > 0
    assert shares["clipdex/cli"] == 0
