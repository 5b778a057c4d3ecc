"""`clipdex bench`: what it prints and writes, and one sentence for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import MODEL_REPOSITORY

import clipdex
from clipdex.apps.bench.plot import plot_points
from clipdex.cli.bench.bench_index import BoundKind, _kind, limit_line
from clipdex.cli.bench.bench_output import numbers
from clipdex.cli.tables import table

pytestmark = pytest.mark.triton

QUICK = ("--seconds", "0.2", "--warmup", "0", "--requests", "3")


def assert_one_sentence(result, *parts):
    status, out, err = result
    assert status == 1
    assert out == ""
    assert err.startswith("clipdex: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.slow
def test_server_measures_both_parts_both_ways_with_the_servers_own_counters(run, triton, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "clipdex.cli.bench.bench_server.plot_points",
        lambda file, points, *words: said.extend(words) or plot_points(file, points, *words),
    )
    file, plot = tmp_path / "r.json", tmp_path / "r.svg"
    words = ("--image", "--text", "--transfer", "both", "--batch", "1,8", "--concurrency", "2", *QUICK)
    status, out, err = run("bench", "server", "-s", triton.address, *words, "--save", file, "--plot", plot)
    assert status == 0
    assert err.endswith(f"plot: {plot}\n")
    head, *lines = out.splitlines()[3:]
    assert head.split()[:3] == ["part", "transfer", "batch"]
    combinations = [(p, t, b) for p in ("image", "text") for t in ("wire", "shared") for b in ("1", "8")]
    assert [tuple(line.split()[:3]) for line in lines] == combinations
    report = json.loads(file.read_text())
    assert report["server"]["model"] == "demo"
    assert report["server"]["gpus"] == 0
    for point in report["points"]:
        assert point["served"]["compute_ms"] > 0
        assert point["served"]["mean_batch"] >= point["batch"]
        assert point["latency"]["p50_ms"] <= point["latency"]["p90_ms"] <= point["latency"]["p99_ms"]
    assert plot.read_text().startswith("<?xml")
    assert said == out.splitlines()[:2]  # the plot names the server and the machine as the table does


@pytest.mark.slow
def test_index_shows_every_stage_and_the_bound(run, triton, pictures, tmp_path):
    file = tmp_path / "r.json"
    words = ("--pictures", "10", "--workers", "1", "--seconds", "0.1", "--save", file)
    status, out, _ = run("bench", "index", pictures, "-s", triton.address, *words)
    assert status == 0
    stages = {line.split()[0] for line in out.splitlines() if re.search(r"\d%  ", line)}
    assert stages >= {"scan", "decode", "resize", "wire", "queue", "compute", "append", "commit"}
    assert re.search(r"^10 pictures in [\d.]+ s: [\d.]+ images/s, shared memory, 1 worker", out, re.M)
    assert re.search(r"^limited by .*%", out, re.M)
    measured = json.loads(file.read_text())["run"]
    assert measured["bound"]["kind"] == "sum"
    assert f"share of the bound: {measured['share_of_bound']:.3f}" in out


@pytest.mark.slow
def test_index_draws_pictures_where_none_are_given(run, tmp_path):
    words = ("--pictures", "3", "--workers", "1", "--seconds", "0.1", "--bound", "slower")
    status, out, err = run("bench", "index", "-s", f"inproc:{MODEL_REPOSITORY}", *words)
    assert status == 0
    assert err.startswith("drawing 3 pictures of 640 × 480\n")
    assert "3 pictures in" in out
    assert "the slower of the two" in out


@pytest.mark.slow
def test_search_over_an_index_and_over_drawn_vectors(run, triton, pictures, tmp_path):
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, pictures, tmp_path / "x.clipdex", workers=1)
    for what, rows in (((tmp_path / "x.clipdex",), "12 rows"), (("--rows", "500", "--dim", "16"), "500 rows")):
        file = tmp_path / "r.json"
        status, out, _ = run("bench", "search", *what, "--queries", "1,4", "--seconds", "0.05", "--save", file)
        assert status == 0
        assert rows in out
        assert [point["queries"] for point in json.loads(file.read_text())["points"]] == [1, 4]
    printed = run("bench", "search", *what, "--queries", "1", "--seconds", "0.01", "--json", "--save", file)[1]
    assert json.loads(printed) == json.loads(file.read_text())


@pytest.mark.slow
def test_mistakes_are_one_sentence(run, triton, tmp_path):
    server = ("bench", "server", "-s", triton.address)
    assert_one_sentence(run(*server, "--batch", "1;2"), "--batch is '1;2'", "as in 1,2,4")
    assert_one_sentence(run(*server, "--batch", "65"), "batch of 65 is more than the 64 rows")
    assert_one_sentence(run(*server, "--plot", tmp_path / "x.gif"), "x.gif", ".svg, .png, .pdf")
    assert_one_sentence(run(*server, "--seconds", "0"), "the window is 0")
    assert_one_sentence(run("bench", "server", "-s", "127.0.0.1:9"), "127.0.0.1:9")
    assert_one_sentence(run("bench", "index", tmp_path / "none", "-s", triton.address), "no such")
    assert_one_sentence(run("bench", "search", tmp_path / "none"), "there is no such index")


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(run, triton, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("bench", "server", "-s", triton.address, "--plot", tmp_path / "x.svg")
    assert_one_sentence(result, "[plot]'")


@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(run, tmp_path, option):
    for file in (tmp_path / "none" / "x.svg", tmp_path / "x.svg"):
        (tmp_path / "x.svg").mkdir(exist_ok=True)
        result = run("bench", "server", "-s", "127.0.0.1:9", option, file)  # nobody is there to measure
        assert_one_sentence(result, f"{file}: cannot be written")
    os.mkfifo(tmp_path / "pipe.svg")
    result = run("bench", "server", "-s", "127.0.0.1:9", option, tmp_path / "pipe.svg")
    assert_one_sentence(result, "pipe.svg: cannot be written: it is a device")
    for what in ("index", "search"):
        assert_one_sentence(run("bench", what, "--save", tmp_path / "none" / "x"), "x: cannot be written")


@pytest.mark.slow
def test_ctrl_c_shows_and_draws_what_was_measured_until_then(triton, tmp_path):
    many = 200
    words = ["bench", "server", "-s", triton.address, "--batch", "1", "--seconds", "0.1", *QUICK[2:]]
    words += ["--concurrency", ",".join(map(str, range(1, many + 1))), "--plot", str(tmp_path / "x.svg")]
    with clipdex.connect(triton.address) as client:
        before = client.statistics("image").requests
        process = subprocess.Popen(
            [sys.executable, "-m", "clipdex", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while client.statistics("image").requests == before and process.poll() is None:
            time.sleep(0.05)
    time.sleep(2)  # of twenty seconds' work at least, in two hundred steps
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 1 <= len([line for line in out.splitlines() if line.startswith("image")]) < many
    said = "clipdex: stopped; the table has what was measured so far"
    assert err.splitlines() == [said, f"plot: {tmp_path / 'x.svg'}"]
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("address", "gpus", "kind"),
    [
        ("127.0.0.1:1", 0, "sum"),
        ("127.0.0.1:1", 2, "slower"),
        ("192.0.2.1:1", 0, "slower"),
        ("inproc:x", None, "sum"),
    ],
)
def test_the_bound_follows_from_where_the_server_computes(address, gpus, kind):
    assert _kind(BoundKind.auto, address, gpus) == kind
    assert _kind(BoundKind.sum, address, gpus) == "sum"
    assert _kind(BoundKind.slower, address, gpus) == "slower"


def test_a_stage_that_idles_for_longer_than_it_works_is_no_limit():
    assert limit_line("wire", 0.8) == "limited by wire: busy for 80% of the run"
    said = "limited by no stage alone: the busiest, wire, worked for 31% of the run"
    assert limit_line("wire", 0.31) == said


def test_lists_of_numbers():
    assert numbers("1, 2,2,8", "--x") == [1, 2, 8]
    for text in ("", "0", "1,,2", "-1", "a", "1.5"):
        with pytest.raises(clipdex.InvalidArgument, match="--x"):
            numbers(text, "--x")


def test_a_table_lines_up():
    rows = [("a", "1"), ("long", "1000")]
    assert table(("name", "count"), rows).splitlines() == ["name  count", "a         1", "long   1000"]
