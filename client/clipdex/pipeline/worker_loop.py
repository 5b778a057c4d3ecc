"""The life of a worker process that reads and decodes pictures: its limits, its messages, its errors.

It is a separate process so that a picture made to break a decoder ends one worker and not its parent. It is
started with the descriptors of its pipe and of memory shared with its siblings. It sends b"" once it is ready,
then an answer to each request; before an answer, a single byte: 3 while it waits for its turn at a large picture,
4 when it has it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias, TypeVar

from PIL import Image

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.base.regular_files import NOT_A_FILE
from clipdex.model.formats.decoders import use_one_thread
from clipdex.pipeline.large_pictures import turn

__all__ = ["BEGINS", "WAITS", "More", "failure_of", "serve", "with_enough_memory"]

# The first byte of an answer is less; these are whole messages: a timeout is paused while its worker waits.
WAITS, BEGINS = 3, 4

More: TypeAlias = "Callable[[], AbstractContextManager[None]] | None"

_T = TypeVar("_T")


def failure_of(exc: ImageError | OSError | MemoryError) -> tuple[str, str]:
    """Return (reason, detail) of what reading or decoding a picture raised."""
    if isinstance(exc, ImageError):
        return exc.reason, str(exc).removeprefix("the bytes given: ")
    if isinstance(exc, FileNotFoundError):
        return "vanished", "the file does not exist any more"
    if isinstance(exc, IsADirectoryError):
        return "not_a_file", NOT_A_FILE
    if isinstance(exc, OSError):
        return "unreadable", exc.strerror or type(exc).__name__
    return "out_of_memory", "not enough memory to read it"


def with_enough_memory(make: Callable[[], _T], more: More) -> _T:
    """Call a function; again with more memory if it had too little and there is more."""
    if more is not None:
        try:
            return make()
        except MemoryError:
            pass
        except ImageError as exc:
            if exc.reason != "out_of_memory":
                raise
        gc.collect()  # the error may hold on to half a picture
    with more() if more is not None else nullcontext():
        return make()


def serve(descriptor: int, memory: int, limits: Limits, answer: Callable[[bytes, More], bytes]) -> None:
    """Answer requests from a pipe until it closes. memory: what siblings lock to take turns at large pictures."""
    # Ctrl-C reaches the whole group, systemd's SIGTERM the whole unit; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # a user cannot act on Pillow's warnings about odd metadata
    use_one_thread()
    # Pillow's own limit would take effect before a higher one of ours; it raises at twice this.
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
    limits.apply_to_this_process()
    _silence_decoders()
    with Connection(descriptor) as pipe, suppress(EOFError, ConnectionError):  # the parent has ended
        pipe.send_bytes(b"")

        def with_more() -> AbstractContextManager[None]:
            return turn(
                memory,
                limits,
                waits=lambda: pipe.send_bytes(bytes([WAITS])),
                begins=lambda: pipe.send_bytes(bytes([BEGINS])),
            )

        more = with_more if limits.allows_larger else None
        while True:
            pipe.send_bytes(answer(pipe.recv_bytes(), more))


def _silence_decoders() -> None:
    """Silence libtiff and others, which print thousands of remarks on standard error; Python's output stays."""
    logging.disable(logging.ERROR)
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 - it stays open
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
