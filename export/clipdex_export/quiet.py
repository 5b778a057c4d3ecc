"""Silencing of libraries that print: transformers and its hub client show progress bars and log by default."""

from __future__ import annotations

import logging as python_logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from clipdex.base.extras import is_installed

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

    muted = python_logging.root.manager.disable
    hub_bars = not are_progress_bars_disabled()
    python_logging.disable(python_logging.WARNING)  # OpenCLIP logs on the root logger
    disable_progress_bars()
    try:
        with _quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        python_logging.disable(muted)
        if hub_bars:
            enable_progress_bars()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers, where it is installed: ready-made ONNX files need neither it nor torch."""
    if not is_installed("transformers"):
        yield
        return
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def unlogged() -> Iterator[None]:
    """Suppress log lines below errors: ONNX Runtime's optimizer and quantizer log on the root logger."""
    before = python_logging.root.manager.disable
    python_logging.disable(python_logging.WARNING)
    try:
        yield
    finally:
        python_logging.disable(before)
