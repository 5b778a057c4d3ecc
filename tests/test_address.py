"""What an address means: a form that is refused, this machine or another."""

import socket

import pytest

import clipdex
import clipdex.wire
from clipdex.wire.address import check_address, is_loopback, is_this_machine
from clipdex.wire.shared_memory import SharedMemory

pytestmark = pytest.mark.thin


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "http://localhost:8001",
        "localhost:",
        "localhost:port",
        "localhost:99999",
        "localhost:²",
        "localhost:８００１",
        pytest.param("localhost:" + 5000 * "1", id="5000 digits"),
        "",
        "unix:",
        "unix:/",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(clipdex.InvalidArgument):
        check_address(address)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:8001", "127.0.3.1:8001", "[::1]:8001", "unix:/a/b"])
def test_loopback(address):
    check_address(address)
    assert is_loopback(address)
    assert is_this_machine(address)


# 192.0.2.0/24 and 2001:db8::/32 belong to nobody.
@pytest.mark.parametrize("address", ["192.0.2.1:8001", "[2001:db8::1]:8001", "no-such-host.invalid:8001"])
def test_another_machine(address):
    check_address(address)
    assert not is_loopback(address)
    assert not is_this_machine(address)


def test_behind_a_dns_name_there_may_be_several_machines():
    assert not is_this_machine("dns:///localhost:8001")


def test_an_own_address_that_is_no_loopback_is_this_machine(monkeypatch):
    class Bindable:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def bind(self, _):
            pass

    monkeypatch.setattr(socket, "socket", Bindable)
    assert is_this_machine("192.0.2.1:8001")
    assert not is_loopback("192.0.2.1:8001")


class Shy(clipdex.wire.FakeTransport):
    """A server elsewhere, or one that takes no memory."""

    address = "192.0.2.1:8001"
    asked = 0

    def share(self, memory, timeout_s):
        self.asked += 1
        return False


@pytest.mark.parametrize(("use", "asked"), [("auto", 0), ("never", 0), ("always", 1)])
def test_whether_another_machine_is_asked_to_share_memory(use, asked):
    transport = Shy()
    with (
        clipdex.Client(transport, shared_memory=use) as client,
        SharedMemory(4096, named=False) as memory,
    ):
        if use == "always":
            with pytest.raises(clipdex.ServerError, match=r"does not accept shared memory.*--allow-client-shm"):
                client.share(memory)
        else:
            assert client.share(memory) is False
    assert transport.asked == asked


def test_memory_is_shared_and_forgotten(fake):
    with SharedMemory(4096, named=False) as memory:
        assert fake.shared_memory == "auto"
        assert fake.share(memory) is True
        fake.unshare(memory)


def test_another_word_for_shared_memory_is_refused():
    with pytest.raises(clipdex.InvalidArgument, match="auto, always or never"):
        clipdex.Client(clipdex.wire.FakeTransport(), shared_memory="sometimes")  # type: ignore[arg-type]
