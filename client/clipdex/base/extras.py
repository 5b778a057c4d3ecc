"""Packages that an extra brings: imported where they are needed, and what is said where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from clipdex.base.errors import MissingExtra

__all__ = ["is_installed", "is_usable", "needs", "require_installed"]


@contextmanager
def needs(module: str, package: str, extra: str, purpose: str) -> Iterator[None]:
    """Goes around the import of an extra's package.

    Example: `with needs("faiss", "faiss-cpu", "faiss", "approximate search"): import faiss`

    Raises:
        MissingExtra: it is not installed; or it is, and cannot be imported, and the message says why.
    """
    try:
        yield
    except MissingExtra:
        raise
    # A package built for another version of NumPy, or without its libraries, raises nearly anything at its import.
    except Exception as exc:
        raise _missing(exc, module, package, extra, purpose) from exc


def _missing(error: Exception, module: str, package: str, extra: str, purpose: str) -> MissingExtra:
    """What to raise when the import of `module` raised `error`."""
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return MissingExtra(package, extra, purpose)
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return MissingExtra(
        package, extra, purpose, reason=f"{type(error).__name__}: {words}", version=_version(package)
    )


def is_installed(module: str) -> bool:
    """Whether a package is there, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it was taken out of sys.modules
        return False


def is_usable(module: str) -> bool:
    """Whether a package can be imported; it is."""
    try:
        import_module(module)
    except Exception:
        return False
    return True


def require_installed(module: str, package: str, extra: str, purpose: str) -> None:
    """Raise MissingExtra where a package is not there; it is not imported."""
    if not is_installed(module):
        raise MissingExtra(package, extra, purpose)


def _version(package: str) -> str:
    # Imported here: it brings the email package, and every decode worker imports this file.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
