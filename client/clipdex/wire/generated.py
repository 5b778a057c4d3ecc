"""Triton's messages and calls, as protoc generated them into tritonclient; the one place that imports them.

Generated code refuses, when it is imported, a protobuf or grpcio that is older than it. pip lets another package
bring those in later without a word.
"""

from __future__ import annotations

import re
from importlib import metadata

from clipdex.base.errors import ClipdexError

__all__ = ["GRPCIO", "PROTOBUF", "model_config_pb2", "service_pb2", "service_pb2_grpc", "text_format"]

# What the newest tritonclient's code was generated with; pyproject.toml asks for them too.
PROTOBUF = "6.33.5"
GRPCIO = "1.81.1"


def _unusable(exc: Exception) -> ClipdexError:
    """What to install, for an import that failed."""
    triton = f"tritonclient {_version('tritonclient')}"
    protobuf, grpcio = _version("protobuf"), _version("grpcio")
    asked = re.search(r"gencode (\d+(?:\.\d+)*)", str(exc))
    for package, found, needed in (
        ("protobuf", protobuf, asked[1] if asked else PROTOBUF),
        ("grpcio", grpcio, GRPCIO),
    ):
        if _numbers(found) < _numbers(needed):
            return ClipdexError(
                f"{package} {found} is too old for {triton}, which needs {needed} or later: "
                f"run  pip install '{package}>={needed}'"
            )
    why = " ".join(str(exc).split())
    return ClipdexError(
        f"{triton} cannot be imported with protobuf {protobuf} and grpcio {grpcio} ({why}): "
        "run  pip install --upgrade 'tritonclient[grpc]'"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


try:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
except Exception as exc:  # ImportError, protobuf's VersionError, grpcio's RuntimeError
    raise _unusable(exc) from exc
