"""Bytes that another process is to read, at a path."""

from __future__ import annotations

import os
import tempfile
import weakref

__all__ = ["Spool"]


class Spool:
    """Bytes at a path of this machine, until the object is garbage collected.

    They are not sent through the worker's pipe: parent and worker would deadlock if both had more to send than a
    pipe holds. They are in memory if the kernel supports it (Linux), so that a killed run leaves nothing behind.
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
