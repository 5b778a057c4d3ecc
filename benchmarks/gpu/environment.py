"""Is there a GPU, and are the packages there? Nothing but the standard library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Gpu", "NoGpu", "find_gpu", "run_in_own_environment"]

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".venv-gpu"

# The versions of constraints.txt. `onnxruntime` itself must not be beside `onnxruntime-gpu`, so the extras of
# clipdex are spelled out. What CUDA and cuDNN onnxruntime wants need not be what torch brings: it names its own.
PACKAGES = (
    "torch",
    "onnxruntime-gpu[cuda,cudnn]",
    "nvidia-pytriton==0.7.0",
    "numpy<2",
    "transformers>=5.0",
    "onnx>=1.17",
    "safetensors",
    "scikit-image",
    "typer",
    "rich",
)
# TensorRT's provider opens these by name. Without them its rows say so.
OPTIONAL = ("tensorrt-cu12", "tensorrt-cu13")


class NoGpu(Exception):
    """There is none: one sentence that says so."""


@dataclass(frozen=True)
class Gpu:
    """As the driver names it."""

    name: str
    driver: str
    memory_mib: int


def find_gpu() -> Gpu:
    """The first GPU. Raises NoGpu."""
    advice = "run this on a machine with an NVIDIA GPU, or see that it works with  --here --cpu --shapes tiny"
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoGpu(f"there is no NVIDIA driver here (no nvidia-smi): {advice}")
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if line.count(",") == 2]
    if answer.returncode != 0 or not lines:
        reason = " ".join((answer.stderr or answer.stdout).split()) or "it lists none"
        raise NoGpu(f"nvidia-smi finds no GPU ({reason}): {advice}")
    name, driver, memory = (field.strip() for field in lines[0].split(","))
    return Gpu(name, driver, int(float(memory)))


def run_in_own_environment(arguments: list[str]) -> int:
    """Install what is missing, and run this again there -> its exit status."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed"
    wanted = "\n".join(PACKAGES)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {ENVIRONMENT.name}: some gigabytes are downloaded", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", *PACKAGES], check=True)
        subprocess.run([*pip, "--editable", ROOT], check=True)
        for package in OPTIONAL:
            if subprocess.run([*pip, package], check=False).returncode == 0:
                break
        stamp.write_text(wanted)
    script = Path(__file__).resolve().parent
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run([python, script, "--here", *arguments], env=environment, check=False).returncode
