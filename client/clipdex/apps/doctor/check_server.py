"""Checks of a server itself, and of several that should be alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Model, Snapshot, release_of

__all__ = ["CHECKS", "WORDINGS", "fleet"]

WRONG, NOTE = Severity.WRONG, Severity.NOTE
_NO_TRUST = "Triton has no authentication."

WORDINGS = {
    "not_triton": Words(
        WRONG,
        "it calls itself {name} {version}",
        "Only Triton has been tested.",
        "Serve the repository with  clipdex serve  or NVIDIA's container.",
    ),
    "triton_old": Words(
        WRONG,
        "it is Triton {version}; expected 2.51 (24.10) or later",
        "Older ones refuse the exported files, or were never tested.",
        "Use a newer container; docs/docker.md names one.",
    ),
    "other_not_loaded": Words(
        WRONG,
        "the server has this model but does not serve it: {reason}",
        "A server with strict readiness is not ready because of it.",
        "Repair it or remove it from the repository.",
    ),
    "not_ready": Words(
        WRONG,
        "the server is not ready",
        "Load balancers and health checks take it out of service.",
        "Wait for models to load, or read its log.",
    ),
    "grpc_open": Words(
        WRONG,
        "it answers unencrypted at {addresses}, not only on this machine's loopback",
        f"{_NO_TRUST} Anybody who can reach that address may use it, and read the traffic.",
        "Bind it to 127.0.0.1 (--grpc-address), or put a proxy with TLS and authentication in front of it.",
    ),
    "grpc_unencrypted": Words(
        NOTE,
        "it is on another machine, and the connection is not encrypted",
        f"{_NO_TRUST} That is acceptable only in a network of your own.",
        "Put a proxy with TLS and authentication in front of it if others share the network.",
    ),
    "http_open": Words(
        WRONG,
        "Triton speaks HTTP there, also to other machines",
        f"{_NO_TRUST} clipdex does not need HTTP, and Triton's worst vulnerabilities were in its HTTP parser.",
        "Start it with --allow-http=false.",
    ),
    "http_on": Words(
        NOTE,
        "Triton speaks HTTP there, to this machine only",
        "Nothing in clipdex needs it, and Triton's worst vulnerabilities were in its HTTP parser.",
        "Start it with --allow-http=false.",
    ),
    "control_open": Words(
        WRONG,
        "anybody who can reach it may load and unload models",
        "Loading a model runs code, and unloading one stops everybody's work.",
        "Start it with --model-control-mode=none.",
    ),
    "control_local": Words(
        NOTE,
        "anybody on this machine may load and unload models",
        "Loading a model runs code as the server's user.",
        "Start it with --model-control-mode=none.",
    ),
    "memory_open": Words(
        WRONG,
        "other machines may make it map shared memory ({kinds})",
        "A client names a segment, and the server reads and writes it: access to the port gives access to it.",
        "Start it with --allow-client-shm=false (Triton 26.04 or later) or "
        "--grpc-restricted-protocol=shared-memory:KEY=SECRET, or bind it to 127.0.0.1.",
    ),
    "memory_local": Words(
        NOTE,
        "clients on this machine may pass pictures in shared memory ({kinds})",
        "This is the fastest way for a trusted client on the same host.",
        "",
    ),
    "settings_open": Words(
        NOTE,
        "anybody who can reach it may change its log and trace settings",
        "They could be used to fill its disk.",
        "Add --grpc-restricted-protocol=trace,logging:KEY=SECRET; see docs/docker.md.",
    ),
    "metrics_unreachable": Words(
        WRONG,
        "Triton's metrics do not answer there",
        "The server cannot be monitored, and the GPU could not be checked.",
        "Start it with --allow-metrics=true and the right --metrics-port, or name another address.",
    ),
    "metrics_not_found": Words(
        NOTE,
        "Triton's metrics do not answer at the usual port",
        "They show whether a GPU is used, and the load over time.",
        "If they are elsewhere, give their address:  --metrics HOST:PORT",
    ),
    "versions_differ": Words(
        WRONG,
        "they are Triton {one} and {two}",
        "A client sends any request to either: behaviour changes from one to the next.",
        "Use the same release everywhere.",
    ),
    "model_not_everywhere": Words(
        WRONG,
        "{has} has it, {lacks} does not",
        "A client sends any request to either: those for this model fail on one of them.",
        "Serve the same repository everywhere.",
    ),
    "fleet_fingerprints_differ": Words(
        WRONG,
        "they serve {model} with the fingerprints {one} and {two}",
        "Vectors of two embedding spaces would get into one index.",
        "Serve the same export everywhere.",
    ),
    "fleet_precisions_differ": Words(
        NOTE,
        "they serve {model} in {one} and {two}",
        "Their vectors may be mixed, but differ slightly in their last digits.",
        "",
    ),
    "fleet_batches_differ": Words(
        WRONG,
        "their max_batch_size is {one} and {two}",
        "A client sends full batches of one size: the server with the smaller one refuses them.",
        "Serve the same configuration everywhere.",
    ),
}


def fleet(snapshots: Sequence[Snapshot]) -> Iterator[Finding]:
    """Compare each server with the first: a client sends any request to any of them."""
    if not snapshots:
        return
    first = snapshots[0]
    for other in snapshots[1:]:
        where = f"{other.address} and {first.address}"
        if other.server.version != first.server.version:
            facts = {"one": other.server.version, "two": first.server.version}
            yield Finding("versions_differ", where, facts)
        ours, theirs = ({model.name: model for model in each.models} for each in (first, other))
        for name in sorted(set(ours) ^ set(theirs)):
            holder, lacking = (first, other) if name in ours else (other, first)
            yield Finding("model_not_everywhere", name, {"has": holder.address, "lacks": lacking.address})
        for name in sorted(set(ours) & set(theirs)):
            yield from _compare(ours[name], theirs[name], where)


def _compare(a: Model, b: Model, where: str) -> Iterator[Finding]:
    if a.card is not None and b.card is not None:
        if a.card.fingerprint != b.card.fingerprint:
            facts = {"one": b.card.fingerprint[:12], "two": a.card.fingerprint[:12], "model": a.name}
            yield Finding("fleet_fingerprints_differ", where, facts)
        elif a.card.precision != b.card.precision:
            facts = {"one": b.card.precision, "two": a.card.precision, "model": a.name}
            yield Finding("fleet_precisions_differ", where, facts)
    sizes = [{part: tower.max_batch_size for part, tower in model.towers.items()} for model in (a, b)]
    for part in sorted(set(sizes[0]) & set(sizes[1])):
        if sizes[0][part] != sizes[1][part]:
            rows = {"one": sizes[1][part], "two": sizes[0][part]}
            yield Finding("fleet_batches_differ", f"{a.name}_{part} at {where}", rows)


# 24.10: the oldest release that reads what clipdex exports, and the oldest one tested.
_OLDEST = (2, 51)


def version(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that the server is Triton, and recent enough."""
    server = snapshot.server
    release = release_of(server)
    if release is None:
        yield Finding("not_triton", snapshot.address, {"name": server.name, "version": server.version})
    elif release < _OLDEST:
        yield Finding("triton_old", snapshot.address, {"version": server.version})


def readiness(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that all models are served, including those that are not clipdex's."""
    ours = {f"{model.name}_{part}" for model in snapshot.models for part in ("image", "text", "assets")}
    for name, reason in snapshot.server.unready.items():
        if name not in ours:
            yield Finding("other_not_loaded", name, {"reason": reason})
    if not snapshot.server.ready:
        yield Finding("not_ready", snapshot.address)


def network(snapshot: Snapshot) -> Iterator[Finding]:
    """Check whether it is open to others, unencrypted or over HTTP."""
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
    """Check what anybody who can reach it may do."""
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
    """Check that the metrics answer."""
    found = snapshot.metrics
    if not found.reachable:
        yield Finding("metrics_unreachable" if found.asked else "metrics_not_found", found.address)


CHECKS = (version, readiness, network, permissions, metrics)
