"""The table of docs/onnx-sources.md is what the code knows, and its package needs no torch."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT

from clipdex_export.onnx_sources import LAYOUTS
from clipdex_export.same_space import FLOORS

PAGE = ROOT / "docs" / "onnx-sources.md"
HEAD = ("layout", "for example", "recognised by", "pictures", "texts")


def test_the_table_of_layouts() -> None:
    rows = [
        (layout.title, layout.examples, layout.marks, layout.image_tower, layout.text_tower) for layout in LAYOUTS
    ]
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    expected = "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
    assert expected in PAGE.read_text(encoding="utf-8"), f"the page should hold this table:\n{expected}"


def test_the_floors_of_same_as() -> None:
    (stated,) = re.findall(
        r"least ([\d.]+) \(([\d.]+) if `vit_b_32` is in fp16\)", " ".join(PAGE.read_text(encoding="utf-8").split())
    )
    assert tuple(map(float, stated)) == (FLOORS["fp32"], FLOORS["fp16"])


def test_nothing_of_it_imports_torch() -> None:
    """Every module of the package and of what it uses, where torch and transformers cannot be imported."""
    code = (
        "import sys, pkgutil, importlib\n"
        "for name in ('torch', 'transformers', 'skimage', 'safetensors'): sys.modules[name] = None\n"
        "import clipdex_export.onnx_sources as package\n"
        "for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "import clipdex_export.exporting, clipdex_export.same_space, clipdex_export.adapt\n"
        "assert 'clipdex_export.families' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
