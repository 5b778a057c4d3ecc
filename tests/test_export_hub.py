"""A hub id is downloaded with the hub's own client: here from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from clipdex.base.errors import CheckpointError

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_clip import write_tiny  # noqa: E402
from tiny_families import write_modules  # noqa: E402

from clipdex_export.hub import find_checkpoint  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Loads each "id revision" of its arguments and prints a line: the commit and weights, or the refusal.
LOAD = """
import sys
from clipdex.base.errors import CheckpointError
from clipdex_export.families import load_checkpoint
for argument in sys.argv[1:]:
    source, _, revision = argument.partition(" ")
    try:
        loaded = load_checkpoint(source, revision=revision or None)
        print(loaded.source, loaded.revision, loaded.weights_sha256, loaded.family)
    except CheckpointError as exc:
        print(exc)
"""


class Hub(ThreadingHTTPServer):
    """Serves directories as model repositories, in the few calls that the hub's client makes."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        body = self._respond()
        if body:
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._respond()

    def log_message(self, *args: object) -> None:
        pass

    def _respond(self) -> bytes:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, what, revision, *file = [*(parts[2:] if api else parts), "", "", "", ""]
        directory = self.server.repositories.get(f"{owner}/{name}")
        if directory is None:
            return self._refuse(404, "RepoNotFound")
        if name == "gated":
            return self._refuse(403, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        paths = [path for path in directory.rglob("*") if path.is_file()]
        files = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
        if api and what == "revision":
            return self._send_json(
                {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
            )
        if api and what == "tree":
            return self._send_json(
                [{"type": "file", "path": n, "size": len(d), "oid": _sha1(d)} for n, d in files.items()]
            )
        wanted = "/".join(part for part in file if part)
        if self.command == "GET":
            self.server.fetched.append(wanted)
        data = files[wanted]
        return self._send(data, {"X-Repo-Commit": COMMIT, "ETag": f'"{_sha1(data)}"'})

    def _send_json(self, value: object) -> bytes:
        return self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> bytes:
        return self._send(b"", {"X-Error-Code": code}, status)

    def _send(self, data: bytes, headers: dict[str, str], status: int = 200) -> bytes:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        return data


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    safe = write_tiny(tmp_path_factory.mktemp("safe"))
    (safe / "pytorch_model.bin").write_bytes(b"twice the same weights")
    (safe / "open_clip_pytorch_model.bin").write_bytes(b"and a third time")
    pickled = write_tiny(tmp_path_factory.mktemp("pickled"), seed=1)
    from safetensors.torch import load_file

    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with Hub({"acme/clip": safe, "acme/pickled": pickled, "acme/gated": safe}) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def load(endpoint: str, cache: Path, *sources: str) -> list[str]:
    """In a process of its own: the hub's client reads its address once, when it is imported."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", LOAD, *sources]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(sources)
    return lines


def test_a_hub_id(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    hub.fetched.clear()
    first, pinned, pickled, unknown, wrong_revision, gated = load(
        endpoint,
        tmp_path,
        "acme/clip",
        f"acme/clip {COMMIT}",
        "acme/pickled",
        "acme/none",
        "acme/clip v9",
        "acme/gated",
    )
    source, revision, weights, family = first.split()
    assert (source, revision, family) == ("acme/clip", COMMIT, "hf-clip")
    assert pinned == first
    assert pickled.split()[1] == COMMIT and pickled.split()[2] != weights
    assert unknown == "there is no local directory acme/none, and no such repository on the hub (or it is private)"
    assert wrong_revision == "acme/clip has no revision v9 on the hub"
    assert gated.startswith("acme/gated is gated: accept its terms")
    # Weights are fetched once, in the safe format where there is one.
    assert sorted(f for f in hub.fetched if f.endswith((".bin", ".safetensors"))) == [
        "model.safetensors",
        "pytorch_model.bin",
    ]
    # What was downloaded serves when the hub is gone; port 9 answers nobody.
    kept, missing = load("http://127.0.0.1:9", tmp_path, "acme/clip", "acme/other")
    assert kept == first
    assert missing.startswith("there is no local directory acme/other, it is not in the hub's local cache")
    assert "the hub cannot be reached" in missing


def test_families_of_several_directories(family_sources: dict[str, str], tmp_path: Path) -> None:
    """sentence-transformers keeps weights where modules.json says; a pair comes from two repositories."""
    image, text = family_sources["hf_clip"], family_sources["pair_st"].partition("+")[2]
    repositories = {"acme/st": Path(family_sources["st_clip"]), "acme/image": Path(image), "acme/text": Path(text)}
    repositories["acme/elsewhere"] = elsewhere = tmp_path / "elsewhere"
    inner = elsewhere / "0_Transformer"
    shutil.copytree(text, inner)
    (inner / "modules.json").unlink()
    for name, other in (("1_Pooling", "1_Pooling"), ("2_Dense", "3_Dense")):
        (inner / name).rename(elsewhere / other)
    write_modules(elsewhere, Transformer="0_Transformer", Pooling="1_Pooling", Dense="3_Dense")
    with Hub(repositories) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        sources = ("acme/st", "pair:acme/image+acme/text", "pair:acme/image+acme/elsewhere")
        st, pair, same = load(endpoint, tmp_path / "cache", *sources)
        server.shutdown()
    assert st.split()[1] == COMMIT and st.split()[3] == "sentence-transformers-clip"
    assert pair.split()[0] == "pair:acme/image+acme/text" and pair.split()[3] == "pair"
    assert pair.split()[1] == f"{COMMIT}+{COMMIT}"
    assert same.split()[2:] == pair.split()[2:]
    weights = [name for name in server.fetched if name.endswith(".safetensors")]
    assert sorted(weights) == [
        "0_CLIPModel/model.safetensors",
        "0_Transformer/model.safetensors",
        "2_Dense/model.safetensors",
        "3_Dense/model.safetensors",
        "model.safetensors",
        "model.safetensors",
    ]


@pytest.mark.parametrize("source", ["a/b/c", "./x/y", "/x/y", "x y/z", "~nobody/x", "clip"])
def test_what_can_be_no_hub_id_is_not_looked_for_there(source: str) -> None:
    with pytest.raises(CheckpointError, match="it is not a hub id such as openai/clip-vit-base-patch32"):
        find_checkpoint(source, None)
