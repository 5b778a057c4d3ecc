"""One picture, two pictures: what is counted is named as English has it."""

import re

import pytest
from conftest import ROOT

from clipdex.base.counting import counted

pytestmark = pytest.mark.thin

NOUNS = "pictures|files|rows|folders|groups|duplicates|copies|commits|queries|questions|names|failures|members"


def test_one_is_one_and_all_else_is_many():
    assert [counted(n, "picture") for n in (0, 1, 2, 1200)] == [
        "0 pictures",
        "1 picture",
        "2 pictures",
        "1,200 pictures",
    ]
    assert [counted(n, "copy", "copies") for n in (0, 1, 2)] == ["0 copies", "1 copy", "2 copies"]


def test_no_command_counts_by_itself():
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((ROOT / "client" / "clipdex" / "cli").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(rf"\}} (more |other )?({NOUNS})\b(?! ×| in an )", line)
    ]
    assert found == []
