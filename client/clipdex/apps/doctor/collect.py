"""Inspect a server once, and try a few requests: the only file here that talks to a server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clipdex.apps.doctor.snapshot import Exposure, Gpu, Metrics, Model, Snapshot
from clipdex.apps.doctor.trial import try_towers
from clipdex.base.errors import ClipdexError, InvalidArgument, ModelNotFound
from clipdex.base.json_text import parse_json
from clipdex.base.processor import this_processor
from clipdex.model.assets import SHA256_PARAMETER, Assets, fetch_zip, unpack_assets
from clipdex.wire.address import UNIX, check_address, host_of, is_this_machine
from clipdex.wire.credentials import Credentials
from clipdex.wire.inspect.findings import InspectedModel, InspectedServer
from clipdex.wire.inspect.inspector import Inspection
from clipdex.wire.inspect.reachable import accepts, fetch, own_addresses, port_of

__all__ = ["collect"]

_PARTS = ("image", "text", "assets")
_HTTP_PORT, _METRICS_PORT = 8000, 8002
_MOST_BYTES = 2.0**60  # of a GPU's memory: a number that can be printed
_GPU_LINE = re.compile(r'^nv_gpu_(\w+)\{gpu_uuid="([^"]+)"[^}]*\}\s+(\S+)', re.M)


def collect(
    addresses: str | Sequence[str],
    *,
    model: str | None = None,
    metrics: str | None = None,
    credentials: Credentials | None = None,
    timeout_s: float = 120.0,
) -> tuple[Snapshot, ...]:
    """Take a snapshot of each server.

    Args:
        addresses: HOST:PORT of its gRPC port; several as a list, or separated by commas.
        model: the model to inspect; None for all that clipdex exported.
        metrics: HOST:PORT of the metrics; None tries Triton's usual port.
        timeout_s: time limit for one full batch.

    Raises:
        ServerUnreachable: one of the servers does not answer.
        ModelNotFound: there is no such model, or none at all.
        InvalidArgument: an address is invalid.
    """
    each = [part.strip() for part in (addresses.split(",") if isinstance(addresses, str) else addresses)]
    if not each:
        raise InvalidArgument("no address is given; expected HOST:PORT, as in localhost:8001")
    for address in [*each, *([metrics] if metrics else [])]:
        if address.startswith("inproc:"):
            raise InvalidArgument(f"{address} runs the models in this process: there is no server to examine")
        check_address(address)
    return tuple(_collect(address, model, metrics, credentials or Credentials(), timeout_s) for address in each)


def _collect(
    address: str, wanted: str | None, metrics: str | None, credentials: Credentials, timeout_s: float
) -> Snapshot:
    with Inspection(address, credentials) as inspection:
        server = inspection.server()
        models = tuple(_model(inspection, server, name, timeout_s) for name in _names(server, wanted, address))
    exposure = _exposure(address, server, credentials)
    return Snapshot(
        address=address,
        server=server,
        exposure=exposure,
        metrics=_metrics(address, metrics),
        models=models,
        processor=this_processor() if exposure.local else None,
        gpu_here=exposure.local and Path("/dev/nvidiactl").exists(),
    )


def _names(server: InspectedServer, wanted: str | None, address: str) -> list[str]:
    """Return the models to inspect: those with assets, or with any two parts."""
    known = {*server.models, *server.unready}
    found: dict[str, set[str]] = {}
    for name in known:
        base, _, part = name.rpartition("_")
        if base and part in _PARTS:
            found.setdefault(base, set()).add(part)
    ours = sorted(base for base, parts in found.items() if "assets" in parts or len(parts) > 1)
    if wanted is not None:
        if wanted not in found:
            there = f"it has {', '.join(ours)}" if ours else "it has none that clipdex exported"
            raise ModelNotFound(f"{address} has no model {wanted!r}; {there}")
        return [wanted]
    if not ours:
        raise ModelNotFound(
            f"{address} serves no model that clipdex exported (NAME_image, NAME_text, NAME_assets)"
        )
    return ours


def _model(inspection: Inspection, server: InspectedServer, name: str, timeout_s: float) -> Model:
    parts = {part: inspection.model(f"{name}_{part}") for part in _PARTS if f"{name}_{part}" in server.models}
    assets: Assets | None = None
    sha256 = error = None
    stated = parts["assets"].parameters.get(SHA256_PARAMETER) if "assets" in parts else None
    if "assets" in parts:
        try:
            data = fetch_zip(lambda span: inspection.infer(f"{name}_assets", span, "bytes", timeout_s))
            sha256 = hashlib.sha256(data).hexdigest()
            assets = unpack_assets(data)
        except ClipdexError as exc:
            error = str(exc)
    towers: dict[str, InspectedModel] = {part: found for part, found in parts.items() if part != "assets"}
    return Model(
        name=name,
        parts=parts,
        missing=tuple(part for part in _PARTS if part not in parts),
        card=assets.card if assets else None,
        card_error=error,
        assets_sha256=sha256,
        stated_sha256=stated,
        trials=try_towers(inspection, towers, assets, timeout_s) if assets else {},
    )


def _exposure(address: str, server: InspectedServer, credentials: Credentials) -> Exposure:
    if address.startswith(UNIX):
        return Exposure(local=True, tls=credentials.secure)
    local = is_this_machine(address)
    host, port = host_of(address), port_of(address)
    beyond = own_addresses() if local else (host,)
    http = {
        f"{each}:{http_port}": each in beyond
        for each in dict.fromkeys((host, *beyond))
        for http_port in dict.fromkeys((_HTTP_PORT, port - 1))
        if _is_http_of(server, each, http_port)
    }
    return Exposure(
        local=local,
        tls=credentials.secure,
        open_on=tuple(each for each in beyond if accepts(each, port)) if local else (),
        http_on=tuple(http),
        http_beyond=tuple(each for each, others in http.items() if others),
    )


def _is_http_of(server: InspectedServer, host: str, port: int) -> bool:
    """Return whether a Triton of this version speaks HTTP there: as close to "the same one" as can be known."""
    answer = fetch(host, port, "/v2")
    try:
        found = parse_json(answer) if answer else None
    except ValueError:
        return False
    return isinstance(found, dict) and (found.get("name"), found.get("version")) == (server.name, server.version)


def _metrics(address: str, asked: str | None) -> Metrics:
    host = "localhost" if address.startswith(UNIX) else host_of(address)
    for candidate in [asked] if asked else [f"{host}:{_METRICS_PORT}"]:
        text = fetch(host_of(candidate), port_of(candidate), "/metrics")
        if text is not None and "nv_inference" in text:
            return Metrics(candidate, reachable=True, asked=asked is not None, gpus=_gpus(text))
    return Metrics(asked or f"{host}:{_METRICS_PORT}", reachable=False, asked=asked is not None)


def _gpus(text: str) -> tuple[Gpu, ...]:
    found: dict[str, dict[str, float]] = {}
    for name, uuid, value in _GPU_LINE.findall(text):
        with suppress(ValueError):
            found.setdefault(uuid, {})[name] = max(0.0, min(float(value), _MOST_BYTES))  # NaN becomes 0
    return tuple(
        Gpu(uuid, int(values.get("memory_used_bytes", 0)), int(values.get("memory_total_bytes", 0)))
        for uuid, values in sorted(found.items())
    )
