"""Importing the packages of an extra where they are needed, with an error that names the extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from clipdex.base.errors import MissingExtra

__all__ = ["is_installed", "is_usable", "needs", "require_installed"]


@contextmanager
def needs(module: str, package: str, extra: str, purpose: str) -> Iterator[None]:
    """Wrap the import of an extra's package.

    Example: `with needs("faiss", "faiss-cpu", "faiss", "approximate search"): import faiss`

    Raises:
        MissingExtra: it is not installed, or cannot be imported; the message says why.
    """
    try:
        yield
    except MissingExtra:
        raise
    # A package built for another version of NumPy, or without its libraries, may raise almost anything on import.
    except Exception as exc:
        raise _missing(exc, module, package, extra, purpose) from exc


def _missing(error: Exception, module: str, package: str, extra: str, purpose: str) -> MissingExtra:
    """Make the error to raise when the import of `module` raised `error`."""
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return MissingExtra(package, extra, purpose)
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return MissingExtra(
        package, extra, purpose, reason=f"{type(error).__name__}: {words}", version=_version(package)
    )


def is_installed(module: str) -> bool:
    """Return whether a package is installed, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it was removed from sys.modules
        return False


def is_usable(module: str) -> bool:
    """Import a package; return whether that worked."""
    try:
        import_module(module)
    except Exception:
        return False
    return True


def require_installed(module: str, package: str, extra: str, purpose: str) -> None:
    """Raise MissingExtra if a package is not installed; it is not imported."""
    if not is_installed(module):
        raise MissingExtra(package, extra, purpose)


def _version(package: str) -> str:
    # Imported here: it brings the email package, and every decode worker imports this file.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
