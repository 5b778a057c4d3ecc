"""From nothing to an answer, without torch: installation, each layout of ready-made ONNX, an index, a search.

    .venv-dev/bin/python benchmarks/first_answer.py [--wheel]       (about five minutes; needs git and pip's index)

In an empty directory: a clone of the last commit, a new virtual environment, and a hub on 127.0.0.1 that holds
each layout, made here from small random checkpoints with torch. All that a user types runs in the new environment,
which has no torch, over scikit-image's photographs. Prints each command with
its seconds, and the environment's size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

LAYOUTS = ("transformers_js", "transformers_js_siglip", "optimum", "immich", "immich_multilingual", "fastembed")
PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "hubble_deep_field",
    "immunohistochemistry",
    "camera",
    "moon",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", action="store_true", help="install a wheel built from the clone, not the clone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clipdex-first-") as directory:
        Trip(Path(directory)).run(wheel=options.wheel)


class Trip:
    def __init__(self, place: Path) -> None:
        self.place = place
        self.steps: list[tuple[str, float]] = []
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CLIPDEX_", "PYTHON", "VIRTUAL"))
        } | {"HOME": str(place / "home"), "HF_HOME": str(place / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        (place / "home").mkdir()
        self.bin = place / "venv" / "bin"

    def run(self, *, wheel: bool) -> None:
        from onnx_layouts import write_layout
        from test_export_hub import Hub

        repositories: dict[str, Path] = {}
        sources: dict[str, str] = {}
        for layout in LAYOUTS:
            source = write_layout(layout, self.place / "layouts" / layout)
            parts = source.removeprefix("pair:").split("+") if source.startswith("pair:") else [source]
            ids = [f"acme/{layout}{i or ''}" for i in range(len(parts))]
            repositories |= dict(zip(ids, map(Path, parts), strict=True))
            sources[layout] = f"pair:{ids[0]}+{ids[1]}" if len(ids) > 1 else ids[0]
        photographs(self.place / "photos")
        with Hub(repositories) as hub:
            Thread(target=hub.serve_forever, daemon=True).start()
            self.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
            self.type(f"git clone --quiet {ROOT} clipdex")
            self.type(f"{sys.executable} -m venv venv")
            what = "./clipdex"
            if wheel:
                self.type("venv/bin/pip wheel --quiet --no-deps -c clipdex/constraints.txt -w dist ./clipdex")
                (built,) = (self.place / "dist").glob("*.whl")
                what = str(built.relative_to(self.place))
                print(f"  the wheel: {built.stat().st_size / 1e6:.1f} MB")
            self.type(f"venv/bin/pip install --quiet -c clipdex/constraints.txt '{what}[cli,local,onnx]'")
            megabytes = self.output("du -sm venv").split()[0]
            absent = self.output("venv/bin/python -c 'import importlib.util as u; print(u.find_spec(\"torch\"))'")
            assert absent.strip() == "None", "torch was installed"
            print(f"  the environment: {megabytes} MB, no torch")
            for layout, source in sources.items():
                self.type(f"venv/bin/clipdex -q export {source} --name {layout} --repository models")
            self.serve_and_ask()
            hub.shutdown()
        total = sum(seconds for _, seconds in self.steps)
        print(f"{len(self.steps)} commands, {total:.0f} s")

    def serve_and_ask(self) -> None:
        """Serve all models, index with each, and ask each."""
        log = (self.place / "serve.log").open("w+")
        began = time.monotonic()
        words = [str(self.bin / "clipdex"), "serve", "--repository", "models", "--port", "0"]
        server = subprocess.Popen(words, cwd=self.place, env=self.environment, stdout=log, stderr=log)
        try:
            while "127.0.0.1:" not in (said := (self.place / "serve.log").read_text()):
                if server.poll() is not None or time.monotonic() - began > 120:
                    raise SystemExit(f"the server did not start:\n{said}")
                time.sleep(0.1)
            self.note("clipdex serve --repository models", time.monotonic() - began)
            address = "127.0.0.1:" + said.split("127.0.0.1:")[1].split()[0].rstrip(",.;)")
            for layout in LAYOUTS:
                where = f"--server {address} --model {layout}"
                self.type(f"venv/bin/clipdex -q index photos --index {layout}.clipdex {where}")
                self.type(f"venv/bin/clipdex -q search 'an astronaut' --index {layout}.clipdex -k 1 {where}")
        finally:
            server.terminate()
            server.wait(30)
            log.close()

    def type(self, command: str) -> None:
        began = time.monotonic()
        print(self.output(command), end="")
        self.note(command.replace("venv/bin/", "").replace(str(ROOT), "CLIPDEX"), time.monotonic() - began)

    def output(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.place, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr or done.stdout}")
        return done.stdout

    def note(self, command: str, seconds: float) -> None:
        self.steps.append((command, seconds))
        print(f"{seconds:7.1f} s  {command}", flush=True)


def photographs(folder: Path) -> None:
    """Write scikit-image's photographs as JPEG files; those that it does not bring along are left out."""
    from PIL import Image
    from skimage import data

    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        try:
            Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg", quality=92)
        except (OSError, ModuleNotFoundError, ValueError):  # it would be downloaded
            continue


if __name__ == "__main__":
    if shutil.which("git") is None:
        raise SystemExit("this needs git")
    main()
