"""The hashes in locks/ are of the versions in constraints-thin.txt; what installs by them takes nothing else."""

import re

import pytest
import tomllib
from conftest import ROOT

LOCKS = ROOT / "locks"
ENTRY = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """The versions of a file, each of which has hashes."""
    text = (LOCKS / f"{name}.txt").read_text()
    assert ENTRY.sub("", text) == "", f"locks/{name}.txt has a line that is no version with its hashes"
    return {normalised(each["name"]): each["version"] for each in ENTRY.finditer(text)}


def pinned() -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints-thin.txt").read_text(), re.M)
    return {normalised(name): version for name, version in lines}


def test_the_locks_have_every_version_of_the_constraints_and_no_other():
    found: dict[str, str] = {}
    for name in ("base", "cli", "build", "tests"):
        for package, version in locked(name).items():
            assert found.setdefault(package, version) == version
    assert found == pinned(), "run  make locks"
    assert set(locked("newest-protobuf")) == {"protobuf"}
    assert {path.stem for path in LOCKS.glob("*.txt")} == {"base", "cli", "build", "tests", "newest-protobuf"}


def test_what_is_declared_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {normalised(each) for each in re.findall(r"^[\w.-]+", "\n".join(requirements), re.M)}

    assert names(project["dependencies"]) <= set(locked("base"))
    assert names(project["optional-dependencies"]["cli"]) <= set(locked("cli"))
    assert not names(project["optional-dependencies"]["cli"]) & set(locked("base"))


@pytest.mark.parametrize("file", ["docker/client.Dockerfile", "Makefile"])
def test_the_client_s_packages_are_installed_by_hash_or_not_at_all(file):
    text = (ROOT / file).read_text().replace("\\\n", " ")
    if file == "Makefile":
        (text,) = re.findall(r"^\.venv-thin/ready:.*\n((?:\t.*\n)+)", text, re.M)
        (flags,) = re.findall(r"^LOCKED = (.*)$", (ROOT / file).read_text(), re.M)
        text = text.replace("$(LOCKED)", flags)
    installs = [each for each in re.split(r"&&|\n", text) if re.search(r"pip (install|wheel)\b", each)]
    assert len(installs) >= 3
    for each in installs:
        own = re.search(r"(clipdex-\*\.whl|-e \.|--wheel-dir /wheels \.)", each)
        assert ("--no-deps" in each) if own else ("--require-hashes" in each and "--only-binary=:all:" in each), (
            each
        )
    assert "pip check" in text
