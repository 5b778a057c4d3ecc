"""The import contract: what may import what, as docs/design.md draws it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"clipdex": ROOT / "client", "clipdex_export": ROOT / "export", "clipdex_server": ROOT / "server"}

# From the ground up: a room imports from those before it, and from itself.
FLOORS = (
    "base",
    "model",
    "looks",
    "wire",
    "client",
    "sources",
    "search",
    "index",
    "ann",
    "features",
    "sinks",
    "pipeline",
    "collection",
    "apps",
    "web",
    "cli",
)
# Files that no room holds: what users import, which may name any room but the command line, and the version.
ENTRANCES = {"clipdex", "clipdex.__main__", "clipdex.aio", "clipdex.testing"}
GROUND = {"clipdex.version"}

# Packages that are heavy, or of one system: the only rooms that import them.
CONFINED = {
    "torch": ("clipdex_export",),
    "transformers": ("clipdex_export",),
    "onnx": ("clipdex_export",),
    "open_clip": ("clipdex_export",),
    "onnxruntime": ("clipdex_export", "clipdex_server", "clipdex.wire"),
    "openvino": ("clipdex_server", "clipdex.wire"),
    "grpc": ("clipdex.wire",),
    "tritonclient": ("clipdex.wire",),
    "sqlite3": ("clipdex.index",),
    "pytriton": ("clipdex_server",),
    "obstore": ("clipdex.sources",),
    "cv2": ("clipdex.looks", "clipdex.features"),
    "ray": ("clipdex.pipeline.engines",),
    **dict.fromkeys(
        ("fastapi", "starlette", "uvicorn", "jinja2", "pydantic", "prometheus_client"), ("clipdex.web",)
    ),
    **dict.fromkeys(
        ("qdrant_client", "qdrant_edge", "pymilvus", "lancedb", "psycopg", "pgvector", "weaviate", "pinecone"),
        ("clipdex.sinks",),
    ),
    "typer": ("clipdex.cli",),
    "rich": ("clipdex.cli",),
    "clipdex_export": ("clipdex_export", "clipdex.cli"),
    "clipdex_server": ("clipdex_server", "clipdex.cli"),
    "clipdex.cli": ("clipdex.cli", "clipdex.__main__"),
}


def modules() -> dict[str, Path]:
    """Every module of the three packages, by name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in (folder / package).rglob("*.py"):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """(module, whether it is only for type checkers) of each import in a file, wherever in it."""
    tree = ast.parse(source)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else str(node.module)), id(node) in typing_only


def room_of(module: str) -> str | None:
    """The room of a module of clipdex, None for the entrances."""
    return module.split(".")[1] if module.startswith("clipdex.") and module not in ENTRANCES | GROUND else None


def wrong(module: str, source: str) -> Iterator[str]:
    """What in a file is against the contract."""
    room = room_of(module)
    for imported, _ in imports(source):
        for package, allowed in CONFINED.items():
            if _within(imported, package) and not any(_within(module, place) for place in allowed):
                yield f"{module} imports {imported}, which is for {' and '.join(allowed)}"
        above = room_of(imported)
        if room and imported in ENTRANCES:
            yield f"{module} imports {imported}, which is an entrance"
        elif room and above and FLOORS.index(above) > FLOORS.index(room):
            yield f"{module} imports {imported}: {above} is above {room}"


def _within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def test_every_room_is_on_a_floor():
    assert {room_of(module) for module in MODULES if module.startswith("clipdex.")} == {*FLOORS, None}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_points_up(package):
    found = [
        line
        for module, path in MODULES.items()
        if _within(module, package)
        for line in wrong(module, path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, line",
    [
        ("clipdex.base.records", "from clipdex.index.rows import RowStore"),
        ("clipdex.sources.scan", "from clipdex.pipeline import index_pictures"),
        ("clipdex.search.topk", "if TYPE_CHECKING:\n    from clipdex.index.reader import Index"),
        ("clipdex.index.rows", "def late():\n    import clipdex.apps.dump_files"),
        ("clipdex.client.client", "import clipdex"),
        ("clipdex.client.client", "import torch"),
        ("clipdex.sources.scan", "import grpc"),
        ("clipdex.apps.results", "import typer"),
        ("clipdex.apps.results", "from clipdex_export import export_model"),
        ("clipdex_export.gate", "from clipdex.cli import main"),
    ],
)
def test_a_wrong_import_is_found(module, line):
    assert len(list(wrong(module, line))) == 1


def test_no_modules_need_each_other():
    """Every module can be imported first. What is for type checkers alone is no need."""
    needs = {
        module: {name for name, typing_only in imports(path.read_text()) if name in MODULES and not typing_only}
        - {module}
        for module, path in MODULES.items()
    }
    settled: set[str] = set()
    while free := {module for module, names in needs.items() if module not in settled and names <= settled}:
        settled |= free
    assert not set(needs) - settled


def test_the_drawing_is_the_contract():
    """docs/design.md draws the floors, the top one first."""
    page = (ROOT / "docs" / "design.md").read_text()
    drawn = [
        line.split()[0]
        for line in page.partition("<!-- floors -->")[2].partition("<!-- end -->")[0].splitlines()
        if line.startswith("    ")
    ]
    assert [room.rstrip("/") for room in drawn] == list(reversed(FLOORS))
