"""The messages that docs/troubleshooting.md explains are ones that the program can print."""

import ast
import re

import pytest
from conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
MESSAGES = [
    message
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
    for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
]


@pytest.fixture(scope="module")
def spoken():
    """Every text in the code, the expressions in f-strings replaced by a mark."""
    texts = []
    for folder in ("client", "export", "server"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_the_page_has_messages():
    assert len(MESSAGES) >= 25


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_that_is_explained_is_one_that_the_program_prints(spoken, message):
    assert message in spoken
