"""`clipdex web`: serve the REST API and the page over indexes."""

from __future__ import annotations

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
from clipdex.index.manifest import MANIFEST, Manifest
from clipdex.model.texts import TextCut
from clipdex.wire.address import is_loopback

__all__ = ["web"]

NO_SERVER = "none"
_TOKEN = "CLIPDEX_WEB_TOKEN"  # noqa: S105  # its name in the environment
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 4096
_MIB = 1 << 20


@connects
def web(
    ctx: typer.Context,
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INDEX", help="Indexes to serve, each by its name.", show_default=False),
    ] = None,
    *,
    index: IndexOption = None,
    connection: Connection,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    allow_write: Annotated[
        bool,
        typer.Option("--allow-write", help="Let items be added, changed and removed.", rich_help_panel=ACCESS),
    ] = False,
    show_paths: Annotated[
        bool,
        typer.Option(
            "--show-paths", help="Show the pictures' paths, and let filters use them.", rich_help_panel=ACCESS
        ),
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File with the token that requests must present (default the variable {_TOKEN}; without one, "
            "and if --host can be reached from outside, one is made and printed).",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name by which browsers reach the server, as behind a proxy. May be repeated.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the reverse proxy whose X-Forwarded headers are believed; several are separated by "
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
            help="Requests answered at once; more get status 503.",
            rich_help_panel=LIMITS,
        ),
    ] = 64,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Requests per second and client (default unlimited).",
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
            help="Where thumbnails are kept (default the user's cache).",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    thumbnail_cache_mb: Annotated[
        int, typer.Option(metavar="MB", min=1, help="Size of the thumbnail cache, in MiB.", rich_help_panel=LIMITS)
    ] = 1024,
    as_json: JsonOption = False,
) -> None:
    """Serve a REST API, and a page on it, over indexes until Ctrl-C.

    Prints the address once it answers. With --server none, pictures can be browsed and searched for by example,
    but not by text. Read-only unless --allow-write.
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
    missing = [each for each in indexes if not (each / MANIFEST).is_file()]
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
            note(f"{each} did not exist, and was created")
        if made:
            complain(f"token, made for this run: {token}")
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
            serve(settings, listening, ready, trusted_proxies=behind_proxy, access_log=is_verbose())
    except KeyboardInterrupt:
        note("stopped")


def _indexes(ctx: typer.Context, places: Sequence[Path] | None, index: Path | None) -> list[Path]:
    if places and is_typed(ctx, "index"):
        raise InvalidArgument(f"the index is given twice, as {places[0]} and as --index {index}; give it once")
    return list(places) if places else [required_index(index)]


def _wait_for_server(connection: Connection, indexes: Sequence[Path]) -> None:
    """Wait here, where Ctrl-C ends it."""
    first = next((each for each in indexes if (each / MANIFEST).is_file()), None)
    connection.open(model=None if first is None else Manifest.read(first).model).close()


def _token(file: Path | None, host: str) -> tuple[str | None, bool]:
    """Return the token, and whether it was made now."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                data = opened.read(_LONGEST_TOKEN + 1)
        except OSError as exc:
            raise InvalidArgument(f"--token-file {file} cannot be read: {exc.strerror}") from exc
        return _checked(data.decode("utf-8", "replace").strip(), f"--token-file {file}"), False
    given = os.environ.get(_TOKEN)
    if given:
        return _checked(given.strip(), _TOKEN), False
    local = is_loopback(f"[{host}]:0" if ":" in host else f"{host}:0")
    return (None, False) if local else (secrets.token_urlsafe(32), True)


def _checked(token: str, what: str) -> str:
    if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise InvalidArgument(
            f"{what}: expected a token of {_SHORTEST_TOKEN} to {_LONGEST_TOKEN:,} printable ASCII characters, as  "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'  makes one"
        )
    if " " in token:
        raise InvalidArgument(f"{what}: the token contains a space; expected none")
    return token


class _Plain(logging.Formatter):
    """Lines that move no terminal's cursor: requests are in them."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    for name in ("clipdex.web", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if is_verbose() else logging.WARNING)
