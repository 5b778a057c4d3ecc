"""The checkout itself: what is pinned, what is committed, and that CI runs what the README says."""

import re
import subprocess
from importlib.metadata import distributions

import pytest
import tomllib
from conftest import MODEL_REPOSITORY, ROOT, present

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file):
    lines = (ROOT / file).read_text().splitlines()
    return dict(
        (normalised(name), version)
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    )


@pytest.mark.parametrize(
    "file", ["constraints.txt", "constraints-thin.txt", "constraints-stores.txt", "constraints-buckets.txt"]
)
def test_every_line_of_the_constraints_pins_one_version(file):
    for line in (ROOT / file).read_text().splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", line), line


def test_every_installed_package_is_pinned_to_the_version_it_has():
    """In the environment that `make test` makes; another one may hold more."""
    if not (ROOT / ".venv-dev" / "ready").exists():
        pytest.skip("this is not the environment of make test")
    pinned = pins("constraints.txt")
    own = {"clipdex", "pip", "setuptools"}
    for distribution in distributions():
        name = normalised(distribution.metadata["Name"])
        if name not in own and str(distribution.locate_file("")).startswith(str(ROOT)):
            assert pinned.get(name) == distribution.version.partition("+")[0], name


def test_every_dependency_that_is_declared_is_pinned():
    files = ("constraints.txt", "constraints-stores.txt", "constraints-buckets.txt", "constraints-ray.txt")
    pinned = {name for file in files for name in pins(file)}
    optional = PROJECT["optional-dependencies"]
    declared = [
        *PROJECT["dependencies"],
        *(d for extra, needs in optional.items() if extra not in ("local-gpu", "weaviate") for d in needs),
    ]
    for requirement in declared:
        assert normalised(present(re.match(r"[\w.-]+", requirement))[0]) in pinned, requirement


def test_torch_is_asked_for_exactly():
    """A range would bring gigabytes of CUDA."""
    assert pins("constraints.txt")["torch"] == "2.13.0"
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text()


def test_the_thin_client_needs_no_heavy_package():
    needs = {normalised(present(re.match(r"[\w.-]+", line))[0]) for line in PROJECT["dependencies"]}
    assert needs == {"numpy", "pillow", "tritonclient", "grpcio", "protobuf", "tokenizers", "google-crc32c"}


def test_ci_runs_what_the_readme_tells_a_newcomer_to_run():
    ran = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert ran == ["lint", "test", "demo"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    readme = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    assert "make demo" in readme
    assert "make lint test" in readme


def test_hosted_ci_runs_the_same_and_names_targets_that_exist():
    ran = re.findall(r"^ +- run: make (.+)$", (ROOT / ".github" / "workflows" / "ci.yaml").read_text(), re.M)
    assert ran == ["lint", "test-thin", "coverage", "demo"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(ran) <= set(targets)


def test_mypy_reads_every_folder_with_code():
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert {line.partition("/")[0] for line in tracked.stdout.split()} == set(settings["files"])
    assert settings["strict"] is True


def test_the_demo_model_and_its_checkpoint_are_committed_and_small():
    files = [*(ROOT / "export" / "checkpoints" / "demo").glob("*")]
    files += [
        path for part in ("image", "text", "assets") for path in (MODEL_REPOSITORY / f"demo_{part}").rglob("*")
    ]
    sizes = [path.stat().st_size for path in files if path.is_file()]
    assert len(sizes) >= 10
    assert sum(sizes) <= 16_000_000


def test_no_other_model_is_committed():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    names = tracked.stdout.decode().split("\0")
    models = {name for name in names if name.endswith((".onnx", ".safetensors", ".data", ".bin", ".pt"))}
    assert models == {
        "export/checkpoints/demo/model.safetensors",
        *(f"model_repository/demo_{part}/1/model.onnx" for part in ("assets", "image", "text")),
    }


def test_the_extras_of_the_design_are_there():
    assert {"cli", "local", "local-gpu", "export", "dev"} <= set(PROJECT["optional-dependencies"])
