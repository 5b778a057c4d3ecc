"""The error tree, and that every gRPC status has a place in it."""

import copy
import pickle
import re

import grpc
import pytest

import clipdex
import clipdex.base.errors
from clipdex.base.errors import ClipdexError, RequestRefused, ServerUnreachable
from clipdex.wire.status import ERROR_OF_STATUS, translate

pytestmark = pytest.mark.thin

CLASSES = {name: getattr(clipdex.base.errors, name) for name in clipdex.base.errors.__all__}


def test_every_error_has_one_root():
    assert all(issubclass(cls, ClipdexError) for cls in CLASSES.values())


def test_the_drawn_tree_is_the_real_one():
    drawn, above = {}, ["ClipdexError"]
    for line in clipdex.base.errors.__doc__.splitlines():
        if found := re.match(r"([│ ]*)[├└]── (\w+)", line):
            depth = len(found[1]) // 4 + 1
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1]
    assert drawn.keys() == CLASSES.keys() - {"ClipdexError"}
    for name, parent in drawn.items():
        assert CLASSES[name].__bases__[0] is CLASSES[parent], name


@pytest.mark.parametrize(
    "again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"]
)
def test_every_error_can_be_copied_and_sent_to_another_process(again):
    special = {
        "MissingExtra": clipdex.base.errors.MissingExtra("faiss", "ann", "searching"),
        "ImageError": clipdex.ImageError("the words", reason="broken"),
        "AddFailed": clipdex.base.errors.AddFailed("the words", {"a": clipdex.ImageError("b", reason="empty")}, 3),
        "ParityError": clipdex.base.errors.ParityError("the words", "a table"),
    }
    for name, cls in CLASSES.items():
        error = special.get(name) or cls("the words")
        made = again(error)
        assert type(made) is cls and str(made) == str(error) and made.args == error.args
        assert {key: str(value) for key, value in vars(made).items()} == {
            key: str(value) for key, value in vars(error).items()
        }


class Failed(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_is_translated(code):
    error = translate(Failed(code, "what the server said"), "somewhere:1")
    assert type(error) is ERROR_OF_STATUS[code]
    assert "somewhere:1" in str(error)


def test_the_table_names_every_status_and_no_other():
    assert set(ERROR_OF_STATUS) == set(grpc.StatusCode)


def test_a_full_queue_is_not_called_unreachable_host():
    error = translate(Failed(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"), "a:1")
    assert isinstance(error, ServerUnreachable)
    assert "Exceeds maximum queue size" in str(error)
    assert "no server answers" not in str(error)


@pytest.mark.parametrize(
    "details",
    [
        "errors resolving no.invalid:1: [field:hostname lookup error:lookup failed: Domain name not found]",
        "DNS resolution failed for no.invalid:1: C-ares status is not ARES_SUCCESS: Domain name not found",
        "DNS resolution failed for no.invalid:1: UNKNOWN:getaddrinfo: Temporary failure in name resolution",
        "getaddrinfo(): Name or service not known",
    ],
)
def test_an_unknown_host_is_said_in_our_own_words(details, monkeypatch):
    monkeypatch.setenv("no_proxy", "no.invalid")
    error = translate(Failed(grpc.StatusCode.UNAVAILABLE, details), "no.invalid:1")
    assert isinstance(error, ServerUnreachable)
    assert str(error) == "cannot find the host 'no.invalid': check the spelling of --server"


def test_grpc_says_of_an_unknown_host_what_we_look_for(monkeypatch):
    """Not only in a list of ours: its resolver's words have changed before."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ServerUnreachable, match=r"^cannot find the host 'no-such-host\.invalid': check the spelling"
    ):
        clipdex.connect("no-such-host.invalid:8001", model="demo", timeout_s=10)


def test_details_may_be_missing():
    assert isinstance(translate(Failed(grpc.StatusCode.OUT_OF_RANGE, None), "a:1"), RequestRefused)


def test_a_server_that_speaks_http_is_told_from_none():
    details = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8000: Failed parsing HTTP/2 "
        "(Expected SETTINGS frame as the first frame, got frame type 80) (Trying to connect an http1.x server "
        "(HTTP status 400))"
    )
    error = translate(Failed(grpc.StatusCode.UNAVAILABLE, details), "a:8000")
    assert type(error).__name__ == "ServerUnreachable"
    assert str(error).startswith("what answers at a:8000 does not use gRPC: give Triton's gRPC port, 8001")
