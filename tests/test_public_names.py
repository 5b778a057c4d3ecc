"""What is public, as docs/design.md lists it; and what `import clipdex` must not load."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from types import ModuleType

import pytest
from conftest import ROOT

import clipdex

pytestmark = pytest.mark.thin


def test_all_is_sorted_and_true():
    assert clipdex.__all__ == sorted(clipdex.__all__)
    assert all(hasattr(clipdex, name) for name in clipdex.__all__)


def listed() -> list[str]:
    """The public modules; of `clipdex_export.export_model`, the module."""
    (said,) = re.findall(r"^- (`clipdex`, .*?): the names in their `__all__`", DESIGN, re.M | re.S)
    names: list[str] = re.findall(r"`([\w.]+)`", said)
    return [re.sub(r"^(clipdex_\w+)\.\w+$", r"\1", name) for name in names]


DESIGN = (ROOT / "docs" / "design.md").read_text()
PUBLIC = listed()
THIN = [name for name in PUBLIC if name == "clipdex" or (name.startswith("clipdex.") and name != "clipdex.web")]


def names_of(module: ModuleType) -> list[str]:
    return list(module.__all__)


def test_the_reference_has_what_the_design_lists():
    (named,) = re.findall(r"^PUBLIC = (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert named.split() == PUBLIC
    assert len(PUBLIC) > 5


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_is_there_says_what_it_is_and_documents_each_of_its_names(name):
    if name not in THIN:
        pytest.importorskip("fastapi" if name == "clipdex.web" else "torch")
    module = importlib.import_module(name)
    assert module.__doc__ and module.__doc__.splitlines()[0].endswith((".", ". Public."))
    names = names_of(module)
    assert names and len(set(names)) == len(names)
    for each in names:
        # `from MODULE import *` of a package imports the modules that it names.
        try:
            found = getattr(module, each)
        except AttributeError:
            found = importlib.import_module(f"{name}.{each}")
        if inspect.ismodule(found) or inspect.isclass(found) or inspect.isroutine(found):
            own = inspect.getdoc(found) or ""
            assert own and not own.startswith(f"{each}("), f"{name}.{each} has no docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_module_has_without_an_underscore_is_in_its_all(name):
    if name not in THIN:
        pytest.importorskip("fastapi" if name == "clipdex.web" else "torch")
    module = importlib.import_module(name)
    here = [
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and getattr(value, "__module__", "") == name
    ]
    assert set(here) <= set(names_of(module))


def packages() -> list[str]:
    """Every package that is installed, found without being imported."""
    found = []
    for folder, top in (("client", "clipdex"), ("export", "clipdex_export"), ("server", "clipdex_server")):
        found.append(top)
        walked = pkgutil.walk_packages([str(ROOT / folder / top)], f"{top}.", onerror=lambda name: None)
        found += [each.name for each in walked if each.ispkg]
    return found


def says_not_public(package: str) -> bool:
    folder = {"clipdex": "client", "clipdex_export": "export", "clipdex_server": "server"}[
        package.partition(".")[0]
    ]
    source = (ROOT / folder / package.replace(".", "/") / "__init__.py").read_text()
    return "\n\nNot public" in (ast.get_docstring(ast.parse(source)) or "")


@pytest.mark.parametrize("package", packages())
def test_a_package_is_public_or_says_at_its_top_that_it_is_not(package):
    """Or the package around it says so; a public one may not."""
    if package in PUBLIC:
        assert not says_not_public(package)
        return
    above = package
    while above and above not in PUBLIC and not says_not_public(above):
        above = above.rpartition(".")[0]
    assert above and above not in PUBLIC, f"the docstring of {package} does not say: Not public"


def examples() -> list[tuple[str, str]]:
    """The Python blocks of the pages for users: one page is about the code behind."""
    pages = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "search-engine.md"})]
    return [
        (page.name, block)
        for page in pages
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    ]


@pytest.mark.parametrize(("page", "block"), examples())
def test_examples_use_nothing_but_what_is_public(page, block):
    benchmarks = importlib.import_module("clipdex.apps.bench")
    modules = {*PUBLIC, *(f"{benchmarks.__name__}.{each}" for each in names_of(benchmarks))}
    for node in ast.walk(ast.parse(block, feature_version=(3, 10))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clipdex"):
            assert node.module in modules, page
            if node.module in THIN:
                assert {alias.name for alias in node.names} <= set(names_of(importlib.import_module(node.module)))
        elif isinstance(node, ast.Import):
            assert all(alias.name in modules for alias in node.names if alias.name.startswith("clipdex")), page
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clipdex":
            assert node.attr in clipdex.__all__ or f"clipdex.{node.attr}" in modules, (
                f"{page}: clipdex.{node.attr}"
            )


def test_every_error_is_public():
    assert set(clipdex.base.errors.__all__) <= set(clipdex.__all__)


def test_import_loads_nothing_heavy():
    heavy = [
        "torch",
        "transformers",
        "onnx",
        "onnxruntime",
        "openvino",
        "typer",
        "rich",
        "grpc",
        "tritonclient",
        "tokenizers",
    ]
    script = f"import sys, clipdex; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_cli_extra_the_command_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None; from clipdex.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_local_extra_inproc_says_what_to_install():
    script = (
        "import sys; sys.modules['onnxruntime'] = sys.modules['openvino'] = None; import clipdex\n"
        "try: clipdex.connect('inproc:.')\n"
        "except clipdex.MissingExtra as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[local]'" in done.stdout
