"""Measuring a load, a server, a run, a search: the figures mean what they say. Speed itself is not asserted."""

import importlib
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, unit_vectors
from PIL import Image

import clipdex
from clipdex.apps.bench.load import Latency, Window, run_load
from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_index import (
    SIZE,
    Bound,
    FirstOf,
    RequestLog,
    draw_photos,
    limiting_stage,
    measure_index,
)
from clipdex.apps.bench.measure_search import drawn_index, measure_search, read_seconds, scanned
from clipdex.apps.bench.measure_server import Served, ServerSettings, measure_server
from clipdex.apps.bench.report_file import index_report, search_report, server_report
from clipdex.sources import open_source
from clipdex.wire import FakeTransport, RequestTiming
from clipdex.wire.transport import ModelStatistics

pytestmark = [pytest.mark.thin, pytest.mark.once]

SHORT = Window(seconds=0.05, requests=4, warmup_seconds=0.0)


class Slow:
    """Answers after a while, and counts how many were in flight at once."""

    def __init__(self, seconds, threads):
        self.pool = ThreadPoolExecutor(threads)
        self.seconds = seconds
        self.lock = threading.Lock()
        self.flying = self.most = 0

    def __call__(self, number):
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        return self.pool.submit(self.work)

    def work(self):
        time.sleep(self.seconds)
        with self.lock:
            self.flying -= 1
        return np.zeros(1)


def test_a_load_keeps_just_so_many_requests_in_flight():
    server = Slow(0.002, threads=8)
    with server.pool:
        load = run_load(server, 5, Window(0.05, 20, 0.01))
    assert server.most == 5
    assert load.requests >= 20
    assert load.latency.p50_ms >= 2.0
    assert load.requests_per_s == load.requests / load.seconds


def test_requests_are_numbered_and_the_window_is_told_of():
    sent, seen = [], []

    def submit(number):
        sent.append(number)
        answer: Future[Any] = Future()
        answer.set_result(np.zeros(1))
        return answer

    load = run_load(submit, 3, SHORT, opened=lambda: seen.append("opened"), closed=lambda: seen.append("closed"))
    assert sent == list(range(len(sent)))
    assert seen == ["opened", "closed"]
    assert load.requests <= len(sent) - 2 * 3 + 3


def test_a_failed_request_ends_the_load_and_withdraws_the_others():
    answers = []

    def submit(number):
        answer: Future[Any] = Future()
        answers.append(answer)
        if number == 3:
            answer.set_exception(clipdex.ServerFault("it broke"))
        elif number < 3:
            answer.set_result(np.zeros(1))
        return answer

    with pytest.raises(clipdex.ServerFault, match="it broke"):
        run_load(submit, 2, SHORT)
    assert all(answer.done() for answer in answers)


def test_a_window_may_end_without_all_its_requests():
    server = Slow(0.03, threads=1)
    with server.pool:
        load = run_load(server, 1, Window(0.01, requests=1000, warmup_seconds=0.0, most_seconds=0.05))
    assert 1 <= load.requests <= 5


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"requests": 0}, {"warmup_seconds": -1}, {"seconds": 9, "most_seconds": 8}]
)
def test_a_window_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(clipdex.InvalidArgument, match="the window"):
        Window(**wrong)


def test_latencies_are_in_milliseconds():
    latency = Latency.of([i / 1000 for i in range(1, 102)])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == pytest.approx((51.0, 91.0, 100.0))
    assert latency.mean_ms == pytest.approx(51.0)


def test_what_the_server_counted_is_given_a_request():
    before = ModelStatistics(10, 0, 100, {10: 10}, 10_000_000, 20_000_000)
    after = ModelStatistics(14, 0, 164, {10: 10, 32: 2}, 18_000_000, 60_000_000)
    assert Served.of(after.since(before)) == Served(mean_batch=32.0, queue_ms=2.0, compute_ms=10.0)
    assert Served.of(ModelStatistics()) is None


@pytest.mark.parametrize("part", ["image", "text"])
@pytest.mark.parametrize("transfer", ["wire", "shared"])
def test_every_combination_is_a_point_and_every_request_a_full_one(part, transfer):
    fake = FakeTransport(max_batch_size=16)
    with clipdex.Client(fake) as client:
        before = len(fake.requests)
        settings = ServerSettings((part,), (transfer,), (1, 16), (1, 3), SHORT)
        points = list(measure_server(client, settings))
    assert len(points) == settings.points == 4
    assert [(p.part, p.transfer, p.batch, p.concurrency) for p in points] == [
        (part, transfer, batch, concurrency) for batch in (1, 16) for concurrency in (1, 3)
    ]
    assert all(p.rows_per_s == pytest.approx(p.requests * p.batch / p.seconds) for p in points)
    assert all(p.requests >= SHORT.requests for p in points)
    assert {request for request in fake.requests[before:]} == {(f"fake_{part}", 1), (f"fake_{part}", 16)}


