"""How this copy of clipdex was installed, and so the command that adds an extra to it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from clipdex.base.json_text import parse_json

__all__ = ["extra_command"]

# PyPI's build of torch for Linux brings CUDA with it, gigabytes that an export has no use for.
_CPU_TORCH = "torch --index-url https://download.pytorch.org/whl/cpu"
_WITH_TORCH = ("export", "open-clip")


@cache
def extra_command(extra: str) -> str:
    """Return the shell command that adds an extra to this installation.

    It names the checkout, directory, wheel or repository that clipdex was installed from, or, if that is gone,
    what the extra requires. If clipdex came from an index, it names just that.
    """
    # Imported here: it brings the email package, and every decode worker imports this file.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("clipdex")
    except PackageNotFoundError:  # only on the path
        checkout = Path(__file__).resolve().parents[3]
        command = f"{_pip()} install -e {shlex.quote(f'{checkout}[{extra}]')}"
    else:
        words = _target(extra, parse_json(found.read_text("direct_url.json") or "null"), found.requires or [])
        command = f"{_pip()} install {words}"
    if extra in _WITH_TORCH and sys.platform == "linux" and _is_missing("torch"):
        command = f"{_pip()} install {_CPU_TORCH} && {command}"
    return command


def _target(extra: str, source: dict[str, Any] | None, requirements: list[str]) -> str:
    """Return what to give to `pip install`.

    source: the parsed direct_url.json, which pip writes unless the package came from an index.
    """
    if source is None:
        return shlex.quote(f"clipdex[{extra}]")
    url = str(source["url"])
    if "vcs_info" in source:
        return shlex.quote(f"clipdex[{extra}] @ {source['vcs_info']['vcs']}+{url}")
    parts = urlsplit(url)
    if parts.scheme != "file":
        return shlex.quote(f"clipdex[{extra}] @ {url}")
    path = url2pathname(parts.path)
    if os.path.exists(path):
        editable = "-e " if source.get("dir_info", {}).get("editable") else ""
        return editable + shlex.quote(f"{path}[{extra}]")
    return " ".join(map(shlex.quote, _of_extra(extra, requirements)))


def _of_extra(extra: str, requirements: list[str]) -> list[str]:
    """Return the requirements of an extra, without the marker that says so."""
    marker = re.compile(rf"""(?:;| and) *extra == ["']{re.escape(extra)}["']$""")
    return [marker.sub("", line).strip() for line in requirements if marker.search(line)]


def _pip() -> str:
    """Return the words that run this Python's pip: `pip` alone if that is what the shell finds."""
    first = shutil.which("pip")
    if first is not None and os.path.dirname(first) == os.path.dirname(sys.executable):
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"


def _is_missing(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None
