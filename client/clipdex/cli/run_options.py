"""The options of `clipdex index` that other commands over a folder take too, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from clipdex.cli.index import index, limits_of
from clipdex.cli.splicing import splice
from clipdex.client.client import Client
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import check_decode
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.pipeline.report import RunReport
from clipdex.sources import Exclusion, Source

__all__ = ["RunOptions", "takes_run_options"]

_LIMITS = ("max_file_mib", "max_pixels", "file_timeout", "worker_memory_mib", "large_memory_mib")
_TAKEN = (
    "tar",
    "exclude",
    "hidden",
    "no_exif",
    "dtype",
    "icc",
    "decode",
    "workers",
    *_LIMITS,
    "shared_memory",
    "ring_mib",
)
_MIB = 1 << 20


@dataclass(frozen=True)
class RunOptions:
    """The options that were given, by name."""

    given: dict[str, Any] = field(default_factory=dict)

    @property
    def exclusion(self) -> Exclusion:
        """What is left out of the folder. Raises InvalidArgument."""
        return Exclusion(self.given["exclude"] or (), hidden=self.given["hidden"])

    @property
    def tar(self) -> bool:
        """Whether the folder's tars are meant."""
        return bool(self.given["tar"])

    @property
    def shared_memory(self) -> str:
        """When to use shared memory, as `clipdex.connect` takes it."""
        return str(self.given["shared_memory"].value)

    def run(self, client: Client, source: Source, out: Any, **more: Any) -> RunReport:
        """Bring an index up to date with a source. more: further arguments of `index_pictures`."""
        icc, decode = self.given["icc"], self.given["decode"]
        return index_pictures(
            client,
            source,
            out,
            dtype=self.given["dtype"].value,
            icc=None if icc is None else check_icc(icc.value),
            decode=None if decode is None else check_decode(decode.value),
            workers=self.given["workers"],
            limits=limits_of(*(self.given[name] for name in _LIMITS)),
            exif=not self.given["no_exif"],
            max_ring_bytes=self.given["ring_mib"] * _MIB,
            **more,
        )


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `options` (RunOptions) by those options of `clipdex index`."""
    return splice(command, "options", _options)


def _options(**given: Any) -> RunOptions:
    return RunOptions(given)


def _borrow() -> None:
    hints = get_type_hints(index, include_extras=True)
    there = inspect.signature(index).parameters
    taken = [there[name].replace(annotation=hints[name]) for name in _TAKEN]
    _options.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]  # splice reads it
    _options.__annotations__ = {name: hints[name] for name in _TAKEN}


_borrow()
