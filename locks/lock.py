"""Write locks/*.txt: the versions of constraints-thin.txt, with the hashes of all files of each on the index.

python locks/lock.py            # `make locks` runs it, in an environment that has pip-tools
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# tritonclient 2.73 asks for protobuf < 7, and pip keeps to that; the thin client's tests show that 7 works.
NEWEST_PROTOBUF = "7.36.2"

COMPILE = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--no-header"]
COMPILE += ["--no-annotate", "--strip-extras", "--allow-unsafe", "--no-emit-index-url", "--no-emit-find-links"]


def wanted() -> dict[str, list[str]]:
    """What each file is for: its name, and the requirements that it has to hold, with all they depend on."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    return {
        "base": project["dependencies"],
        "cli": project["optional-dependencies"]["cli"],
        "build": [*declared["build-system"]["requires"], "editables"],
        "tests": ["pytest", "pytest-xdist"],
    }


def lock(name: str, requirements: list[str], *options: str) -> None:
    """Write one file."""
    command = [*COMPILE, *options, "--output-file", f"locks/{name}.txt", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(requirements) + "\n", text=True, check=True)


def main() -> None:
    """Write them all."""
    for name, requirements in wanted().items():
        lock(name, requirements, "--constraint", "constraints-thin.txt")
    lock("newest-protobuf", [f"protobuf=={NEWEST_PROTOBUF}"])


if __name__ == "__main__":
    main()
