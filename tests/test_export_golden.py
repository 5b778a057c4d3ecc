"""The configuration of every target and precision, as Triton parses it, against a text that a person has read.

To write the texts anew after a change of the exporter, and then to read what `git diff` says:

    CLIPDEX_UPDATE_GOLDEN=1 pytest tests/test_export_golden.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from test_export_configs import CARD, parsed

from clipdex_export.precisions import PRECISIONS
from clipdex_export.targets import TARGETS, Serving
from clipdex_export.triton_config import assets_config, image_config, text_config

GOLDEN = Path(__file__).parent / "golden_configs"
CASES = [
    (target, precision.name)
    for target in TARGETS
    for precision in PRECISIONS.values()
    if not precision.targets or target in precision.targets
]


def found(target: str, precision: str) -> str:
    """The parsed configurations of all three models, without the comments."""
    card, serving = replace(CARD, precision=precision), Serving(TARGETS[target], instances=2)
    leading = [("/Transpose_output_0", (3, 224, 224))] if target == "tensorrt" else []
    texts = (
        image_config(card, 64, serving, leading, "a" * 64),
        text_config(card, 64, serving, "b" * 64),
        assets_config(card, b"a zip"),
    )
    return "\n".join(text_format.MessageToString(parsed(text)) for text in texts)


@pytest.mark.parametrize(("target", "precision"), CASES, ids="-".join)
def test_every_configuration_is_the_one_that_was_read(target: str, precision: str) -> None:
    path = GOLDEN / f"{target}-{precision}.pbtxt"
    if os.environ.get("CLIPDEX_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found(target, precision))
    assert found(target, precision) == path.read_text(), f"if it is meant: see the top of {Path(__file__).name}"


def test_every_golden_text_is_of_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {"-".join(case) for case in CASES}