def test_requests_in_a_row_carry_different_rows():
    seen: Counter[Any] = Counter()

    def look(model, inputs):
        if model.endswith("_image"):
            seen[inputs["pixels"].tobytes()] += 1

    with clipdex.Client(FakeTransport(fault=look)) as client:
        list(measure_server(client, ServerSettings(batches=(4,), concurrencies=(2,), window=SHORT)))
    assert len(seen) >= 6


def test_a_batch_that_the_server_does_not_take_is_refused_before_anything_is_measured(fake):
    with pytest.raises(clipdex.InvalidArgument, match="batch of 17 is more than the 16 rows"):
        next(measure_server(fake, ServerSettings(batches=(1, 17), window=SHORT)))


def test_a_server_without_shared_memory_says_so(monkeypatch):
    monkeypatch.setattr(FakeTransport, "share", lambda *_: False)
    with (
        clipdex.Client(FakeTransport()) as client,
        pytest.raises(clipdex.ServerError, match="measure over the wire only"),
    ):
        next(measure_server(client, ServerSettings(transfers=("shared",), batches=(1,), window=SHORT)))


@pytest.mark.parametrize("wrong", [{"batches": ()}, {"batches": (0,)}, {"concurrencies": (-1,)}, {"parts": ()}])
def test_settings_that_measure_nothing_are_refused(wrong):
    with pytest.raises(clipdex.InvalidArgument):
        ServerSettings(**wrong)


def test_drawn_photos_are_jpegs_that_differ_and_repeat(tmp_path):
    first = draw_photos(tmp_path / "a", 3)
    again = draw_photos(tmp_path / "b", 3)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert len({path.read_bytes() for path in first}) == 3
    with Image.open(first[0]) as image:
        assert (image.format, image.size) == ("JPEG", SIZE)
    assert 40_000 < first[0].stat().st_size < 200_000


@pytest.mark.slow
def test_a_run_is_measured_whole(pictures, fake):
    run = measure_index(fake, open_source(pictures), kind="sum", workers=1, encode_seconds=0.02)
    assert (run.pictures, run.failed, run.workers) == (12, 0, 1)
    assert run.images_per_s == pytest.approx(run.pictures / run.seconds)
    assert {"scan", "decode", "resize", "append", "commit"} <= set(run.stage_seconds)
    assert "compute" not in run.stage_seconds  # a fake counts nothing
    assert run.bound.decode_core_s > 0
    assert run.bound.encode_s > 0
    assert run.share_of_bound == pytest.approx(run.images_per_s / run.bound.images_per_s)


def test_the_bound_adds_up_or_takes_the_slower():
    shared = Bound(decode_core_s=0.004, encode_s=0.003, cores=2, kind="sum")
    apart = Bound(decode_core_s=0.004, encode_s=0.003, cores=2, kind="slower")
    assert shared.images_per_s == pytest.approx(200)
    assert apart.images_per_s == pytest.approx(1000 / 3)


@pytest.mark.parametrize(
    ("seconds", "limit", "share"),
    [
        ({"decode": 6, "resize": 2, "compute": 3, "queue": 50, "wait_embed": 9}, "decode + resize", 0.4),
        ({"decode": 6, "resize": 2, "compute": 9, "append": 1}, "compute", 0.9),
        (
            {"compute": 5, "place": 1, "submit": 2, "append": 3, "commit": 2},
            "place + submit + append + commit",
            0.8,
        ),
        ({"scan": 7, "compute": 5}, "scan", 0.7),
        ({"decode": 4, "resize": 1, "compute": 3, "wire": 16}, "wire", 0.8),
    ],
    ids=["decode", "compute", "joining", "scan", "wire"],
)
def test_the_stage_that_limits_is_the_busiest_of_those_that_work(seconds, limit, share):
    stage, its_share = limiting_stage(seconds, 10, workers=2, in_flight=2)
    assert stage == limit and its_share == pytest.approx(share)


def test_requests_of_the_image_part_are_timed():
    log = RequestLog()
    for model in ("m_image", "m_text", "m_image"):
        log(RequestTiming(model, 1, 1, "a:1", 2, 9.0, 0.5, "ok"))
    assert log.seconds == 1.0


