"""Each extra by itself, and all together, as plain pip installs them today: without our pins.

    python tests/proofs/extras.py [NAME…]

For each a new environment is made, `.[EXTRA]` installed from this checkout, `pip check` asked, what the extra is
for imported and a small command run. The environment is removed before the next is made. Downloads some gigabytes.
torch is not chosen by pip: a range brings the build with CUDA. So 2.13.0 is asked for where an extra needs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"
_TIMEOUT_S = 1800

# In an empty folder: three pictures, and a client that needs no server.
_START = """
import io, pathlib, numpy as np
from PIL import Image
import clipdex
from clipdex.sources import open_source
from clipdex.wire import FakeTransport
folder = pathlib.Path("pictures"); folder.mkdir()
for i in range(3):
    noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / f"{i}.png")
def index(source, out):
    with clipdex.Client(FakeTransport()) as client:
        return clipdex.index_pictures(client, source, pathlib.Path(out), workers=1)
"""
_PARQUET = """
import pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({"image": [p.read_bytes() for p in sorted(folder.iterdir())]}), "t.parquet")
"""


@dataclass(frozen=True)
class Case:
    """An installation. python: run in it, after `_START`. commands: of `clipdex`, run after that."""

    extras: str
    python: str
    commands: tuple[str, ...] = ()
    torch: bool = False


_INDEX = "index pictures -o x.clipdex -s inproc:{repository}"
_SEARCH = "search noise -i x.clipdex -s inproc:{repository}"
_OPTIMIZE = ("optimize x.clipdex", _SEARCH)
_ANN = ("ann build x.clipdex", f"{_SEARCH} --ann")
_TABLE = "index t.parquet -o t.clipdex -s inproc:{repository}"
_PLOT = (
    "bench server -s inproc:{repository} --concurrency 1 --batch 1 --seconds 0.2 --warmup 0 --requests 1 "
    "--transfer wire --plot plot.png"
)
_HEIC = """
import pillow_heif
pillow_heif.register_heif_opener()
Image.open("pictures/0.png").save("pictures/h.heic")
assert index(open_source(folder), "h.clipdex").indexed == 4
"""
_EXPORT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from tiny_clip import write_tiny
from clipdex_export import export_model
export_model(write_tiny(pathlib.Path("tiny")), name="tiny", repository=pathlib.Path("repository"))
"""
_TABLES = _PARQUET + 'assert index(pathlib.Path("t.parquet"), "t.clipdex").indexed == 3\n'
_KERNELS = "from clipdex.search.kernels import _numkong\nassert _numkong() is not None\n"
_FAISS = "from clipdex.ann import build_ann\nindex(folder, 'x.clipdex'); build_ann(pathlib.Path('x.clipdex'))\n"
_FIGURE = "from clipdex.apps.bench.plot import check_plot\ncheck_plot(pathlib.Path('plot.png'))\n"

_OPENVINO = "from clipdex.wire.runtimes.open_vino import OpenVino\nassert OpenVino('this').version\n"
_PAGE = """
import re, subprocess, sys, urllib.request
index(folder, "w.clipdex")
command = [pathlib.Path(sys.executable).with_name("clipdex"), "web", "w.clipdex", "-s", "none", "--port", "0"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    address = re.search("http://[0-9.:]+", server.stdout.readline()).group()
    assert "<title>" in urllib.request.urlopen(address, timeout=30).read().decode()
finally:
    server.terminate()
    server.wait(30)
"""
_FEATURES = ("features build x.clipdex", "match pictures/0.png -i x.clipdex")
_WATCH = "from clipdex.sources.changes import FolderChanges\nFolderChanges(folder).close()\n"

