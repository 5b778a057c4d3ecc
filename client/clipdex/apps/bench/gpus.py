"""Whether a server computes on GPUs, as far as it says."""

from __future__ import annotations

from clipdex.base.errors import ClipdexError
from clipdex.wire import Credentials

__all__ = ["gpus_of"]


def gpus_of(address: str, model: str, credentials: Credentials | None = None) -> int | None:
    """The GPUs that hold a model's image part: 0 for the CPU, None where nobody says.

    Args:
        address: as `Client.address`; of several servers the first is asked.
        model: the model's name, as its card has it.
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
