"""An environment for the packages clipdex is measured against: they never touch the project's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"

# Asked for exactly: a range would bring the build with CUDA, gigabytes of it, where there is a CPU one.
TORCH = "torch==2.13.0"


def peers_python(*packages: str) -> Path:
    """The interpreter of `.venv-peers`, with these packages and clipdex's client installed there."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        venv.create(PEERS, with_pip=True)
    stamp = PEERS / "installed"
    installed = set(stamp.read_text().split()) if stamp.exists() else set()
    if missing := [package for package in ("clipdex", *packages) if package not in installed]:
        print(f"installing {', '.join(missing)} in {PEERS.name}", file=sys.stderr)
        if TORCH in missing:
            _install(python, TORCH)
        wanted = ["-e", str(ROOT)] if "clipdex" in missing else []
        wanted += [package for package in missing if package not in ("clipdex", TORCH)]
        if wanted:
            _install(python, *wanted)
        stamp.write_text(" ".join(sorted(installed | set(missing))))
    return python


def _install(python: Path, *wanted: str) -> None:
    """No package may bring another torch than the one named."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(TORCH + "\n")
        constraints.flush()
        command = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(command, check=True, env=os.environ | {"PIP_CONSTRAINT": constraints.name})


class Peer:
    """One of `peer_loops.py`'s loops, in a process of its own that keeps its model between calls."""

    def __init__(self, name: str, checkpoint: Path, onnx_file: Path, vectors: Path) -> None:
        python = peers_python(
            TORCH, "transformers==5.23.0", "sentence-transformers==6.2.0", "onnxruntime==1.32.0", "pillow==13.0.0"
        )
        script = Path(__file__).with_name("peer_loops.py")
        self.vectors = vectors
        self._process = subprocess.Popen(
            [python, script, name, checkpoint, onnx_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def seconds(self, paths: list[Path]) -> float:
        """Embed these files, save the vectors to `vectors` (.npy) -> how long embedding took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"paths": list(map(str, paths)), "save": str(self.vectors)}) + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the peer ended with status {self._process.wait()}; run benchmarks/peer_loops.py by hand"
            )
        return float(json.loads(answer)["seconds"])

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
