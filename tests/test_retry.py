"""What is tried again, for how long, and what is not: over a fake server that fails as it is told."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import clipdex
from clipdex import RetryPolicy
from clipdex.wire import FakeTransport
from clipdex.wire.servers import attempts
from clipdex.wire.servers.failover import ResilientTransport
from clipdex.wire.servers.fleet import Fleet
from clipdex.wire.servers.retry_policy import FailureKind, failure_kind

pytestmark = [pytest.mark.thin, pytest.mark.once]

PIXELS = np.zeros((2, 32, 32, 3), np.uint8)
QUICK = RetryPolicy(backoff_s=0.01, max_backoff_s=0.05)


class Failing:
    """A fault that fails the first `times` pictures' requests; None for all."""

    def __init__(self, error, times=None):
        self.error, self.times, self.seen = error, times, 0

    def __call__(self, model, inputs):
        if not model.endswith("_image"):
            return None
        self.seen += 1
        return self.error("as told") if self.times is None or self.seen <= self.times else None


# No test waits so long, however slow the machine: what ends sooner has a limit of its own.
LONG_S, MOST_S = 600.0, 60.0


def client_of(*faults, policy=QUICK, timeout_s=LONG_S, on_request=None):
    transports = [FakeTransport(fault=fault) for fault in faults]
    return clipdex.Client(ResilientTransport(transports, policy, on_request), timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (clipdex.ServerBusy, FailureKind.BUSY),
        (clipdex.ServerUnreachable, FailureKind.SICK),
        (clipdex.DeadlineExceeded, FailureKind.LATE),
        (clipdex.ServerFault, FailureKind.FAULT),
        (clipdex.ModelNotFound, FailureKind.MISSING),
        (clipdex.RequestRefused, FailureKind.FINAL),
        (clipdex.AccessDenied, FailureKind.FINAL),
        (clipdex.Cancelled, FailureKind.FAULT),
        (clipdex.InvalidArgument, FailureKind.FINAL),
        (clipdex.FingerprintMismatch, FailureKind.FINAL),
        (ZeroDivisionError, FailureKind.FINAL),
    ],
)
def test_what_each_error_means(error, failure):
    assert failure_kind(error("x")) is failure


@pytest.mark.parametrize(
    "error", [clipdex.ServerUnreachable, clipdex.ServerBusy, clipdex.DeadlineExceeded, clipdex.ModelNotFound]
)
def test_what_may_pass_is_tried_again(error):
    fault = Failing(error, times=4)
    with client_of(fault) as client:
        assert client.embed_pixels(PIXELS).shape == (2, 8)
    assert fault.seen == 5


@pytest.mark.parametrize("error", [clipdex.RequestRefused, clipdex.AccessDenied, ValueError])
def test_what_is_final_is_not(error):
    fault = Failing(error)
    with client_of(fault) as client, pytest.raises(error, match="as told"):
        client.submit_pixels(PIXELS).result()
    assert fault.seen == 1


@pytest.mark.parametrize("error", [clipdex.ServerFault, clipdex.Cancelled])
def test_a_server_that_breaks_over_a_request_sees_it_three_times(error):
    fault = Failing(error)
    with client_of(fault) as client, pytest.raises(error, match=r"as told \(tried 3 times in "):
        client.embed_pixels(PIXELS)
    assert fault.seen == 3


def test_a_model_that_stays_away_is_waited_for_within_bounds():
    policy = RetryPolicy(backoff_s=0.01, not_found_s=0.3)
    with client_of(Failing(clipdex.ModelNotFound), policy=policy) as client:
        began = time.monotonic()
        with pytest.raises(clipdex.ModelNotFound, match="as told"):
            client.submit_pixels(PIXELS).result(MOST_S)
        assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("error", [clipdex.ServerUnreachable, clipdex.ServerBusy, clipdex.DeadlineExceeded])
def test_the_deadline_ends_it_with_the_last_error(error):
    with client_of(Failing(error)) as client:
        began = time.monotonic()
        with pytest.raises(error, match="as told"):
            client.submit_pixels(PIXELS, timeout_s=0.4).result(MOST_S)
        assert time.monotonic() - began > 0.3
        with pytest.raises(clipdex.InvalidArgument, match="timeout_s"):
            client.submit_pixels(PIXELS, timeout_s=0)


