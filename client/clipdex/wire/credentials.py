"""Credentials of a client: TLS, client certificates, a token, headers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.base.errors import InvalidArgument
from clipdex.wire.address import is_loopback

__all__ = ["ENVIRONMENT", "Credentials"]

ENVIRONMENT = ("TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_NAME", "TOKEN")  # each after CLIPDEX_

_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_VISIBLE = re.compile(r"[ -~]+")  # the header values that gRPC accepts
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Credentials:
    """TLS settings, token and headers for a connection. Files are PEM.

    tls: encrypt, and check the server's certificate. Any of the files implies it.
    ca_file: the authorities trusted to sign the server's certificate; None for gRPC's built-in public ones.
    certificate_file, key_file: the client's own, for servers that require them (mutual TLS).
    server_name: the name in the server's certificate, if it is not the host in the address.
    token: sent as the header `authorization: Bearer TOKEN`; only encrypted, or to this machine.
    headers: sent with every request; names in lower case. Only encrypted, or to this machine.
    """

    tls: bool = False
    ca_file: str | os.PathLike[str] | None = None
    certificate_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tls, bool):
            raise InvalidArgument(f"tls is {type(self.tls).__name__}; expected True or False")
        if not isinstance(self.token, (str, type(None))):
            raise InvalidArgument(f"the token is {type(self.token).__name__}; expected a string")
        if not isinstance(self.headers, Mapping) or not all(
            isinstance(part, str) for pair in self.headers.items() for part in pair
        ):
            raise InvalidArgument("headers is not a dict of strings; expected names and values, both strings")
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidArgument("a client certificate needs its key, and a key its certificate: give both files")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InvalidArgument("the token is empty, or contains a space or a character that is not ASCII")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
                raise InvalidArgument(
                    f"{name!r} is not a valid header name: expected a-z, 0-9, _ . - and not grpc-… or …-bin"
                )
            if not _VISIBLE.fullmatch(value):
                raise InvalidArgument(f"the value of the header {name} is empty or not ASCII")
        if self.token is not None and "authorization" in self.headers:
            raise InvalidArgument("both a token and a header named authorization are given; give only one")

    @classmethod
    def from_environment(cls) -> Credentials:
        """Read CLIPDEX_TLS, _TLS_CA, _TLS_CERT, _TLS_KEY, _TLS_NAME and CLIPDEX_TOKEN."""
        said = {name: os.environ.get(f"CLIPDEX_{name}") or None for name in ENVIRONMENT}
        return cls(
            tls=(said["TLS"] or "0").lower() not in ("0", "false", "no", "off"),
            ca_file=said["TLS_CA"],
            certificate_file=said["TLS_CERT"],
            key_file=said["TLS_KEY"],
            server_name=said["TLS_NAME"],
            token=said["TOKEN"],
        )

    @property
    def secure(self) -> bool:
        """True if the connection is encrypted."""
        files = (self.ca_file, self.certificate_file, self.key_file)
        return self.tls or self.server_name is not None or any(file is not None for file in files)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of every request, including the token's."""
        token = () if self.token is None else (("authorization", f"Bearer {self.token}"),)
        return (*self.headers.items(), *token)

    def check(self, address: str) -> None:
        """Refuse to send secrets unencrypted.

        Any header may be a secret: x-api-key, a cookie, a Triton's key; names alone do not tell.

        Raises:
            InvalidArgument: a token or a header would go unencrypted to another machine.
        """
        told = "the token" if self.token is not None else f"the header {next(iter(self.headers), '')}"
        if (self.token is not None or self.headers) and not self.secure and not is_loopback(address):
            raise InvalidArgument(
                f"{told} would go to {address} unencrypted, where anyone on the way can read it: "
                "use TLS (--tls, or Credentials(tls=True))"
            )

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Read the PEM bytes of ca_file, key_file and certificate_file; None for those not given."""
        return _pem(self.ca_file), _pem(self.key_file), _pem(self.certificate_file)


def _pem(file: str | os.PathLike[str] | None) -> bytes | None:
    if file is None:
        return None
    try:
        data = Path(file).read_bytes()
    except OSError as exc:
        raise InvalidArgument(f"{os.fspath(file)}: cannot be read: {exc.strerror or exc}") from exc
    if b"-----BEGIN " not in data:
        raise InvalidArgument(f"{os.fspath(file)}: not a PEM file (-----BEGIN CERTIFICATE-----)")
    return data
