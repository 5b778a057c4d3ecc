"""The options of every command that talks to a server, in one place.

@connects
def info(..., connection: Connection) -> None:
    with connection.open() as client:
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import SERVER_DEFAULT, ModelOption, ServerOption
from clipdex.client.client import Client, connect
from clipdex.wire import Credentials

__all__ = ["Connection", "connects"]

_PARAMETER = "connection"


@dataclass(frozen=True)
class Connection:
    """The server's address, model and credentials, as the user gave them."""

    server: str
    model: str | None
    wait_s: float
    credentials: Credentials

    def open(self, *, model: str | None = None, **settings: Any) -> Client:
        """Connect. model: used if the user named none. settings: as for `clipdex.connect`."""
        return connect(
            self.server,
            model=self.model or model,
            wait_s=self.wait_s,
            credentials=self.credentials,
            **settings,
        )


def _options(
    server: ServerOption = SERVER_DEFAULT,
    model: ModelOption = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds to wait for a server that is starting.")
    ] = 0.0,
    tls: Annotated[
        bool, typer.Option("--tls", envvar="CLIPDEX_TLS", help="Use TLS, and verify the server's certificate.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            envvar="CLIPDEX_TLS_CA",
            help="CA that signed the server's certificate.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM", envvar="CLIPDEX_TLS_CERT", help="Client certificate to present.", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM", envvar="CLIPDEX_TLS_KEY", help="Key of the client certificate.", show_default=False
        ),
    ] = None,
    tls_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="CLIPDEX_TLS_NAME",
            help="Name in the server's certificate, if it differs from the host.",
            show_default=False,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:VALUE",
            help="Header to send with every request. Put a token in CLIPDEX_TOKEN, where others cannot see it.",
            show_default=False,
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
    return Connection(server, model, wait, credentials)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidArgument(f"--header {name!r} has no colon: expected NAME:VALUE")
    return name.strip().lower(), value.strip()


def connects(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `connection` by the options above."""
    hints = get_type_hints(command, include_extras=True)
    ours_hints = get_type_hints(_options, include_extras=True)
    ours = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=ours_hints[name])
        for name, parameter in inspect.signature(_options).parameters.items()
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        theirs = parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name])
        parameters += ours if name == _PARAMETER else [theirs]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        asked = {parameter.name: given.pop(parameter.name) for parameter in ours}
        command(**given, **{_PARAMETER: _options(**asked)})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