class Clock:
    """Time that passes by waiting alone: stands in for `time`, and for the timer."""

    def __init__(self):
        self.now, self.waiting = 1000.0, []

    def monotonic(self):
        return self.now

    def after(self, delay_s, function):
        waiting = (self.now + delay_s, len(self.waiting), function)
        self.waiting.append(waiting)
        return lambda: self.waiting.remove(waiting) if waiting in self.waiting else None

    def pass_until_done(self, future):
        while not future.done():
            first = min(self.waiting)
            self.waiting.remove(first)
            self.now = first[0]
            first[2]()


@pytest.mark.parametrize("backoff_s", [0.01, 30.0])
def test_the_deadline_is_kept_and_never_waited_past(monkeypatch, backoff_s):
    clock: Any = Clock()
    monkeypatch.setattr(attempts, "time", clock)
    fault = Failing(clipdex.ServerBusy)
    fleet = Fleet([FakeTransport(fault=fault)], clock)
    policy = RetryPolicy(backoff_s=backoff_s, max_backoff_s=30.0)
    call = attempts.Call(fleet, clock, policy, None, "fake_image", {"pixels": PIXELS}, "embedding", 8.0)
    call.send()
    clock.pass_until_done(call)
    assert 1007.9 < clock.now <= 1008.0
    with pytest.raises(clipdex.ServerBusy, match=rf"^as told \(tried {fault.seen} times in 8\.0 s\)$"):
        call.result()
    assert fault.seen > 2


def test_a_number_of_attempts_may_be_the_limit():
    fault = Failing(clipdex.ServerUnreachable)
    with (
        client_of(fault, policy=RetryPolicy(max_attempts=1)) as client,
        pytest.raises(clipdex.ServerUnreachable, match=r"as told$"),
    ):
        client.embed_pixels(PIXELS)
    assert fault.seen == 1


def test_a_full_queue_is_no_sickness(caplog):
    caplog.set_level("INFO", "clipdex")
    fault = Failing(clipdex.ServerBusy, times=6)
    with client_of(fault) as client:
        client.embed_pixels(PIXELS)
    said = [(record.levelname, record.message) for record in caplog.records if "as told" in record.message]
    assert said == [("INFO", "as told; trying again")]


def test_sickness_and_recovery_are_logged_once(caplog):
    caplog.set_level("INFO", "clipdex")
    with client_of(Failing(clipdex.ServerUnreachable, times=1)) as client:
        client.embed_pixels(PIXELS)
    said = [record.levelname for record in caplog.records if record.message.startswith(("as told", "fake:fake"))]
    assert said == ["WARNING", "INFO"]
    assert "as told; probing it until it is healthy again" in caplog.text
    assert "fake:fake answers again after" in caplog.text


def test_waits_are_drawn_between_zero_and_a_growing_limit():
    policy = RetryPolicy(backoff_s=0.1, max_backoff_s=1.0)
    for waits, most in ((0, 0.1), (1, 0.2), (2, 0.4), (5, 1.0), (10_000, 1.0)):
        drawn = [policy.wait_s(waits) for _ in range(500)]
        assert 0 <= min(drawn) < 0.2 * most
        assert 0.8 * most < max(drawn) <= most


def test_how_long_an_attempt_may_take():
    policy = RetryPolicy()
    assert policy.attempt_s(60, None, 0) == 60  # nothing is known yet
    assert policy.attempt_s(600, None, 0) == 120
    assert policy.attempt_s(600, None, 1) == 240
    assert policy.attempt_s(60, 0.01, 0) == 20
    assert policy.attempt_s(600, 10.0, 0) == 80
    assert policy.attempt_s(600, 0.01, 2) == 80  # twice as long after each that was too short
    assert policy.attempt_s(5, 0.01, 3) == 5  # never more than is left
    assert RetryPolicy(attempt_timeout_s=1.5).attempt_s(60, None, 3) == 1.5


@pytest.mark.parametrize(
    "setting",
    ["max_attempts", "attempt_timeout_s", "backoff_s", "max_backoff_s", "fault_attempts"],
)
def test_settings_are_checked(setting):
    with pytest.raises(clipdex.InvalidArgument, match=f"{setting} of a RetryPolicy is 0"):
        RetryPolicy(**{setting: 0})
    with pytest.raises(clipdex.InvalidArgument, match="not_found_s"):
        RetryPolicy(not_found_s=-1)


