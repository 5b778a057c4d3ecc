"""The options of every command that talks to a server, in one place.

@connects
def info(..., connection: Connection) -> None:
    with connection.open() as client:
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import SERVER_DEFAULT, ModelOption, ServerOption, is_typed
from clipdex.cli.panels import CONNECTION
from clipdex.cli.printing import detail
from clipdex.cli.splicing import splice
from clipdex.client.client import Client, connect
from clipdex.wire import Credentials

__all__ = ["Connection", "connects"]


@dataclass(frozen=True)
class Connection:
    """The server's address, model and credentials, as the user gave them."""

    server: str
    model: str | None
    wait_s: float
    credentials: Credentials
    server_is_typed: bool = False

    def at(self, place: str | None) -> str:
        """Return the server's address: the command's positional argument, or else --server.

        Raises:
            InvalidArgument: both are given.
        """
        if place is not None and self.server_is_typed:
            raise InvalidArgument(f"{place} and --server {self.server} are both given; give one")
        detail(f"server {place or self.server}")
        return place or self.server

    def open(self, *, model: str | None = None, **settings: Any) -> Client:
        """Connect. model: used if the user named none. settings: as for `clipdex.connect`."""
        client = connect(
            self.server,
            model=self.model or model,
            wait_s=self.wait_s,
            credentials=self.credentials,
            **settings,
        )
        card = client.card
        detail(f"server {client.address}: {client.server.name} {client.server.version}")
        detail(f"model {card.name}: {card.source}, {card.precision}, fingerprint {card.fingerprint[:12]}")
        return client


def _options(
    ctx: typer.Context,
    server: ServerOption = SERVER_DEFAULT,
    model: ModelOption = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Seconds to wait for a server that is starting.",
            rich_help_panel=CONNECTION,
        ),
    ] = 0.0,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar="CLIPDEX_TLS",
            help="Use TLS, and verify the server's certificate.",
            rich_help_panel=CONNECTION,
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="CLIPDEX_TLS_CA",
            help="CA that signed the server's certificate.",
            show_default=False,
            rich_help_panel=CONNECTION,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="CLIPDEX_TLS_CERT",
            help="Client certificate to present.",
            show_default=False,
            rich_help_panel=CONNECTION,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="CLIPDEX_TLS_KEY",
            help="Key of the client certificate.",
            show_default=False,
            rich_help_panel=CONNECTION,
        ),
    ] = None,
    tls_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="CLIPDEX_TLS_NAME",
            help="Name in the server's certificate, if it differs from the host.",
            show_default=False,
            rich_help_panel=CONNECTION,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:VALUE",
            help="Header to send with every request. Put a token in CLIPDEX_TOKEN, where others cannot see it.",
            show_default=False,
            rich_help_panel=CONNECTION,
        ),
    ] = None,
) -> Connection:
    credentials = Credentials(
        tls=tls,
        ca_file=tls_ca,
        certificate_file=tls_cert,
        key_file=tls_key,
        server_name=tls_name,
        token=os.environ.get("CLIPDEX_TOKEN") or None,
        headers=dict(map(_header, header or [])),
    )
    return Connection(server, model, wait, credentials, server_is_typed=is_typed(ctx, "server"))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidArgument(f"--header {name!r} has no colon: expected NAME:VALUE")
    return name.strip().lower(), value.strip()


def connects(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `connection` by the options above."""
    return splice(command, "connection", _options)
