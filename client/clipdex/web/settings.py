"""The settings of the web application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["WebSettings"]


@dataclass(frozen=True)
class WebSettings:
    """What `create_app` serves, and how.

    indexes: paths of indexes. Each is served under its directory's name without `.clipdex`.
    server, model: as for `clipdex.Collection.open`; without a server, texts and pictures cannot be searched for.
    connection: further arguments of `clipdex.connect`, such as `credentials`; `timeout_s` is a quarter of
        `request_timeout_s` by default.
    allow_write: items may be added, changed and removed.
    show_paths: answers have the paths of pictures on this machine, and filters may use them.
    host, port: where the application is reached; requests for another host are refused.
    allowed_hosts: further names by which it may be reached, as behind a proxy.
    token: the secret that a request must present; None only where `host` is a loopback address.
    max_upload_bytes: largest picture that may be sent. max_json_bytes: largest other body.
    body_timeout_s: time in which a body must arrive. request_timeout_s: time in which it must be answered.
    max_concurrent: requests that are answered at once; more are refused with status 503.
    requests_per_s: requests per second and client; None for no limit.
    decode_workers: processes that decode pictures.
    thumbnail_cache: directory of the thumbnail cache (default the user's cache directory); its size is limited
        to `thumbnail_cache_bytes`.
    """

    indexes: tuple[Path, ...]
    server: str | None = None
    model: str | None = None
    connection: Mapping[str, Any] = field(default_factory=dict)
    allow_write: bool = False
    show_paths: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    max_upload_bytes: int = 64 << 20
    max_json_bytes: int = 2 << 20
    body_timeout_s: float = 30.0
    request_timeout_s: float = 60.0
    max_concurrent: int = 64
    requests_per_s: float | None = None
    decode_workers: int = 2
    thumbnail_cache: Path | None = None
    thumbnail_cache_bytes: int = 1 << 30
