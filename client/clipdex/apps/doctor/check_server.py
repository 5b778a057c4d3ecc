"""Who can reach the server, what does it let them do, and is it one that is known?"""

from __future__ import annotations

from collections.abc import Iterator

from clipdex.apps.doctor.finding import Finding
from clipdex.apps.doctor.release import release_of
from clipdex.apps.doctor.snapshot import Snapshot

__all__ = ["CHECKS"]

# 24.10: the oldest release that reads what clipdex exports, and the oldest one tested.
_OLDEST = (2, 51)


def version(snapshot: Snapshot) -> Iterator[Finding]:
    """Is it a Triton, and young enough?"""
    server = snapshot.server
    release = release_of(server)
    if release is None:
        yield Finding("not_triton", snapshot.address, {"name": server.name, "version": server.version})
    elif release < _OLDEST:
        yield Finding("triton_old", snapshot.address, {"version": server.version})


def readiness(snapshot: Snapshot) -> Iterator[Finding]:
    """Are all models served, those of others too?"""
    ours = {f"{model.name}_{part}" for model in snapshot.models for part in ("image", "text", "assets")}
    for name, reason in snapshot.server.unready.items():
        if name not in ours:
            yield Finding("other_not_loaded", name, {"reason": reason})
    if not snapshot.server.ready:
        yield Finding("not_ready", snapshot.address)


def network(snapshot: Snapshot) -> Iterator[Finding]:
    """Is it open to others, unencrypted or over HTTP?"""
    exposure = snapshot.exposure
    if exposure.open_on and not exposure.tls:
        yield Finding("grpc_open", snapshot.address, {"addresses": ", ".join(exposure.open_on)})
    elif not exposure.local and not exposure.tls:
        yield Finding("grpc_unencrypted", snapshot.address)
    if exposure.http_beyond:
        yield Finding("http_open", ", ".join(exposure.http_beyond))
    elif exposure.http_on:
        yield Finding("http_on", ", ".join(exposure.http_on))


def permissions(snapshot: Snapshot) -> Iterator[Finding]:
    """What may anybody do who reaches it?"""
    server, others = snapshot.server, snapshot.exposure.beyond_this_machine
    if server.model_control:
        yield Finding("control_open" if others else "control_local", snapshot.address)
    kinds = [kind for kind, open_ in (("system", server.system_memory), ("CUDA", server.cuda_memory)) if open_]
    if server.system_memory:
        yield Finding(
            "memory_open" if others else "memory_local", snapshot.address, {"kinds": " and ".join(kinds)}
        )
    if server.settings and others:
        yield Finding("settings_open", snapshot.address)


def metrics(snapshot: Snapshot) -> Iterator[Finding]:
    """Do the metrics answer where they were said to be?"""
    found = snapshot.metrics
    if not found.reachable:
        yield Finding("metrics_unreachable" if found.asked else "metrics_not_found", found.address)


CHECKS = (version, readiness, network, permissions, metrics)
