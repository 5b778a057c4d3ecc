"""What is said where a package of an extra is not installed, and where it is, and cannot be imported."""

import ast
import importlib
import sys

import numpy as np
import pytest
import tomllib
from conftest import ROOT

import clipdex
from clipdex.apps.results import Answer, write_arrow
from clipdex.base.extras import is_installed, is_usable, needs
from clipdex.base.installation import extra_command
from clipdex.sources import open_source

pytestmark = pytest.mark.thin

BROKEN = {
    "another NumPy": "raise ImportError('numpy>=2 is required, found 1.26.4\\nmore words')",
    "a library": "raise OSError('libfoo.so: cannot open shared object file')",
    "a dependency": "import clipdex_no_such_dependency",
    "anything": "raise AttributeError('module has no attribute')",
}


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path, monkeypatch):
    """A package `clipdex_broken` that is installed and cannot be imported."""
    (tmp_path / "clipdex_broken.py").write_text(BROKEN[request.param])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "clipdex_broken", raising=False)
    return BROKEN[request.param]


def test_what_is_installed_and_broken_is_not_said_to_be_missing(broken):
    with pytest.raises(clipdex.MissingExtra) as caught, needs("clipdex_broken", "numpy", "tables", "reading X"):
        importlib.import_module("clipdex_broken")
    said = str(caught.value)
    assert said.startswith(f"reading X needs numpy, but the installed numpy {np.__version__} cannot be imported (")
    assert "\n" not in said and "more words" not in said
    assert caught.value.__cause__ is not None and caught.value.reason in said
    assert is_installed("clipdex_broken") and not is_usable("clipdex_broken")


def test_what_is_not_installed_names_the_extra():
    with pytest.raises(clipdex.MissingExtra) as caught, needs("clipdex_none", "none", "tables", "reading X"):
        importlib.import_module("clipdex_none")
    assert str(caught.value) == f"reading X needs none: run  {extra_command('tables')}"
    assert caught.value.reason == ""
    assert not is_installed("clipdex_none") and not is_usable("clipdex_none")


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("pyarrow", "tables", lambda folder: open_source(folder / "t.parquet")),
        ("pyarrow", "tables", lambda folder: write_arrow(folder / "x.arrow", [Answer("q", [])])),
        ("faiss", "faiss", lambda folder: importlib.import_module("clipdex.ann.ann_index").import_faiss()),
        ("onnxruntime", "local", lambda folder: clipdex.connect(f"inproc:{folder}")),
        (
            "watchdog",
            "watch",
            lambda folder: importlib.import_module("clipdex.sources.changes").FolderChanges(folder),
        ),
        ("cv2", "features", lambda folder: importlib.import_module("clipdex.looks.local_features").opencv()),
        ("matplotlib", "plot", lambda folder: importlib.import_module("clipdex.apps.bench.plot")._figure_class()),
    ],
)
def test_every_extra_says_why_its_package_fails(tmp_path, monkeypatch, module, extra, use):
    """As pyarrow 26 does beside NumPy 1, which `pip check` finds nothing wrong with."""
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise ImportError('it wants numpy>=2')")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name == "clipdex.sources.parquet_table":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        clipdex.MissingExtra, match=r"cannot be imported \(ImportError: it wants numpy>=2\)"
    ) as caught:
        use(tmp_path)
    assert caught.value.extra == extra
    assert extra_command(extra) in str(caught.value)
    assert not (tmp_path / "x.arrow").exists()


@pytest.mark.slow
def test_only_one_place_turns_a_failed_import_into_words():
    """MissingExtra is made in extras.py, and where nothing is imported; no other file catches ImportError."""
    exempt = {
        "base/limits.py",  # resource and readahead are Python's own, where the system has them
        "search/readahead.py",
        "model/formats/decoders.py",  # whether there is an option to set
        "search/kernels.py",  # NumPy does the same work
        "base/extras.py",
        "base/errors.py",
    }
    for path in sorted((ROOT / "client" / "clipdex").rglob("*.py")):
        name = str(path.relative_to(ROOT / "client" / "clipdex"))
        if name in exempt:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            caught = ast.unparse(node.type) if isinstance(node, ast.ExceptHandler) and node.type else ""
            assert not {"ImportError", "ModuleNotFoundError"} & set(caught.strip("()").split(", ")), name
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingExtra"), name


@pytest.mark.parametrize("extra", ["tables", "lancedb"])
def test_pyarrow_is_bounded_where_local_brings_numpy_1(extra):
    bound = "pyarrow>=17,<26; sys_platform == 'linux' and platform_machine == 'x86_64'"
    assert bound in project()["optional-dependencies"][extra]


def test_every_extra_is_among_the_installations_that_are_proven():
    """`make test-extras` installs what `tests/proofs/extras.py` lists, as pip gives it today."""
    cases = ast.parse((ROOT / "tests" / "proofs" / "extras.py").read_text())
    proven = {
        name
        for node in ast.walk(cases)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Case"
        for name in ast.literal_eval(node.args[0]).split(",")
    }
    assert set(project()["optional-dependencies"]) == proven - {""}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
