"""The key of a local server: `clipdex serve` leaves it in a file for the same user's clients.

A Triton started by clipdex lets only holders of its key register shared memory, load models, or change its
logging. While the server runs, the key is in a file named after the port, which only this user can read.
Clients of other users, and on other machines, do without those functions.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clipdex.wire.address import DNS, UNIX, host_of, is_this_machine, numbers_of, port_of

__all__ = ["HEADER", "KEYED_PROTOCOLS", "KEY_NAME", "key_headers", "new_key", "write_key"]

# Triton's option --grpc-restricted-protocol=PROTOCOLS:NAME=KEY, and the header that it then expects.
KEYED_PROTOCOLS = "shared-memory,model-repository,logging,trace"
KEY_NAME = "clipdex"
HEADER = f"triton-grpc-protocol-{KEY_NAME}"

_ANY = ("0.0.0.0", "::")  # noqa: S104 - only compared
_LONGEST = 1024  # bytes


def new_key() -> str:
    """Make a random key, of characters that need no quoting on a command line."""
    return secrets.token_hex(32)


def write_key(host: str, port: int, key: str) -> Path | None:
    """Write the key of a server that listens at host and port to a file for this user's clients -> the file.

    None if no directory is private to this user; the clients then do without a key.
    """
    # Twice: a server that stops removes the directory if it is empty.
    for directory in (each for each in _directories() for _ in range(2)):
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            with _opened(directory) as folder:
                folder.write(_name(port), f"{host} {key}\n".encode())
            return directory / _name(port)
    return None


def key_headers(address: str) -> tuple[tuple[str, str], ...]:
    """Return the header with the key of the server at an address; none if it is not this user's server."""
    if address.startswith((UNIX, DNS)):
        return ()
    port = port_of(address)
    if port is None:
        return ()
    for directory in _directories():
        with suppress(OSError, ValueError):
            with _opened(directory) as folder:
                host, key = folder.read(_name(port)).decode("ascii").split()
            if _is_at(host, address):
                return ((HEADER, key),)
    return ()


def _is_at(host: str, address: str) -> bool:
    """Return whether an address leads to the server that listens at `host`: no other server gets its key."""
    if not is_this_machine(address):
        return False
    return host in _ANY or not numbers_of(host).isdisjoint(numbers_of(host_of(address)))


def _directories() -> Iterator[Path]:
    """List the directories that may hold a key; the preferred one to write to comes first."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own and os.path.isabs(own):
        yield Path(own) / "clipdex"
    # Services and cron jobs of the same user may lack XDG_RUNTIME_DIR.
    standard = Path(f"/run/user/{os.geteuid()}")
    if str(standard) != own and standard.is_dir():
        yield standard / "clipdex"
    yield Path(tempfile.gettempdir()) / f"clipdex-{os.geteuid()}"


def _name(port: int) -> str:
    return f"triton-{port}.key"


class _opened:
    """A directory that belongs to this user and is closed to others; OSError if it is not."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _require_private(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> _opened:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def read(self, name: str) -> bytes:
        """Read a file, if it is as private as the directory."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self._descriptor)
        try:
            _require_private(descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError(f"{name} is not a regular file")
            return os.read(descriptor, _LONGEST)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically, replacing an old one."""
        temporary = f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self._descriptor)
        try:
            os.write(descriptor, data)
            os.rename(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._descriptor)
            raise
        finally:
            os.close(descriptor)


def _require_private(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError("open to other users")
