"""TLS, mutual TLS, tokens and headers: against certificates that the `openssl` command makes here."""

import shutil
import socket
import subprocess

import grpc
import numpy as np
import pytest
from conftest import MODEL_REPOSITORY
from fake_server import serving

import clipdex
from clipdex import Credentials
from clipdex.wire import open_transport

pytestmark = [
    pytest.mark.thin,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command"),
]

SUBJECT_ALT_NAME = "subjectAltName=IP:127.0.0.1,DNS:triton.test"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """ca.pem, and {server,client}.{pem,key} signed by it; stranger.pem, another authority."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name in ("server", "client"):
        openssl("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "san").write_text(SUBJECT_ALT_NAME)
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


def server_credentials(pki, *, mutual):
    pair = ((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes() if mutual else None, mutual)


@pytest.fixture(scope="module")
def secure(pki):
    with serving(credentials=server_credentials(pki, mutual=False)) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(pki):
    with serving(credentials=server_credentials(pki, mutual=True)) as server:
        yield server


def embed(server, credentials, **settings):
    with clipdex.connect(server.address, credentials=credentials, timeout_s=10, **settings) as client:
        return client.embed_texts(["a"]).shape


def test_a_server_is_known_by_its_certificate(secure, pki):
    assert embed(secure, Credentials(ca_file=pki / "ca.pem")) == (1, 8)


def test_another_name_in_the_certificate_can_be_told(secure, pki):
    assert embed(secure, Credentials(ca_file=str(pki / "ca.pem"), server_name="triton.test")) == (1, 8)
    with pytest.raises(clipdex.AccessDenied, match=r"certificate is not for 127\.0\.0\.1:\d+"):
        embed(secure, Credentials(ca_file=pki / "ca.pem", server_name="another.test"))


@pytest.mark.parametrize("authority", ["stranger.pem", None], ids=["another", "public"])
def test_a_server_that_nobody_vouches_for_is_refused(secure, pki, authority):
    credentials = Credentials(tls=True, ca_file=authority and pki / authority)
    with pytest.raises(
        clipdex.AccessDenied, match=r"the certificate of the server at 127\.0\.0\.1:\d+ is not signed"
    ):
        embed(secure, credentials)


def test_a_client_shows_its_own_certificate(mutual, pki):
    own = Credentials(ca_file=pki / "ca.pem", certificate_file=pki / "client.pem", key_file=pki / "client.key")
    assert embed(mutual, own) == (1, 8)
    with pytest.raises(clipdex.ServerError):
        embed(mutual, Credentials(ca_file=pki / "ca.pem"))


def test_one_side_without_tls(secure, pki):
    with pytest.raises(clipdex.ServerUnreachable, match="does it require TLS"):
        embed(secure, None)
    with serving() as plain, pytest.raises(clipdex.AccessDenied, match="does not use TLS"):
        embed(plain, Credentials(ca_file=pki / "ca.pem"))


def test_the_token_and_the_headers_come_with_every_request(secure, pki):
    credentials = Credentials(ca_file=pki / "ca.pem", token="s3cret", headers={"x-tenant": "blue"})
    assert embed(secure, credentials) == (1, 8)
    model, _, _, metadata = secure.requests[-1]
    assert model == "fake_text"
    assert metadata["authorization"] == "Bearer s3cret"
    assert metadata["x-tenant"] == "blue"


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "unix:/tmp/x"])
def test_a_token_may_go_unencrypted_to_this_machine(address):
    open_transport(address, credentials=Credentials(token="s3cret")).close()


@pytest.mark.parametrize("address", ["192.0.2.1:8001", "dns:///192.0.2.1:8001", "127.0.0.1:1,192.0.2.1:8001"])
@pytest.mark.parametrize(
    "credentials", [Credentials(token="s3cret"), Credentials(headers={"authorization": "Basic s3cret"})]
)
def test_and_nowhere_else(address, credentials):
    with pytest.raises(clipdex.InvalidArgument, match=r"192\.0\.2\.1:8001 unencrypted") as error:
        open_transport(address, credentials=credentials)
    assert "s3cret" not in str(error.value)


def test_an_own_address_that_is_no_loopback_counts_as_another_machine(monkeypatch):
    two = [(0, 0, 0, "", (number, 0)) for number in ("127.0.0.1", "192.0.2.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    with pytest.raises(clipdex.InvalidArgument, match="unencrypted"):
        Credentials(token="s3cret").check("somewhere:8001")


def test_secrets_are_not_shown():
    shown = repr(Credentials(token="s3cret", headers={"authorization-x": "s3cret"}))
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "settings",
    [
        {"certificate_file": "a.pem"},
        {"key_file": "a.key"},
        {"token": ""},
        {"token": "with blank"},
        {"token": "line\nbreak"},
        {"headers": {"Upper": "x"}},
        {"headers": {"grpc-timeout": "x"}},
        {"headers": {"x-bin": "x"}},
        {"headers": {"x": "line\nbreak"}},
        {"headers": {"x": ""}},
        {"headers": {"authorization": "a"}, "token": "b"},
    ],
)
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(clipdex.InvalidArgument):
        Credentials(**settings)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(clipdex.InvalidArgument, match=r"gone\.pem: cannot be read"):
        open_transport("127.0.0.1:1", credentials=Credentials(ca_file=tmp_path / "gone.pem"))
    (tmp_path / "text.pem").write_text("not PEM")
    with pytest.raises(clipdex.InvalidArgument, match=r"text\.pem: not a PEM file"):
        open_transport("127.0.0.1:1", credentials=Credentials(ca_file=tmp_path / "text.pem"))


def test_a_call_ends_though_its_certificate_is_gone_when_the_connection_is_made_anew(pki, tmp_path, caplog):
    """What raised there once left the future unsettled, and its reader waiting for ever."""
    ca = tmp_path / "ca.pem"
    shutil.copy(pki / "ca.pem", ca)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        transport = open_transport(address, credentials=Credentials(ca_file=ca))
        ca.rename(tmp_path / "gone.pem")
        inputs = {"pixels": np.zeros((1, 8, 8, 3), np.uint8)}
        with pytest.raises(clipdex.DeadlineExceeded, match="did not answer in time"):
            transport.submit("m_image", inputs, "embedding", 0.7).result(timeout=20)
        transport.close()
    assert "ca.pem: cannot be read" in caplog.text


def test_a_server_that_asks_for_other_credentials(secure, pki):
    denied = {"UNAUTHENTICATED": "no token", "PERMISSION_DENIED": "not yours"}
    for code, details in denied.items():
        secure.fault = lambda model, rows, c=code, d=details: (grpc.StatusCode[c], d)
        try:
            with pytest.raises(clipdex.AccessDenied, match=details):
                embed(secure, Credentials(ca_file=pki / "ca.pem"))
        finally:
            secure.fault = lambda model, rows: None


@pytest.mark.slow
@pytest.mark.triton
def test_a_real_triton_with_mutual_tls_and_a_protocol_that_needs_a_key(pki, monkeypatch):
    pytest.importorskip("pytriton")
    from clipdex_server import LocalTriton, local
    from clipdex_server.ready import ServerState

    ours = Credentials(
        ca_file=pki / "ca.pem",
        certificate_file=pki / "client.pem",
        key_file=pki / "client.key",
        headers={"triton-grpc-protocol-key": "s3cret"},
    )
    plain = local.command_line  # type: ignore[attr-defined]

    def command_line(*arguments, **options):
        return [
            *plain(*arguments, **options),
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={pki / 'server.pem'}",
            f"--grpc-server-key={pki / 'server.key'}",
            f"--grpc-root-cert={pki / 'ca.pem'}",
            "--grpc-restricted-protocol=inference:key=s3cret",
        ]

    def server_state(address, timeout_s):
        transport = open_transport(address, credentials=ours)
        try:
            return ServerState(transport.server(timeout_s).version, tuple(transport.models(timeout_s)))
        except clipdex.ServerError:
            return None
        finally:
            transport.close()

    monkeypatch.setattr(local, "command_line", command_line)
    monkeypatch.setattr(local, "server_state", server_state)
    with LocalTriton(MODEL_REPOSITORY, stop_timeout_s=0, startup_timeout_s=60) as server:
        with clipdex.connect(server.address, credentials=ours) as client:
            assert client.embed_texts(["a"]).shape == (1, 128)
        with pytest.raises(clipdex.ServerError):
            clipdex.connect(server.address, credentials=Credentials(ca_file=pki / "ca.pem"), timeout_s=5)
        keyless = Credentials(
            ca_file=pki / "ca.pem", certificate_file=pki / "client.pem", key_file=pki / "client.key"
        )
        with (
            clipdex.connect(server.address, credentials=keyless) as client,
            pytest.raises(clipdex.AccessDenied, match="triton-grpc-protocol-key"),
        ):
            client.embed_texts(["a"])
