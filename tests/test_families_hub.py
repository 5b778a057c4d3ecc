"""A tag of OpenCLIP's weights is downloaded by OpenCLIP, from the hub: here from a small hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_export_hub import COMMIT, Hub  # noqa: E402

# Registers the architecture and a tag, as OpenCLIP's own list has them, and loads it.
LOAD = """
import sys
from torchvision_standin import import_open_clip
open_clip = import_open_clip()
open_clip.add_model_config(sys.argv[1])
settings = dict(hf_hub="acme/rn/", interpolation="bilinear", mean=(0.5, 0.5, 0.5))
open_clip.pretrained._PRETRAINED["tiny-RN"] = {
    "mine": open_clip.pretrained._pcfg(**settings),
    "gone": open_clip.pretrained._pcfg(hf_hub="acme/none/"),
}
from clipdex.base.errors import CheckpointError
from clipdex_export.families import load_checkpoint
loaded = load_checkpoint("open_clip:tiny-RN/mine")
print(loaded.revision, loaded.weights_sha256, loaded.image.spec.interpolation, loaded.image.spec.mean[0])
try:
    load_checkpoint("open_clip:tiny-RN/gone")
except CheckpointError as exc:
    print(exc)
"""


def test_a_tag(family_sources: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from clipdex_export.families import load_checkpoint

    by_file = load_checkpoint(family_sources["open_clip_resnet"])
    weights = Path("/" + family_sources["open_clip_resnet"].partition("//")[2])
    repository = tmp_path / "rn"
    repository.mkdir()
    state = torch.load(weights, weights_only=True)["state_dict"]
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    save_file(plain, repository / "open_clip_model.safetensors")
    with Hub({"acme/rn": repository}) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, "-c", LOAD, str(weights.parent.parent / "tiny-RN.json")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    loaded, refused = done.stdout.splitlines()
    # The weights of the file, with the preprocessing of the tag.
    assert loaded.split() == [COMMIT, by_file.weights_sha256, "bilinear", "0.5"]
    assert refused.startswith("the weights gone of OpenCLIP's tiny-RN cannot be downloaded (")
    assert refused.endswith(
        "download the file on a machine with network access, and export open_clip:tiny-RN/gone/FILE"
    )