class Silent(FakeTransport):
    """Takes pictures' requests and never answers; knows which were withdrawn."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def submit(self, model, inputs, output, timeout_s, *, wait=False):
        if not model.endswith("_image"):
            return super().submit(model, inputs, output, timeout_s)
        self.waiting.append(Future())
        return self.waiting[-1]


def test_a_request_can_be_withdrawn_while_the_server_has_it():
    silent = Silent()
    with clipdex.Client(ResilientTransport([silent], QUICK)) as client:
        future = client.submit_pixels(PIXELS)
        assert future.running() and not future.done()
        assert future.cancel()
        with pytest.raises(clipdex.Cancelled, match="withdrawn"):
            future.result(MOST_S)
        assert silent.waiting[0].cancelled()
        assert not future.cancel()


@pytest.mark.parametrize("error", [clipdex.ServerBusy, clipdex.ServerUnreachable], ids=["backoff", "sick"])
def test_a_request_can_be_withdrawn_while_it_waits(error):
    fault = Failing(error)
    with client_of(fault, policy=RetryPolicy(backoff_s=30, max_backoff_s=30)) as client:
        future = client.submit_pixels(PIXELS)
        assert future.cancel()
        with pytest.raises(clipdex.Cancelled):
            future.result(MOST_S)
        seen = fault.seen
        time.sleep(0.1)
        assert fault.seen == seen


def test_closing_ends_what_waits():
    client = client_of(Failing(clipdex.ServerBusy), policy=RetryPolicy(backoff_s=30, max_backoff_s=30))
    future = client.submit_pixels(PIXELS, timeout_s=60)
    client.close()
    client.close()
    with pytest.raises(clipdex.ServerBusy):
        future.result(MOST_S)
    with pytest.raises(clipdex.Closed, match="closed"):
        client.submit_pixels(PIXELS).result(MOST_S)


def test_a_finished_request_lets_go_of_its_pixels():
    import weakref

    with client_of(None) as client:
        pixels = np.zeros((2, 32, 32, 3), np.uint8)
        gone = weakref.ref(pixels)
        future = client.submit_pixels(pixels)
        future.result()
        del pixels
        assert gone() is None
        assert future.done()


def test_many_retries_need_one_thread():
    before = set(threading.enumerate())
    with client_of(Failing(clipdex.ServerBusy), policy=RetryPolicy(backoff_s=5, max_backoff_s=5)) as client:
        futures = [client.submit_pixels(PIXELS) for _ in range(200)]
        new = [thread.name for thread in set(threading.enumerate()) - before]
        assert new == ["clipdex-retry"]
        for future in futures:
            future.cancel()


def test_without_a_failure_there_is_no_thread():
    before = set(threading.enumerate())
    with client_of(None) as client:
        client.embed_pixels(PIXELS)
        assert set(threading.enumerate()) <= before  # one of an earlier test may still be ending


def test_the_hook_is_told_of_each_request():
    told: list[Any] = []
    with client_of(Failing(clipdex.ServerBusy, times=2), on_request=told.append) as client:
        client.embed_pixels(PIXELS)
        client.embed_texts(["a", "b", "c"])
    image, text = (timing for timing in told if not timing.model.endswith("assets"))
    assert (image.model, image.rows, image.attempts, image.outcome) == ("fake_image", 2, 3, "ok")
    assert (text.model, text.rows, text.attempts, text.endpoint) == ("fake_text", 3, 1, "fake:fake")
    assert image.seconds >= image.attempt_seconds >= 0


def test_the_hook_is_told_of_failures_and_may_fail_itself(caplog):
    told = []

    def hook(timing):
        told.append(timing)
        raise RuntimeError("a bug in the hook")

    with client_of(Failing(clipdex.RequestRefused), on_request=hook) as client:
        with pytest.raises(clipdex.RequestRefused):
            client.submit_pixels(PIXELS).result()
        assert client.embed_texts(["a"]).shape == (1, 8)
    assert [timing.outcome for timing in told if timing.model == "fake_image"] == ["RequestRefused"]
    assert "on_request hook failed" in caplog.text
