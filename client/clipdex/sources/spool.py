"""Bytes that a decode worker can open like a file."""

from __future__ import annotations

import os
import tempfile
import weakref

__all__ = ["Spool"]


class Spool:
    """Holds bytes at a path of this machine until it is garbage.

    Not sent through the worker's pipe: parent and worker would wait for each other where both have more to say
    than a pipe holds. In memory where the kernel can (Linux), so that a killed run leaves nothing behind.
    """

    def __init__(self, data: bytes) -> None:
        """Raises OSError if there is no room."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("clipdex")
            weakref.finalize(self, os.close, descriptor)
            self.path = b"/proc/%d/fd/%d" % (os.getpid(), descriptor)
        else:
            descriptor, name = tempfile.mkstemp(prefix="clipdex-")
            weakref.finalize(self, os.close, descriptor)
            weakref.finalize(self, os.unlink, name)
            self.path = os.fsencode(name)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
