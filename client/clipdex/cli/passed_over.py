"""What a command says of files and folders that it found and did not take."""

from __future__ import annotations

from clipdex.cli.printing import note
from clipdex.sources import PassedOver

__all__ = ["say_passed_over"]

_SHOWN = 6  # suffixes, names


def say_passed_over(found: PassedOver) -> None:
    """Say on standard error what folders hold that was not taken; nothing, if they hold no more."""
    if found.others:
        kinds = sorted(found.others.items(), key=lambda kind: (-kind[1], kind[0]))
        named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds[:_SHOWN]]
        more = sum(count for _, count in kinds[_SHOWN:])
        named += [f"{more:,} of other kinds"] if more else []
        were = "other was" if sum(found.others.values()) == 1 else "others were"
        note(f"{sum(found.others.values()):,} {were} not looked at: {', '.join(named)}")
    if found.left_out:
        names = sorted(found.left_out.items(), key=lambda one: (-one[1], one[0]))
        named = [f"{name} ({count:,})" if count > 1 else name for name, count in names[:_SHOWN] if name]
        rest = f" and {len(names) - _SHOWN:,} more names" if len(names) > _SHOWN else ""
        note(
            f"left out as hidden, junk or excluded: {found.left_out_files:,} pictures by their names and "
            f"{found.left_out_folders:,} folders: {', '.join(named)}{rest}"
        )
