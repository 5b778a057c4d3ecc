"""`clipdex web`: serve the REST API and the page over indexes."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import JsonOption, is_typed, sigterm_interrupts
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import IndexOption, required_index
from clipdex.cli.panels import ACCESS, LIMITS
from clipdex.cli.printing import complain, is_verbose, note, printable, say, say_json
from clipdex.index.manifest import MANIFEST
from clipdex.index.part_plan import is_parted, manifest_of
from clipdex.model.texts import TextCut
from clipdex.wire.address import is_loopback

__all__ = ["web"]

NO_SERVER = "none"
_TOKEN = "CLIPDEX_WEB_TOKEN"  # noqa: S105  # its name in the environment
_MOST_READ = 4096  # bytes of a token's file
_MIB = 1 << 20


@connects
def web(
    ctx: typer.Context,
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INDEX", help="Indexes to serve; each is served under its name.", show_default=False
        ),
    ] = None,
    *,
    index: IndexOption = None,
    connection: Connection,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    allow_write: Annotated[
        bool,
        typer.Option(
            "--allow-write", help="Allow items to be added, changed and removed.", rich_help_panel=ACCESS
        ),
    ] = False,
    show_paths: Annotated[
        bool,
        typer.Option(
            "--show-paths",
            help="Show the paths of pictures, and allow filters to use them.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File with the token that requests must present (default: the variable {_TOKEN}). Without "
            "a token, one is made and printed if --host can be reached from outside.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another host name under which browsers reach the server, such as a proxy's. May be repeated.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the reverse proxy whose X-Forwarded headers are trusted; separate several with "
            "commas.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_upload_mb: Annotated[
        int,
        typer.Option(
            metavar="MB", min=1, max=1024, help="Largest picture that may be sent, in MiB.", rich_help_panel=LIMITS
        ),
    ] = 64,
    max_concurrent: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=900,
            help="Requests served at once; further ones get status 503.",
            rich_help_panel=LIMITS,
        ),
    ] = 64,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Requests per second from each client (default unlimited).",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    request_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Time limit of a request.", rich_help_panel=LIMITS)
    ] = 60.0,
    decode_workers: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=64, help="Processes that decode pictures.", rich_help_panel=LIMITS),
    ] = 2,
    thumbnail_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory of the thumbnail cache (default: in the user's cache directory).",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    thumbnail_cache_mb: Annotated[
        int,
        typer.Option(
            metavar="MB", min=1, help="Largest size of the thumbnail cache, in MiB.", rich_help_panel=LIMITS
        ),
    ] = 1024,
    as_json: JsonOption = False,
) -> None:
    """Serve indexes in the browser and over a REST API until Ctrl-C.

    Prints the address once it answers. With --server none, pictures can be browsed and searched for by example,
    but not by text. Read-only unless --allow-write is given.
    """
    from clipdex.web import WebSettings
    from clipdex.web.running import bound, serve

    indexes = _indexes(ctx, places, index)
    named = connection.server if connection.server != NO_SERVER else None
    if named is None and connection.model is not None:
        raise InvalidArgument(
            f"--model {connection.model} is given, but with --server {NO_SERVER} there is no model"
        )
    token, made = _token(token_file, host)
    proxies = _proxies(behind_proxy)
    missing = [each for each in indexes if not (each / MANIFEST).is_file() and not is_parted(each)]
    if named is None and allow_write:
        for each in missing:
            if not os.path.lexists(each):
                raise InvalidArgument(
                    f"{each} does not exist, and with --server {NO_SERVER} there is no model to create it for: "
                    "name an index that exists, or a server"
                )
    settings = WebSettings(
        indexes=tuple(indexes),
        server=named,
        model=connection.model,
        connection={} if named is None else {"credentials": connection.credentials},
        allow_write=allow_write,
        show_paths=show_paths,
        host=host,
        port=port,
        allowed_hosts=tuple(allowed_host or ()),
        token=token,
        max_upload_bytes=max_upload_mb * _MIB,
        request_timeout_s=request_timeout,
        max_concurrent=max_concurrent,
        requests_per_s=rate,
        decode_workers=decode_workers,
        thumbnail_cache=thumbnail_cache,
        thumbnail_cache_bytes=thumbnail_cache_mb * _MIB,
    )

    def ready(address: str) -> None:
        for each in missing:
            note(f"{each} did not exist and was created")
        if made:
            complain(f"token for this run: {token}")
        if as_json:
            said = {"address": address, "indexes": list(map(str, indexes)), "allow_write": allow_write}
            say_json(said | {"server": named}, flush=True)
        else:
            say(address, flush=True)
            note("stop it with Ctrl-C")

    try:
        with sigterm_interrupts(), bound(host, port) as listening:
            if named is not None and connection.wait_s > 0:
                _wait_for_server(connection, indexes)
            _log_to_stderr()
            warnings.simplefilter("ignore", TextCut)  # answers say it
            serve(settings, listening, ready, trusted_proxies=proxies, access_log=is_verbose())
    except KeyboardInterrupt:
        note("stopped")


def _indexes(ctx: typer.Context, places: Sequence[Path] | None, index: Path | None) -> list[Path]:
    if places and is_typed(ctx, "index"):
        raise InvalidArgument(f"the index is given twice, as {places[0]} and as --index {index}; give it once")
    return list(places) if places else [required_index(index)]


def _proxies(given: str | None) -> str | None:
    """Return the addresses of --behind-proxy, or None.

    Raises:
        InvalidArgument: one is not an address; no request would ever come from it.
    """
    for each in () if given is None else given.split(","):
        try:
            ipaddress.ip_network(each.strip(), strict=False)
        except ValueError as exc:
            raise InvalidArgument(
                f"--behind-proxy {given!r:.80}: {each.strip()!r:.60} is not an IP address; expected the address "
                "of the proxy, such as 127.0.0.1, or a network, such as 10.0.0.0/8"
            ) from exc
    return given


def _wait_for_server(connection: Connection, indexes: Sequence[Path]) -> None:
    """Wait for the server to be ready, here, where Ctrl-C ends the wait."""
    first = next((each for each in indexes if (each / MANIFEST).is_file() or is_parted(each)), None)
    connection.open(model=None if first is None else manifest_of(first).model).close()


def _token(file: Path | None, host: str) -> tuple[str | None, bool]:
    """Return the token, or None, and whether it was made for this run."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                data = opened.read(_MOST_READ)
        except OSError as exc:
            raise InvalidArgument(f"--token-file {file} cannot be read: {exc.strerror}") from exc
        return _checked(data.decode("utf-8", "replace").strip(), f"--token-file {file}"), False
    given = os.environ.get(_TOKEN)
    if given:
        return _checked(given.strip(), _TOKEN), False
    local = is_loopback(f"[{host}]:0" if ":" in host else f"{host}:0")
    return (None, False) if local else (secrets.token_urlsafe(32), True)


def _checked(token: str, what: str) -> str:
    """Check a token by the rule of the application, and say where a wrong one is from."""
    from clipdex.web import WebSettings
    from clipdex.web.guard import check

    try:
        check(WebSettings(indexes=(), token=token))
    except InvalidArgument as exc:
        raise InvalidArgument(f"{what}: {exc}") from exc
    return token


class _Plain(logging.Formatter):
    """Log lines without terminal control characters, which requests may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    for name in ("clipdex.web", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if is_verbose() else logging.WARNING)