def test_the_first_pictures_of_a_source(pictures):
    source = open_source(pictures)
    some = FirstOf(source, 5)
    assert list(some.files(print)) == list(source.files(print))[:5]
    assert some.vanished([b"/nowhere"]) == []
    with pytest.raises(clipdex.InvalidArgument, match="0 pictures"):
        FirstOf(source, 0)


@pytest.mark.slow
def test_a_source_without_a_good_picture_has_nothing_to_measure(tmp_path, fake):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(clipdex.SourceError, match="nothing to measure"):
        measure_index(fake, open_source(tmp_path), kind="sum", workers=1, encode_seconds=0.02)


def test_search_is_measured_over_drawn_vectors():
    with drawn_index(300, 16) as index:
        directory = index.directory
        points = list(measure_search(index, (1, 3), top_k=4, seconds=0.01))
        assert len(index) == 300
        assert index.search(unit_vectors(1, 16), 300)[0][0].path.startswith("/drawn/")
    assert not directory.exists()
    assert [p.queries for p in points] == [1, 3]
    assert all(p.bytes_read == 300 * 16 * 2 and p.read_ms > 0 and p.calls >= 10 for p in points)
    assert all(p.times_read == p.latency.p50_ms / p.read_ms for p in points)


def test_a_search_of_codes_is_compared_with_reading_the_codes_and_the_rows_without():
    with drawn_index(300, 16, int8=True) as index:
        codes, rest = scanned(index)
        assert codes.nbytes == (index.directory / "vectors.int8").stat().st_size
        assert len(rest) == 0
        (point,) = measure_search(index, (1,), seconds=0.01)
        assert point.bytes_read == codes.nbytes
        (index.directory / "vectors.int8").unlink()
        assert [array is index.vectors for array in scanned(index)] == [True]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reading_works_for_a_number_of_bytes_that_is_no_multiple_of_eight(dtype):
    assert read_seconds(np.ones((3, 5), dtype)) > 0


def test_a_search_of_nothing_is_refused():
    with drawn_index(3, 4) as index:
        with pytest.raises(clipdex.InvalidArgument, match="at least 1"):
            list(measure_search(index, (0,)))
        (point,) = measure_search(index, (1,), top_k=50, seconds=0.01)
    assert point.top_k == 3
    with pytest.raises(clipdex.InvalidArgument, match="0 rows"), drawn_index(0, 4):
        pass


@pytest.mark.slow
def test_reports_say_what_they_are_and_where_it_was(fake, pictures):
    machine = this_machine()
    points = list(measure_server(fake, ServerSettings(batches=(1,), concurrencies=(1,), window=SHORT)))
    run = measure_index(fake, open_source(pictures), kind="sum", workers=1, encode_seconds=0.02)
    with drawn_index(10, 4) as index:
        searched = list(measure_search(index, (1,), seconds=0.01))
    reports = [
        server_report(machine, fake, None, points, {}),
        index_report(machine, fake, 2, run, {}),
        search_report(machine, {"rows": 10}, searched, {}),
    ]
    assert [report["kind"] for report in reports] == ["server", "index", "search"]
    for report in reports:
        assert (report["format"], report["format_version"]) == ("clipdex-bench", 1)
        assert report["machine"]["cores"] >= 1
        assert report["machine"]["versions"]["numpy"] == np.__version__
    assert reports[0]["points"][0]["latency"]["p50_ms"] > 0
    assert reports[0]["server"]["model"] == "fake"
    assert [report["server"]["gpus"] for report in reports[:2]] == [None, 2]
    assert reports[1]["run"]["share_of_bound"] == run.share_of_bound
    assert reports[2]["points"][0]["read_bytes_per_s"] > 0


def test_rounds_that_were_not_calm_are_called_so(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    rounds = importlib.import_module("rounds")

    def measured(*others):
        return rounds.Rounds(
            [{"a": rounds.Measured(2, 1, 0.0), "b": rounds.Measured(1, 1, busy)} for busy in others]
        )

    calm, loud = measured(0.0, 0.0, 0.0, 0.5), measured(0.0, 0.5, 0.0, 0.5)
    assert calm.ratio("a", "b") == "2.000 (2.00–2.00, 3)"
    assert loud.ratio("a", "b") == "2.000 (2.00–2.00, 4) not calm"
    assert loud.core_ratio("a", "b") == "1.000 (1.00–1.00, 4) not calm"
    assert calm.remark().startswith("4 rounds, 3 of them calm for all sides")
    assert "for b: fewer than 3 were calm" in loud.remark()
    assert "fewer" not in calm.remark()
