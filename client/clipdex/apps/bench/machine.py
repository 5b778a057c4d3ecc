"""Description of the machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import ClipdexError
from clipdex.wire import Credentials

__all__ = ["Machine", "gpus_of", "this_machine"]

_PACKAGES = ("clipdex", "numpy", "pillow", "tritonclient", "grpcio", "onnxruntime")


@dataclass(frozen=True)
class Machine:
    """The client's machine. cores: those this process may use. versions: of the relevant installed packages."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""


def this_machine() -> Machine:
    """Describe this machine. date: now, in UTC."""
    return Machine(
        cpu=_cpu(),
        cores=cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version.split()[0],
        versions={name: version for name in _PACKAGES if (version := _version(name))},
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def cores() -> int:
    """Return the number of cores this process may use."""
    return usable_cpus()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def gpus_of(address: str, model: str, credentials: Credentials | None = None) -> int | None:
    """Return the number of GPUs that hold a model's image part: 0 for the CPU, None if unknown.

    Args:
        address: as `Client.address`; of several servers, the first is asked.
        model: the model's name, as on its card.
    """
    if address.startswith(("inproc:", "fake:")):
        return None
    from clipdex.wire.inspect.inspector import Inspection

    try:
        with Inspection(address.split(",")[0], credentials) as inspection:
            groups = inspection.model(f"{model}_image").groups
    except ClipdexError:
        return None
    return len({gpu for group in groups if group.kind == "KIND_GPU" for gpu in group.gpus})
