"""A network that resets, swallows, half closes, slows down, loses answers: no row is lost, no deadline overrun."""

import time

import numpy as np
import pytest
from fake_server import serving
from fault_proxy import FAULTS, FaultProxy
from proofs.calls import GRACE_S, calling

import clipdex

pytestmark = [pytest.mark.thin, pytest.mark.once]

PIXELS = np.zeros((4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_time_and_no_result(server, fault):
    with FaultProxy(server.address) as proxy, calling(proxy.address) as tally:
        for _ in range(2):
            time.sleep(0.3)
            proxy.fault = fault
            time.sleep(0.4)
            proxy.fault = None
        time.sleep(0.3)
    assert tally.answered > 20, tally
    assert not tally.errors and not tally.wrong and not tally.late, (tally, tally.last_error)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["reset", "black hole", "dropped replies", "refused"])
def test_a_fault_that_stays_ends_calls_at_their_deadline(server, fault):
    with FaultProxy(server.address) as proxy, calling(proxy.address, timeout_s=0.6) as tally:
        time.sleep(0.2)
        proxy.fault = fault
        time.sleep(1.0)
    assert tally.errors.total() >= 4, tally
    assert set(tally.errors) <= {"ServerUnreachable", "DeadlineExceeded"}, tally
    assert not tally.late and not tally.wrong, tally


def test_a_server_behind_a_black_hole_is_found_again_by_a_new_connection(server):
    """What gRPC would do by itself: go on using the dead connection for minutes."""
    with FaultProxy(server.address) as proxy:
        retry = clipdex.RetryPolicy(attempt_timeout_s=0.5)
        with clipdex.connect(proxy.address, timeout_s=10, retry=retry) as client:
            client.embed_pixels(PIXELS)
            proxy.fault = "black hole"
            waiting = client.submit_pixels(PIXELS)
            time.sleep(0.2)
            proxy.fault = None  # the connection that lost bytes stays dead
            assert waiting.result().shape == (4, 8)
        assert proxy.connections >= 2


def test_connecting_to_a_black_hole_ends_at_the_deadline(server):
    with FaultProxy(server.address) as proxy:
        proxy.fault = "black hole"
        began = time.monotonic()
        with pytest.raises(clipdex.ServerError):
            clipdex.connect(proxy.address, timeout_s=0.7)
        assert time.monotonic() - began < 0.7 + GRACE_S


@pytest.mark.slow
def test_of_two_servers_one_behind_a_black_hole_costs_one_attempt(server):
    with serving() as other, FaultProxy(server.address) as proxy:
        with calling([proxy.address, other.address]) as tally:
            time.sleep(0.3)
            proxy.fault = "black hole"
            time.sleep(1.5)
        assert not tally.errors and not tally.wrong, tally
        # What was under way at the first is sent again to the other; what comes then goes there at once.
        assert tally.answered < tally.attempts <= tally.answered + 2 * 4, tally
