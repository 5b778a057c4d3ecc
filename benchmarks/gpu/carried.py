"""Wheels carried to a machine that reaches no registry: fetched on one machine, installed on the other.

Nothing but the standard library. On the other machine they go to a folder that comes before its own packages, so
that its torch is used as it is, and its onnxruntime for CPUs neither removed nor in the way.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from environment import ROOT

__all__ = ["CannotCarry", "fetch", "run_with"]

FOLDER = ROOT / ".carried-gpu"
SUMS = "SHA256SUMS"

# What a machine with torch for its GPU may lack. Their own needs are spelled out: pip would bring CUDA again.
WHEELS = (
    "onnxruntime-gpu",
    "flatbuffers",
    "nvidia-pytriton==0.7.0",
    "numpy<2",  # Triton's Python backend
    "tritonclient",
    "python-rapidjson",
    "grpcio",
    "protobuf",
    "google-crc32c",
    "pillow",
    "numkong",
    "sentencepiece",
    "safetensors",
    "typer",
    "annotated-doc",
    "click",
    "shellingham",
    "rich",
    "markdown-it-py",
    "mdurl",
    "Pygments",
)
# What it has to have, as modules: of torch and the rest only its own builds fit its GPU and each other.
NEEDED = ("torch", "transformers", "tokenizers", "onnx", "skimage")
# pip takes wheels of the named platforms alone, and older ones are not implied.
GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35)


class CannotCarry(Exception):
    """One sentence: what is missing or damaged, and what to do."""


def fetch(folder: Path, python: str, piece_mb: int | None) -> None:
    """Download the wheels for Linux on x86-64 into `folder`, with their checksums.

    python: the other machine's, as "3.12".
    piece_mb: cut larger files into pieces of that many megabytes, as `split` does.

    Raises CannotCarry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CannotCarry(f"{folder} is not empty: name a new folder for the wheels")
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    older = [f"--platform=manylinux{year}_x86_64" for year in (2014, 2010, 1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--python-version", python, *platforms, *older]
    if subprocess.run([*command, "--dest", str(folder), *WHEELS], check=False).returncode != 0:
        raise CannotCarry(f"pip could not fetch every wheel for Python {python}: its own words are above")
    sums = []
    for wheel in sorted(folder.glob("*.whl")):
        sums.append(f"{_sha256([wheel])}  {wheel.name}\n")
        if piece_mb is not None:
            _cut(wheel, piece_mb * 1_000_000)
    (folder / SUMS).write_text("".join(sums))
    files = [path.stat().st_size for path in folder.iterdir()]
    print(
        f"{len(sums)} wheels for Python {python}, {sum(files) / 1e6:.0f} MB in {len(files)} files, the largest "
        f"{max(files) / 1e6:.0f} MB; there:  python benchmarks/gpu --wheels {folder.name}"
    )


def run_with(folder: Path, arguments: list[str]) -> int:
    """Install the wheels of `folder`, and run this again with them -> its exit status. Raises CannotCarry."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise CannotCarry(
            f"{sys.executable} lacks {', '.join(lacking)}, which --fetch leaves to the machine: run this with the "
            "Python that has torch for its GPU, or carry their wheels into a folder on PYTHONPATH"
        )
    _install(folder)
    paths = [FOLDER, *(ROOT / part for part in ("client", "export", "server"))]
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([known] if known else [])]),
        "ORT_DISABLE_TELEMETRY": "1",
    }
    script = Path(__file__).resolve().parent
    return subprocess.run([sys.executable, script, "--here", *arguments], env=environment, check=False).returncode


def _install(folder: Path) -> None:
    """Put what the wheels of `folder` hold into FOLDER, unless the same ones are there already."""
    try:
        sums = (folder / SUMS).read_text()
    except OSError as exc:
        raise CannotCarry(
            f"{folder / SUMS}: {exc.strerror}: name a folder that  benchmarks/gpu --fetch  has written"
        ) from None
    stamp = FOLDER / "installed"
    if stamp.exists() and stamp.read_text() == sums:
        return
    wheels = FOLDER / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    whole = [_joined(folder, *_sum_and_name(line, folder), wheels) for line in sums.splitlines()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--upgrade", "--target", str(FOLDER), *map(str, whole)]
    if subprocess.run(command, check=False).returncode != 0:
        raise CannotCarry(f"pip could not install the wheels of {folder}: its own words are above")
    for wheel in whole:
        wheel.unlink()
    _bring_cuda_near()
    stamp.write_text(sums)


def _sum_and_name(line: str, folder: Path) -> tuple[str, str]:
    """Split a line of the checksums. A name with a folder in it is refused: it could be any file."""
    digest, _, name = line.partition("  ")
    if len(digest) != 64 or not name.endswith(".whl") or "/" in name:
        raise CannotCarry(f"{folder / SUMS} has a line that is no checksum of a wheel: {line[:80]!r}")
    return digest, name


def _joined(folder: Path, digest: str, name: str, to: Path) -> Path:
    """Write the wheel `name`, of its pieces if it has been cut, to the folder `to` -> its path."""
    parts = [folder / name] if (folder / name).exists() else sorted(folder.glob(f"{name}.[0-9][0-9][0-9]"))
    if not parts:
        raise CannotCarry(f"{name} is not in {folder}: carry it there, whole or in its pieces")
    if _sha256(parts) != digest:
        raise CannotCarry(
            f"{name} in {folder}, of {len(parts)} {'file' if len(parts) == 1 else 'files'}, is not what was "
            "fetched: a piece is damaged or missing; carry it there again"
        )
    whole = to / name
    with whole.open("wb") as out:
        for block in _blocks(parts):
            out.write(block)
    return whole


def _bring_cuda_near() -> None:
    """Link NVIDIA's libraries of the machine into FOLDER.

    onnxruntime looks for CUDA and cuDNN in the folder `nvidia` beside its own, else among the system's.
    """
    spec = find_spec("nvidia")
    places = () if spec is None else tuple(spec.submodule_search_locations or ())
    link = FOLDER / "nvidia"
    if places and not link.exists():
        link.symlink_to(Path(places[0]).resolve(), target_is_directory=True)


def _cut(wheel: Path, size: int) -> None:
    """Replace a file larger than `size` bytes by NAME.000, NAME.001 and so on."""
    if wheel.stat().st_size <= size:
        return
    with wheel.open("rb") as whole:
        for number, data in enumerate(iter(lambda: whole.read(size), b"")):
            wheel.with_name(f"{wheel.name}.{number:03}").write_bytes(data)
    wheel.unlink()


def _sha256(parts: list[Path]) -> str:
    digest = hashlib.sha256()
    for block in _blocks(parts):
        digest.update(block)
    return digest.hexdigest()


def _blocks(parts: list[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            yield from iter(lambda: file.read(1 << 20), b"")
