"""tritonclient's generated code refuses an older protobuf or grpcio; what to do about it is one sentence."""

import re
import subprocess
import sys
from importlib import metadata

import pytest
from conftest import ROOT

from clipdex.wire import generated

pytestmark = pytest.mark.thin

# Each as a downgrade looks to the generated code: the versions that the packages say, and what their modules do.
DOWNGRADES = {
    "protobuf 5.29.5": "r.MAJOR, r.MINOR, r.PATCH = 5, 29, 5",
    "protobuf 4.25.3": "del sys.modules['google.protobuf'].runtime_version; sys.modules[r.__name__] = None",
    "grpcio 1.60.0": "import grpc; grpc.__version__ = '1.60.0'",
}


@pytest.mark.parametrize("case", DOWNGRADES)
def test_case_25_a_downgraded_package_is_named_with_what_to_install(case):
    package, version = case.split()
    program = f"""
import sys
from importlib import metadata
import google.protobuf.runtime_version as r
known = metadata.version
metadata.version = lambda name: {version!r} if name == {package!r} else known(name)
{DOWNGRADES[case]}
import clipdex
try:
    clipdex.connect("127.0.0.1:1")
except clipdex.ClipdexError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    needed = generated.PROTOBUF if package == "protobuf" else generated.GRPCIO
    tritonclient = metadata.version("tritonclient")
    assert done.stdout == (
        f"{package} {version} is too old for tritonclient {tritonclient}, which needs {needed} or later: "
        f"run  pip install '{package}>={needed}'\n"
    )


def test_what_is_declared_is_what_the_pinned_tritonclient_was_generated_with():
    declared = dict(re.findall(r'^    "(grpcio|protobuf)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M))
    assert declared == {"grpcio": generated.GRPCIO, "protobuf": generated.PROTOBUF}
    with open(generated.service_pb2.__file__, encoding="utf-8") as file:
        assert f"# Protobuf Python Version: {declared['protobuf']}\n" in file.read()
    assert declared["grpcio"] == generated.service_pb2_grpc.GRPC_GENERATED_VERSION
    for name in ("constraints.txt", "constraints-thin.txt"):
        pinned = dict(re.findall(r"^(grpcio|protobuf)==([\d.]+)$", (ROOT / name).read_text(), re.M))
        for package, version in declared.items():
            assert generated._numbers(pinned[package]) >= generated._numbers(version)


def test_nothing_else_imports_generated_code():
    for path in (ROOT / "client" / "clipdex").rglob("*.py"):
        if path.name != "generated.py":
            assert "import tritonclient.grpc" not in path.read_text("utf-8"), path
            assert "from tritonclient.grpc" not in path.read_text("utf-8"), path
