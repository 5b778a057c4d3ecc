"""Zero-shot accuracy of the demo model on pictures that it never saw: by clipdex, and by PyTorch.

    python benchmarks/zero_shot.py [ADDRESS]

1,000 held-out pictures are drawn. Those that show one thing, or several equal ones, are classified by shape (ten
labels) and by colour (ten labels); of pictures of two things neither would be one answer. ADDRESS is a server,
or inproc:DIR; a Triton of its own if left out. PyTorch runs the checkpoint with its own image processor and
tokenizer, and the formula of CLIP's authors written out.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("client", "export", "server")]

import clipdex  # noqa: E402
from clipdex.client.classification import DEFAULT_TEMPLATES  # noqa: E402
from clipdex_export.demo.scenes import COLOURS, SHAPES, Pair  # noqa: E402
from clipdex_server import LocalTriton  # noqa: E402
from demo_training.heldout import draw_held_out  # noqa: E402
from demo_training.torch_encoder import TorchEncoder  # noqa: E402

# What is asked, the labels, the templates: the model's own words, and the default that it has never read.
QUESTIONS = (
    ("shape", SHAPES, ("a {}", "{}")),
    ("colour", tuple(COLOURS), ("something {}", "a {} thing")),
    ("shape", SHAPES, DEFAULT_TEMPLATES),
    ("colour", tuple(COLOURS), DEFAULT_TEMPLATES),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        held_out = draw_held_out(Path(directory))
        chosen = [i for i, scene in enumerate(held_out.scenes) if not isinstance(scene, Pair)]
        paths = [held_out.paths[i] for i in chosen]
        things = [held_out.scenes[i].thing for i in chosen]  # type: ignore[union-attr]
        address = sys.argv[1] if len(sys.argv) > 1 else None
        if address is None:
            address = stack.enter_context(LocalTriton(ROOT / "model_repository", stop_timeout_s=0)).address
        client = stack.enter_context(clipdex.connect(address, model="demo"))
        torch = TorchEncoder(ROOT / "export" / "checkpoints" / "demo")
        print(f"{len(paths)} held-out pictures, {client.server.name} {client.server.version}\n")
        print("| by | templates | clipdex | PyTorch | same answer | probabilities differ by at most |")
        print("|---|---|---|---|---|---|")
        pictures = torch.embed_images(paths)
        for kind, labels, templates in QUESTIONS:
            ours = client.classify(paths, labels, templates=templates)
            texts = torch.embed_texts(
                [template.replace("{}", label) for label in labels for template in templates]
            )
            vectors = texts.reshape(len(labels), len(templates), -1).mean(axis=1)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            odds = np.exp(client.card.logit_scale * (pictures @ vectors.T))
            theirs = odds / odds.sum(axis=1, keepdims=True)
            truth = np.array([labels.index(getattr(thing, kind)) for thing in things])
            best, other = ours.argmax(axis=1), theirs.argmax(axis=1)
            shown = ", ".join(f'"{template}"' for template in templates)
            print(
                f"| {kind} | {shown} | {(best == truth).mean():.2%} | {(other == truth).mean():.2%} | "
                f"{(best == other).mean():.2%} | {np.abs(ours - theirs).max():.1e} |"
            )


if __name__ == "__main__":
    main()