CASES = {
    "base": Case("", "assert index(folder, 'x.clipdex').indexed == 3\n"),
    "cli": Case("cli", "", ("--help", "index --help")),
    "local": Case("local", "clipdex.connect('inproc:{repository}').embed_texts(['a cat'])\n"),
    "local-gpu": Case("local-gpu", "clipdex.connect('inproc:{repository}').embed_texts(['a cat'])\n"),
    "heic": Case("heic", _HEIC),
    "tables": Case("tables", _TABLES),
    "search": Case("search", _KERNELS),
    "faiss": Case("faiss", _FAISS),
    "plot": Case("plot", _FIGURE),
    "watch": Case("watch", _WATCH),
    "openvino": Case("local,openvino", _OPENVINO),
    "find and web": Case("cli,local,onnx,web", _PAGE, ("find noise pictures --repository {repository}",)),
    "features": Case("cli,local,features", "", (_INDEX, *_FEATURES)),
    "buckets": Case("buckets", "import obstore.store\nobstore.store.MemoryStore()\n"),
    "ray": Case("ray", "import ray\n"),
    "qdrant": Case("cli,local,qdrant", "", (_INDEX, "push x.clipdex qdrant://{work}/q --verify")),
    "lancedb": Case("cli,local,lancedb", "", (_INDEX, "push x.clipdex lancedb://{work}/l/t --verify")),
    "milvus": Case("cli,local,milvus", "import pymilvus\n"),
    "pgvector": Case("cli,local,pgvector", "import psycopg, pgvector\n"),
    "pinecone": Case("cli,local,pinecone", "import pinecone\n"),
    "weaviate": Case("cli,local,weaviate", "import weaviate\n"),
    "cli,local,tables": Case("cli,local,tables", _PARQUET, (_INDEX, _SEARCH, _TABLE)),
    "export": Case("export", _EXPORT, torch=True),
    "open-clip": Case(
        "open-clip", "import open_clip; open_clip.create_model('RN50', pretrained=None)\n", torch=True
    ),
    "dev": Case("dev", "import pytest, mypy, sentence_transformers\n" + _KERNELS, torch=True),
    # But for local-gpu (onnxruntime and onnxruntime-gpu are one module), and for open-clip: not every index has a
    # torchvision for the torch that is asked for, and transformers imports nothing beside one that does not fit.
    "all": Case(
        "cli,local,export,heic,tables,search,faiss,plot,watch,dev",
        _PARQUET + _HEIC + _KERNELS + _FIGURE + _WATCH + _EXPORT,
        (_INDEX, _SEARCH, _TABLE, *_OPTIMIZE, *_ANN, _PLOT),
        torch=True,
    ),
}


def run(words: list[str | Path], folder: Path, **environment: str) -> tuple[bool, str]:
    """-> whether it succeeded, and the end of what it said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    kept |= {name: value for name, value in os.environ.items() if name in ("PIP_CERT", "PIP_DEFAULT_TIMEOUT")}
    kept |= {name: value for name, value in os.environ.items() if name in ("PIP_INDEX_URL", "PIP_FIND_LINKS")}
    done = subprocess.run(
        words,
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def prove(case: Case) -> list[str]:
    """What went wrong, step by step; nothing if all is well."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="clipdex-extras-") as name:
        folder = Path(name)
        environment, work = folder / "venv", folder / "work"
        work.mkdir()
        python = environment / "bin" / "python"
        repository = str(ROOT / "model_repository")
        wanted = f"{ROOT}[{case.extras}]" if case.extras else str(ROOT)
        steps: list[tuple[str, list[str | Path]]] = [("venv", [sys.executable, "-m", "venv", environment])]
        torch = [TORCH] if case.torch else []
        if torch:
            steps.append(("torch", [python, "-m", "pip", "install", "-q", *torch]))
        steps.append(("install", [python, "-m", "pip", "install", "-q", wanted, *torch]))
        steps.append(("pip check", [python, "-m", "pip", "check"]))
        steps.append(("python", [python, "-c", (_START + case.python).replace("{repository}", repository)]))
        for command in case.commands:
            words = command.replace("{repository}", repository).replace("{work}", str(work)).split()
            steps.append((f"clipdex {command.split()[0]}", [environment / "bin" / "clipdex", *words]))
        for step, argv in steps:
            good, said = run(argv, work, CLIPDEX_CACHE=str(folder / "cache"))
            if not good:
                wrong.append(f"{step}: " + "\n".join(said.splitlines()[-8:]))
                if step in ("venv", "torch", "install"):
                    break
        good, versions = run([python, "-m", "pip", "list", "--format=freeze"], work)
        shown = ("numpy", "pyarrow", "onnxruntime", "protobuf", "grpcio", "tritonclient", "transformers", "torch")
        kept = [line for line in versions.splitlines() if line.partition("==")[0] in shown]
        print("   ", " ".join(kept), flush=True)
        shutil.rmtree(environment, ignore_errors=True)
    return wrong


def main() -> int:
    names = sys.argv[1:] or list(CASES)
    failed = 0
    for name in names:
        began = time.monotonic()
        print(f"{name}:", flush=True)
        wrong = prove(CASES[name])
        failed += bool(wrong)
        print(f"    {'FAILED' if wrong else 'ok'} in {time.monotonic() - began:.0f} s", flush=True)
        for line in wrong:
            print("    " + line.replace("\n", "\n        "), flush=True)
    print(f"{len(names) - failed} of {len(names)} installations work")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
