"""What every command that talks to a server takes: several servers, waiting, credentials."""

from typing import Any

import pytest
from conftest import noise, present
from fake_server import serving
from typer.main import get_command

from clipdex.cli.app import app


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(5):
        noise(i).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def index(run, folder, tmp_path):
    """`clipdex index` with these words -> (status, out, err)."""
    return lambda *words: run("index", folder, "--out", tmp_path / "x.clipdex", *words)


@pytest.mark.parametrize("name", ["index", "search", "retrieve", "failures"])
def test_every_command_with_a_server_has_the_same_options(name):
    group: Any = get_command(app)
    options = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert options >= {
        "--server", "-s", "--model", "-m", "--wait", "--tls", "--tls-ca", "--tls-cert", "--tls-key", "--tls-name",
        "--header",
    }  # fmt: skip


def test_token_and_headers_are_sent_and_the_token_is_not_shown(index, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPDEX_TOKEN", "s3cret")
    with serving() as server:
        status, out, err = index("-s", server.address, "--header", "X-Tenant: blue", "--header", "b:c:d")
        assert status == 0, err
        metadata = server.requests[-1][3]
        searched = run("search", "a", "-i", tmp_path / "x.clipdex", "-s", server.address)
        assert searched[0] == 0
    assert metadata["authorization"] == "Bearer s3cret"
    assert (metadata["x-tenant"], metadata["b"]) == ("blue", "c:d")
    assert server.requests[-1][3]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in out + err


def test_a_token_does_not_leave_this_machine_in_the_clear(index, monkeypatch):
    monkeypatch.setenv("CLIPDEX_TOKEN", "s3cret")
    status, _, err = index("-s", "192.0.2.1:8001")
    assert status == 1
    assert err.startswith("clipdex: the token would go to 192.0.2.1:8001 unencrypted")
    assert "--tls" in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--header", "nocolon"], "has no colon"),
        (["--header", "Bad Name:x"], "is not a valid header name"),
        (["--tls-ca", "gone.pem"], "gone.pem: cannot be read"),
        (["--tls-cert", "a.pem"], "a client certificate needs its key"),
        (["-s", "a:1,a:1"], "given twice"),
    ],
)
def test_mistakes_are_one_sentence(index, words, said):
    status, out, err = index(*words)
    assert (status, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


def test_several_servers_share_the_work(index):
    with serving() as a, serving() as b:
        status, _, err = index("-s", f"{a.address},{b.address}")
    assert status == 0, err


def test_nobody_there_is_said_at_once_or_after_the_wait(index):
    for words in ([], ["--wait", "0.4"]):
        status, _, err = index("-s", "127.0.0.1:9", *words)
        assert status == 1
        assert "no server answers at 127.0.0.1:9" in err
        assert ("(waited 0.4 s)" in err) == bool(words)


def test_the_environment_says_the_same_to_the_functions(monkeypatch, folder):
    import clipdex

    with serving() as server:
        monkeypatch.setenv("CLIPDEX_SERVER", server.address)
        monkeypatch.setenv("CLIPDEX_TOKEN", "s3cret")
        vectors, paths = clipdex.index_local_images(folder)
    assert present(vectors).shape == (5, 8)
    assert len(paths) == 5
    assert server.requests[-1][3]["authorization"] == "Bearer s3cret"


def test_the_environment_is_read_as_it_is_said(monkeypatch):
    from clipdex import Credentials

    assert Credentials.from_environment() == Credentials()
    for name, value in {"TLS": "1", "TLS_CA": "ca", "TLS_CERT": "c", "TLS_KEY": "k", "TLS_NAME": "n"}.items():
        monkeypatch.setenv(f"CLIPDEX_{name}", value)
    found = Credentials.from_environment()
    assert found == Credentials(tls=True, ca_file="ca", certificate_file="c", key_file="k", server_name="n")
    monkeypatch.setenv("CLIPDEX_TLS", "0")
    assert not Credentials.from_environment().tls


@pytest.mark.parametrize(
    "name",
    ["authorization", "x-api-key", "cookie", "triton-grpc-protocol-admin", "x-tenant", "proxy-authorization"],
)
def test_no_header_leaves_this_machine_in_the_clear(index, name):
    status, _, err = index("-s", "192.0.2.1:8001", "--header", f"{name}: s3cret")
    assert status == 1
    assert err.startswith(f"clipdex: the header {name} would go to 192.0.2.1:8001 unencrypted")
    assert "--tls" in err and "s3cret" not in err


def test_a_header_goes_encrypted_or_over_the_loopback():
    from clipdex import Credentials

    headers = {"x-api-key": "s3cret"}
    Credentials(tls=True, headers=headers).check("192.0.2.1:8001")
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/tmp/s"):
        Credentials(headers=headers).check(address)
