"""Drawn pictures of many shapes, an index of them, and the page on it: for a browser's tests and screenshots."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from conftest import MODEL_REPOSITORY
from PIL import Image

import clipdex
from clipdex.web import WebSettings, create_app
from clipdex_export.demo.draw import draw
from clipdex_export.demo.sampling import sample_scene

SERVER = f"inproc:{MODEL_REPOSITORY}"

_SIZES = ((320, 240), (240, 320), (400, 225), (240, 240), (300, 200), (216, 324))


def draw_pictures(folder: Path, count: int, *, copies: int = 0) -> None:
    """Draw `count` pictures into three subfolders, and `copies` copies of the first ones, smaller, in another."""
    rng = random.Random(14)
    for i in range(count):
        scene = sample_scene(rng)
        square = draw(scene, i, size=240, oversample=1)
        size = (240, 240) if scene.ground.striped else _SIZES[i % len(_SIZES)]
        picture = _ground(np.asarray(square), size, i)
        picture.paste(square, ((size[0] - 240) // 2, (size[1] - 240) // 2))
        path = folder / ("holiday", "home", "work")[i % 3] / f"drawing {i:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=88)
        if i < copies:
            copy = folder / "sent" / f"drawing {i:04} (1).jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            picture.resize((size[0] * 3 // 4, size[1] * 3 // 4)).save(copy, quality=80)


def _ground(square: np.ndarray, size: tuple[int, int], seed: int) -> Image.Image:
    """Make the ground of a drawing, of another size: its colour, and noise."""
    colour = square[:6].reshape(-1, 3).mean(axis=0)
    noise = np.random.default_rng(seed).uniform(-6, 6, (size[1], size[0], 1))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def index_of(folder: Path, index: Path) -> Path:
    """Index a folder with the demo model, in this process."""
    with clipdex.connect(SERVER, model="demo") as client:
        clipdex.index_pictures(client, folder, index)
    return index


@contextmanager
def served(*indexes: Path, server: str | None = SERVER, **settings: Any) -> Iterator[str]:
    """Serve indexes on a free port, in a thread of this process -> the address of the page."""
    model = None if server is None else "demo"
    app = create_app(WebSettings(indexes=indexes, server=server, model=model, **settings))
    site = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=site.run)
    thread.start()
    try:
        while not site.started:
            if not thread.is_alive():
                raise RuntimeError("the page did not start")
            time.sleep(0.01)
        port = site.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        site.should_exit = True
        thread.join()
