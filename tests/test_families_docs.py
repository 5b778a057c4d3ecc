"""The table of docs/families.md is what the code knows, row for row."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from clipdex.model.cleaning import STEPS  # noqa: E402
from clipdex_export.families import FAMILIES  # noqa: E402

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
HEAD = ("family", "for example", "recognised by", "pictures", "texts", "fused for `cuda`")


def table() -> str:
    rows = [
        (family.title, family.examples, family.marks, family.picture, family.text, family.fused)
        for family in FAMILIES
    ]
    lines = [HEAD, ("---",) * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def test_the_table_of_families() -> None:
    expected = table()
    assert expected in PAGE.read_text(encoding="utf-8"), f"docs/families.md should hold this table:\n{expected}"


def test_every_step_of_cleaning_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [step for step in STEPS if f"| `{step}` |" not in page] == []
