"""What each extra costs: packages, megabytes on disk, seconds of `pip install`.

    python benchmarks/install_size.py [EXTRAS…]

EXTRAS: such as `base`, `cli` or `cli,local`. By default those of docs/install.md. A wheel is built from this
checkout, and for each a new environment is made and the wheel installed into it, without our pins. The size is
that of the environment less that of an empty one. pip's cache is used as it is found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("base", "cli", "cli,local", "heic", "tables", "search", "faiss", "plot")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", scratch, str(ROOT)]
        subprocess.run(pip, check=True)
        (wheel,) = place.glob("clipdex-*.whl")
        print(f"wheel: {wheel.stat().st_size / 1e6:.1f} MB; Python {sys.version.split()[0]}")
        print(f"{'extras':<12} {'packages':>8} {'MB':>6} {'s':>5}")
        for extras in sys.argv[1:] or EXTRAS:
            packages, size, seconds = installed(wheel, extras, place / extras.replace(",", "-"))
            print(f"{extras:<12} {packages:>8} {size:>6.0f} {seconds:>5.0f}", flush=True)


def installed(wheel: Path, extras: str, environment: Path) -> tuple[int, float, float]:
    """Install the wheel with extras -> packages, megabytes, seconds."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    before = tree(environment)
    began = time.monotonic()
    words = str(wheel) + ("" if extras == "base" else f"[{extras}]")
    pip = str(environment / "bin" / "pip")
    subprocess.run([pip, "install", "--quiet", "--disable-pip-version-check", words], check=True)
    seconds = time.monotonic() - began
    count = len(list(environment.glob("lib/python*/site-packages/*.dist-info"))) - 2  # less pip and setuptools
    return count, (tree(environment) - before) / 1e6, seconds


def tree(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(os.lstat(Path(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    main()
