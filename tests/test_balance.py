"""Several servers as one: the least busy is chosen, the sick are left out and come back, one model for all."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from fake_server import serving
from proofs.calls import calling
from waiting import wait_until

import clipdex
from clipdex import RetryPolicy
from clipdex.wire import FakeTransport, open_transport
from clipdex.wire.servers.failover import ResilientTransport
from clipdex.wire.shared_memory import SharedMemory

pytestmark = [pytest.mark.thin, pytest.mark.once]

PIXELS = np.zeros((2, 32, 32, 3), np.uint8)
QUICK = RetryPolicy(backoff_s=0.01, max_backoff_s=0.05)


class Server(FakeTransport):
    """One of several fakes. down: nobody answers. held: its answers wait until they are let go."""

    def __init__(self, address, **settings):
        super().__init__(fault=lambda model, inputs: self.error(model), **settings)
        self.name, self.down, self.hold = address, False, False
        self.held, self.shared = [], []

    @property
    def address(self):
        return self.name

    def error(self, model):
        return clipdex.ServerUnreachable(f"no server answers at {self.name}") if self.down else None

    def _answer(self):
        if self.down:
            raise self.error("")

    def server(self, timeout_s):
        self._answer()
        return super().server(timeout_s)

    def config(self, model, timeout_s):
        self._answer()
        return super().config(model, timeout_s)

    def models(self, timeout_s):
        self._answer()
        return super().models(timeout_s)

    def submit(self, model, inputs, output, timeout_s, *, wait=False):
        if self.down:
            answer: Future[Any] = Future()
            answer.set_exception(self.error(model))
            return answer
        answer = super().submit(model, inputs, output, timeout_s)
        if not self.hold or not model.endswith("_image"):
            return answer
        held: Future[Any] = Future()
        self.held.append(lambda: held.set_result(answer.result()))
        return held

    def share(self, memory, timeout_s):
        self.shared.append(memory)
        return True

    def unshare(self, memory):
        self.shared.remove(memory)


def client_of(*servers, policy=QUICK, **settings):
    return clipdex.Client(ResilientTransport(servers, policy), **settings)


def images(server):
    return sum(model == "fake_image" for model, _ in server.requests)


def test_a_list_and_commas_mean_the_same():
    for address in ("127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1, 127.0.0.1:2", ["127.0.0.1:1", "127.0.0.1:2"]):
        transport = open_transport(address)
        assert transport.address == "127.0.0.1:1,127.0.0.1:2"
        transport.close()


@pytest.mark.parametrize(
    "address", [[], "", "a:1,", "a:1,a:1", "a:1,inproc:models", ["a:1", "b"], ["http://a:1", "b:1"]]
)
def test_lists_that_make_no_sense_are_refused(address):
    with pytest.raises(clipdex.InvalidArgument):
        open_transport(address)


def test_requests_take_turns_where_nobody_is_busy():
    a, b, c = servers = [Server(name) for name in ("a:1", "b:1", "c:1")]
    with client_of(*servers) as client:
        for _ in range(30):
            client.embed_pixels(PIXELS)
    assert images(a) == images(b) == images(c) == 10


def test_the_least_busy_server_is_chosen():
    a, b = Server("a:1"), Server("b:1")
    a.hold = True
    with client_of(a, b) as client:
        waiting = [client.submit_pixels(PIXELS)]
        if images(a) == 0:
            waiting.append(client.submit_pixels(PIXELS))
        assert images(a) == 1
        for _ in range(20):
            client.embed_pixels(PIXELS)  # b has none under way when each is sent
        assert images(a) == 1
        a.held.pop()()
        for future in waiting:
            assert future.result(timeout=1).shape == (2, 8)


def test_of_servers_that_all_have_work_the_one_that_got_less_comes_first():
    from clipdex.wire.servers.fleet import Endpoint, _least_busy

    a, b = endpoints = [Endpoint(Server("a:1")), Endpoint(Server("b:1"))]
    for in_flight_a, lately_a, in_flight_b, lately_b, chosen in (
        (1, 9.0, 2, 1.0, b),  # one more or less makes no difference
        (1, 9.0, 3, 1.0, a),
        (0, 9.0, 1, 1.0, a),  # nobody is left without work
        (0, 9.0, 0, 1.0, b),
        (5, 1.0, 5, 1.1, a),
    ):
        a.in_flight, a.lately, b.in_flight, b.lately = in_flight_a, lately_a, in_flight_b, lately_b
        assert _least_busy(endpoints) is chosen


def test_a_client_keeps_all_servers_busy():
    a, b = Server("a:1"), Server("b:1")
    with client_of(a) as one, client_of(a, b) as two:
        assert (one.in_flight, two.in_flight) == (2, 4)
    b.down = True
    with client_of(a, b) as client:
        assert client.in_flight == 4  # it will be back


def test_a_failed_request_goes_to_another_server_at_once():
    a, b = Server("a:1"), Server("b:1")
    with client_of(a, b, policy=RetryPolicy(backoff_s=30, max_backoff_s=30)) as client:
        a.down = True
        began = time.monotonic()
        for _ in range(4):
            client.embed_pixels(PIXELS)
        assert time.monotonic() - began < 5
        assert images(b) == 4


def test_a_full_queue_is_passed_by():
    a, b = Server("a:1"), Server("b:1")
    a.error = lambda model: clipdex.ServerBusy("full") if model == "fake_image" else None  # type: ignore[method-assign]
    with client_of(a, b, policy=RetryPolicy(backoff_s=30, max_backoff_s=30)) as client:
        for _ in range(4):
            client.embed_pixels(PIXELS)
    assert images(b) == 4
    assert images(a) >= 1


def test_a_sick_server_is_left_out_and_comes_back(caplog):
    caplog.set_level("INFO", "clipdex")
    a, b = Server("a:1"), Server("b:1")
    with client_of(a, b) as client:
        a.down = True
        for _ in range(10):
            client.embed_pixels(PIXELS)
        assert images(a) == 0
        a.down = False
        wait_until(lambda: "a:1 answers again" in caplog.text)
        for _ in range(10):
            client.embed_pixels(PIXELS)
        assert images(a) == 5


def test_the_rest_grows_with_each_ejection():
    from clipdex.wire.servers.fleet import Fleet
    from clipdex.wire.servers.timer import Timer

    fleet = Fleet([Server("a:1"), Server("b:1")], Timer("test"))
    assert fleet._rest_s(0, 30) == 0
    assert 0.05 <= fleet._rest_s(1, 30) <= 0.1
    assert 0.8 <= fleet._rest_s(5, 30) <= 1.6
    assert 15 <= fleet._rest_s(50, 30) <= 30
    for endpoint in fleet.endpoints:
        endpoint.sick = True
    assert fleet._rest_s(50, 30) <= 0.5  # nobody else answers


def test_requests_wait_while_all_are_sick():
    a, b = Server("a:1"), Server("b:1")
    with client_of(a, b) as client:
        a.down = b.down = True
        waiting = [client.submit_pixels(PIXELS) for _ in range(10)]
        time.sleep(0.2)
        assert not any(future.done() for future in waiting)
        b.down = False
        assert all(future.result(timeout=5).shape == (2, 8) for future in waiting)
    assert images(b) == 10


def test_a_server_that_breaks_over_everything_is_left_out():
    a, b = Server("a:1"), Server("b:1")
    a.error = lambda model: clipdex.ServerFault("CUDA error") if model == "fake_image" else None  # type: ignore[method-assign]
    with client_of(a, b) as client:
        for _ in range(30):
            client.embed_pixels(PIXELS)
        # Its probes succeed, so it comes back now and then, after ever longer rests.
        assert images(a) < 15
        assert images(b) == 30


def test_one_of_several_may_be_down_when_connecting(caplog):
    a, b = Server("a:1"), Server("b:1")
    a.down = True
    with client_of(a, b) as client:
        assert "no server answers at a:1" in caplog.text
        assert client.embed_pixels(PIXELS).shape == (2, 8)
        a.down = False
        wait_until(lambda: client.embed_pixels(PIXELS) is not None and images(a) > 0)


def test_nobody_there_is_said_at_once():
    a, b = Server("a:1"), Server("b:1")
    a.down = b.down = True
    with pytest.raises(clipdex.ServerUnreachable, match="no server answers at a:1"):
        client_of(a, b)
    began = time.monotonic()
    with pytest.raises(clipdex.ServerUnreachable):
        clipdex.connect("127.0.0.1:9,127.0.0.1:10")
    assert time.monotonic() - began < 5


def test_servers_with_different_models_are_refused():
    with pytest.raises(clipdex.FingerprintMismatch, match=r"a:1 and b:1 serve different models as fake_assets"):
        client_of(Server("a:1"), Server("b:1", weights="others"))


def test_a_server_that_lacks_the_model_is_named():
    with pytest.raises(clipdex.ModelNotFound, match="b:1 has no model 'fake_assets'"):
        client_of(Server("a:1"), Server("b:1", name="other"), model="fake")


def test_a_server_that_comes_back_with_another_model_gets_no_requests(caplog):
    a, b = Server("a:1"), Server("b:1")
    with client_of(a, b) as client:
        a.down = True
        client.embed_pixels(PIXELS)
        client.embed_pixels(PIXELS)
        a.card = Server("a:1", weights="others").card
        a.down = False
        wait_until(lambda: "a:1 came back with another fake_assets" in caplog.text)
        before = images(a)
        for _ in range(10):
            client.embed_pixels(PIXELS)
        assert images(a) == before


def test_an_only_server_that_comes_back_with_another_model_ends_the_calls():
    a = Server("a:1")
    with client_of(a, timeout_s=30) as client:
        a.down = True
        waiting = client.submit_pixels(PIXELS)
        a.card = Server("a:1", weights="others").card
        a.down = False
        with pytest.raises(clipdex.FingerprintMismatch, match="came back with another"):
            waiting.result(timeout=5)
        with pytest.raises(clipdex.FingerprintMismatch, match="came back with another"):
            client.embed_pixels(PIXELS)


def test_memory_is_shared_with_each_server_also_with_one_that_comes_later():
    a, b = Server("a:1"), Server("b:1")
    a.down = True
    with client_of(a, b, shared_memory="always") as client, SharedMemory(4096, named=False) as memory:
        assert client.share(memory)
        assert (a.shared, b.shared) == ([], [memory])
        a.down = False
        wait_until(lambda: a.shared == [memory])
        client.unshare(memory)
        assert (a.shared, b.shared) == ([], [])


class Refusing(Server):
    """Takes no shared memory; told to, it breaks instead."""

    error_on_share = None

    def share(self, memory, timeout_s):
        if self.error_on_share:
            raise self.error_on_share("it broke")
        return False


@pytest.mark.parametrize("error", [None, clipdex.ServerFault], ids=["refused", "broken"])
def test_memory_that_no_server_takes_is_let_go(error):
    """Else each run would keep the pages of its ring, 512 MiB, for as long as the client lives."""
    server = Refusing("a:1")
    server.error_on_share = error
    with client_of(server, shared_memory="auto") as client:
        memory = SharedMemory(4096, named=False)
        with suppress(clipdex.ServerFault):
            assert not client._transport.share(memory, 1)
        memory.close()
        gone = weakref.ref(memory)
        del memory
        gc.collect()
        assert gone() is None


def test_memory_that_is_unshared_while_a_server_takes_it_is_not_kept():
    a = Server("a:1")
    share = a.share

    def slowly(memory, timeout_s):
        taken = share(memory, timeout_s)
        client._transport.unshare(memory)  # the run ends meanwhile
        return taken

    a.share = slowly  # type: ignore[method-assign]
    with client_of(a) as client, SharedMemory(4096, named=False) as memory:
        assert not client._transport.share(memory, 1)
        assert a.shared == []


def test_many_threads_may_use_one_client():
    servers = [Server(f"{name}:1") for name in "abc"]
    with client_of(*servers) as client:
        expected = client.embed_pixels(PIXELS)
        wrong = []

        def work():
            for _ in range(100):
                if not np.array_equal(client.embed_pixels(PIXELS), expected):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert sum(map(images, servers)) == 801


@pytest.mark.slow
def test_a_steady_load_is_split_evenly_between_two_servers():
    with (
        serving(delay_s=0.005) as a,
        serving(delay_s=0.005) as b,
        calling([a.address, b.address], threads=4) as tally,
    ):
        time.sleep(1.5)
    assert not tally.errors and not tally.wrong, tally
    share = tally.endpoints[a.address] / tally.endpoints.total()
    assert 0.45 <= share <= 0.55, tally.endpoints


def start_server(port=0):
    command = [sys.executable, str(ROOT / "tests" / "fake_server.py"), str(port), "0.005"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_of_two_servers_one_is_killed_and_no_call_fails():
    killed, address = start_server()
    try:
        with serving(delay_s=0.005) as other, calling([address, other.address]) as tally:
            time.sleep(0.7)
            end(killed)
            time.sleep(0.7)
    finally:
        if killed.returncode is None:
            end(killed)
    assert not tally.errors and not tally.wrong and not tally.late, (tally, tally.last_error)
    assert all(count > 20 for count in tally.endpoints.values()), tally.endpoints


@pytest.mark.slow
def test_the_only_server_is_killed_and_started_again_and_no_call_fails():
    process, address = start_server()
    try:
        with calling(address) as tally:
            for _ in range(2):
                time.sleep(0.5)
                end(process)
                process, again = start_server(port=int(address.rpartition(":")[2]))
                assert again == address
            time.sleep(1.2)
    finally:
        end(process)
    assert not tally.errors and not tally.wrong and not tally.late, (tally, tally.last_error)
    assert tally.answered > 50
    assert tally.endpoints == Counter({address: tally.answered})


def test_a_probe_that_fails_by_a_bug_is_not_the_last(caplog, monkeypatch):
    a = Server("a:1")
    with client_of(a) as client:
        a.down = True
        waiting = client.submit_pixels(PIXELS)
        real, calls = a.server, []

        def server(timeout_s):
            calls.append(timeout_s)
            if len(calls) == 1:
                raise ZeroDivisionError("a bug")
            return real(timeout_s)

        monkeypatch.setattr(a, "server", server)
        wait_until(lambda: calls)
        a.down = False
        assert waiting.result(timeout=5).shape == (2, 8)
    assert "a bug" in caplog.text
