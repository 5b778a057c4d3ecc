"""What `import clipdex` offers, and what it must not load."""

import subprocess
import sys

import pytest

import clipdex

pytestmark = pytest.mark.thin


def test_all_is_sorted_and_true():
    assert clipdex.__all__ == sorted(clipdex.__all__)
    assert all(hasattr(clipdex, name) for name in clipdex.__all__)


def test_every_error_is_public():
    assert set(clipdex.base.errors.__all__) <= set(clipdex.__all__)


def test_import_loads_nothing_heavy():
    heavy = ["torch", "transformers", "onnx", "onnxruntime", "typer", "rich", "grpc", "tritonclient", "tokenizers"]
    script = f"import sys, clipdex; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_cli_extra_the_command_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None; from clipdex.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'clipdex[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_local_extra_inproc_says_what_to_install():
    script = (
        "import sys; sys.modules['onnxruntime'] = None; import clipdex\n"
        "try: clipdex.connect('inproc:.')\n"
        "except clipdex.MissingExtra as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'clipdex[local]'" in done.stdout
