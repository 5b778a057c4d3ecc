"""Are several servers alike?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clipdex.apps.doctor.finding import Finding
from clipdex.apps.doctor.snapshot import Model, Snapshot

__all__ = ["fleet"]


def fleet(snapshots: Sequence[Snapshot]) -> Iterator[Finding]:
    """Compare each with the first: a client takes any of them for any request."""
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
