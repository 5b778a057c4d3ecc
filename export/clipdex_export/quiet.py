"""Silencing of libraries that print: transformers and its hub client show progress bars and log by default."""

from __future__ import annotations

import logging as python_logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet", "unlogged"]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars, warnings and log lines below errors from transformers, OpenCLIP, torch and the hub.

    Problems are read from their results instead: missing weights, for instance, raise.
    """
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    muted = python_logging.root.manager.disable
    verbosity = logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    python_logging.disable(python_logging.WARNING)  # OpenCLIP logs on the root logger
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        python_logging.disable(muted)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


@contextmanager
def unlogged() -> Iterator[None]:
    """Suppress log lines below errors: ONNX Runtime's optimizer and quantizer log on the root logger."""
    before = python_logging.root.manager.disable
    python_logging.disable(python_logging.WARNING)
    try:
        yield
    finally:
        python_logging.disable(before)
