"""The key of a server on this machine: what a `clipdex serve` of this user leaves for this user's clients.

A Triton started by clipdex lets those alone who hold its key register shared memory, load models, or change
its logs. The key lies in a file that nobody else may read, named for the port, for as long as the server runs.
Clients of other users, and of other machines, do without what it opens.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clipdex.wire.address import DNS, UNIX, host_of, is_this_machine, numbers_of

__all__ = ["HEADER", "KEYED_PROTOCOLS", "KEY_NAME", "key_headers", "new_key", "write_key"]

# In Triton's own words: --grpc-restricted-protocol=PROTOCOLS:NAME=KEY, and the header that it then expects.
KEYED_PROTOCOLS = "shared-memory,model-repository,logging,trace"
KEY_NAME = "clipdex"
HEADER = f"triton-grpc-protocol-{KEY_NAME}"

_ANY = ("0.0.0.0", "::")  # noqa: S104 - only compared
_LONGEST = 1024  # bytes


def new_key() -> str:
    """A key that nobody can guess, of characters that a command line takes as they are."""
    return secrets.token_hex(32)


def write_key(host: str, port: int, key: str) -> Path | None:
    """Leave the key of a server that listens at host and port for this user's clients -> the file.

    None where there is no place that is this user's alone; its clients then do without.
    """
    # Twice: a server that ends takes an empty directory with it.
    for directory in (each for each in _directories() for _ in range(2)):
        with suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            with _opened(directory) as folder:
                folder.write(_name(port), f"{host} {key}\n".encode())
            return directory / _name(port)
    return None


def key_headers(address: str) -> tuple[tuple[str, str], ...]:
    """The headers that hold the key of the server at an address; none if it is not one of this user's."""
    if address.startswith((UNIX, DNS)):
        return ()
    port = address.rpartition(":")[2]
    if not port.isdigit():
        return ()
    for directory in _directories():
        with suppress(OSError, ValueError):
            with _opened(directory) as folder:
                host, key = folder.read(_name(int(port))).decode("ascii").split()
            if _is_at(host, address):
                return ((HEADER, key),)
    return ()


def _is_at(host: str, address: str) -> bool:
    """Whether a server that listens at `host` is the one that this address leads to: nobody else gets its key."""
    if not is_this_machine(address):
        return False
    return host in _ANY or not numbers_of(host).isdisjoint(numbers_of(host_of(address)))


def _directories() -> Iterator[Path]:
    """Where a key may lie, the place to write it first."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own and os.path.isabs(own):
        yield Path(own) / "clipdex"
    # A service or a cron job of the same user is not told where that is.
    standard = Path(f"/run/user/{os.geteuid()}")
    if str(standard) != own and standard.is_dir():
        yield standard / "clipdex"
    yield Path(tempfile.gettempdir()) / f"clipdex-{os.geteuid()}"


def _name(port: int) -> str:
    return f"triton-{port}.key"


class _opened:
    """A directory that is this user's and closed to others; OSError if it is not."""

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
        """A file's bytes, if it is as private as the directory."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self._descriptor)
        try:
            _require_private(descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError(f"{name} is no file")
            return os.read(descriptor, _LONGEST)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """A new file in the place of an old one."""
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
