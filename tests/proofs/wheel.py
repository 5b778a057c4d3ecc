"""Build wheel and sdist, install the wheel in a new environment, and run `clipdex demo` from an empty folder.

    python tests/proofs/wheel.py

No checkout is on the path, and the demo cannot write into the environment: root sees it mounted read-only,
anybody else has no right to. The sdist must build the same wheel, file by file. pip takes the dependencies from
its index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1200
_READ_ONLY = """
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
if touch "$1/written" 2>/dev/null; then echo "the environment is not read-only" >&2; exit 1; fi
shift
exec "$@"
"""
_MODEL_FILES = 6  # three models, a configuration and a graph each


def main() -> None:
    scratch = Path(tempfile.mkdtemp(prefix="clipdex-wheel-", dir="/tmp"))
    try:
        prove(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def prove(scratch: Path) -> None:
    """Do all of it below a folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": os.environ.get("HOME", "/root"),
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "PIP_IND"))}
    source = scratch / "source"
    export_tree(source)
    builder = scratch / "builder"
    run([sys.executable, "-m", "venv", builder], environment)
    run([builder / "bin" / "pip", "install", "--quiet", "hatchling"], environment)
    hatchling: list[str | Path] = [builder / "bin" / "python", "-m", "hatchling", "build"]
    run([*hatchling, "-t", "wheel", "-d", scratch / "dist"], environment, source)
    run([*hatchling, "-t", "sdist", "-d", scratch / "dist"], environment, source)
    (wheel,) = (scratch / "dist").glob("*.whl")
    (sdist,) = (scratch / "dist").glob("*.tar.gz")
    shutil.unpack_archive(sdist, scratch / "unpacked", filter="data")
    (unpacked,) = (scratch / "unpacked").iterdir()
    run([*hatchling, "-t", "wheel", "-d", scratch / "again"], environment, unpacked)
    (again,) = (scratch / "again").glob("*.whl")
    held = contents(wheel)
    assert held == contents(again), "the sdist builds another wheel"
    models = [name for name in held if "/model_repository/" in name]
    assert len(models) == _MODEL_FILES, models
    print(f"wheel {mb(wheel)} MB, sdist {mb(sdist)} MB; the sdist builds the same wheel")

    shutil.rmtree(source)
    place = scratch / "environment"
    began = time.monotonic()
    run([sys.executable, "-m", "venv", place], environment)
    run([place / "bin" / "pip", "install", "--quiet", f"{wheel}[cli,local]"], environment)
    print(f"installed with [cli,local] in {time.monotonic() - began:.0f} s: {tree_mb(place)} MB")
    check_demo(place, scratch / "empty", environment)


def check_demo(place: Path, folder: Path, environment: dict[str, str]) -> None:
    """Run the demo in an empty folder, where it cannot write into the environment."""
    home = folder.with_name("home")
    folder.mkdir()
    home.mkdir()
    environment = environment | {"HOME": str(home)}
    command: list[str | Path] = [place / "bin" / "clipdex", "demo", "--pictures", "100"]
    if os.geteuid() == 0:  # whom the rights of files do not stop
        command = ["unshare", "--mount", "sh", "-ec", _READ_ONLY, "sh", place, *command]
    else:
        run(["chmod", "-R", "a-w", place], environment)
    before = listing(place)
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if os.geteuid():
        run(["chmod", "-R", "u+w", place], environment)  # to be removed
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert "answered correctly at rank 1 (Triton" in last, done.stdout
    assert (folder / "demo" / "report.html").is_file()
    assert "drawn shapes" in done.stderr
    assert listing(place) == before, "the demo wrote into the environment"
    seconds = time.monotonic() - began
    print(f"clipdex demo, 100 pictures, the environment read-only: {seconds:.0f} s")
    print(f"  {last}")


def export_tree(target: Path) -> None:
    """Copy what git keeps, as it is in the working tree."""
    names = run(["git", "ls-files", "-z"], dict(os.environ), ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    # As after an export into the checkout: such a model must not get into the wheel.
    (target / "model_repository" / "own_image").mkdir()
    (target / "model_repository" / "own_image" / "config.pbtxt").write_text("")


def run(command: list[str | Path], environment: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run(
        command, env=environment, cwd=folder or "/", capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def listing(place: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in place.rglob("*"))


def mb(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


def tree_mb(place: Path) -> int:
    return round(sum(p.lstat().st_size for p in place.rglob("*") if not p.is_dir()) / 1e6)


if __name__ == "__main__":
    main()
