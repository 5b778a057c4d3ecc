"""An environment for the packages clipdex is measured against: they never touch the project's own."""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"


def peers_python(*packages: str) -> Path:
    """The interpreter of `.venv-peers`, with these packages and clipdex's client installed there."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        venv.create(PEERS, with_pip=True)
    stamp = PEERS / "installed"
    installed = set(stamp.read_text().split()) if stamp.exists() else set()
    if missing := [package for package in ("clipdex", *packages) if package not in installed]:
        wanted = ["-e", str(ROOT)] if "clipdex" in missing else []
        wanted += [package for package in missing if package != "clipdex"]
        print(f"installing {', '.join(missing)} in {PEERS.name}", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        stamp.write_text(" ".join(sorted(installed | set(missing))))
    return python
