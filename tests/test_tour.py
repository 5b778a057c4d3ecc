"""docs/tour.md and docs/extending.md lead to the lines they name, and docs/commands.md says what `--help` says."""

import importlib.util
import re

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert spec is not None and spec.loader is not None
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


@pytest.mark.parametrize("page", generate.NUMBERED, ids=lambda page: page.name)
def test_links_to_code_have_the_lines_of_the_code(page):
    text = page.read_text()
    assert generate.renumbered(text) == text, "the code has moved: run  make docs"


@pytest.mark.parametrize("page", generate.NUMBERED, ids=lambda page: page.name)
def test_every_link_to_code_names_a_definition(page):
    text = page.read_text()
    assert len(generate.LINK.findall(text)) == len(re.findall(r"\.py#L", text)) > 10


def test_a_link_to_a_name_that_is_gone_is_found():
    with pytest.raises(LookupError, match="does not define no_such_name"):
        generate.renumbered("[`no_such_name`](../client/clipdex/sources/scan.py#L1)")


def test_the_page_of_commands_is_what_help_says():
    assert generate.COMMANDS.read_text() == generate.commands(), "the help has changed: run  make docs"


def test_the_table_of_models_is_what_the_list_says():
    page = generate.MODELS.read_text()
    assert generate.with_table(page) == page, "the list has changed: run  make docs"
    assert page.count("\n| `") == len(generate.available_models().models)


def test_every_command_and_option_is_in_the_docs():
    """In a page that somebody wrote, not only in the generated one."""
    pages = "".join(
        path.read_text()
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if path.name != "commands.md"
    )
    names = set(re.findall(r"^##+ (clipdex .+)$", generate.commands(), re.M))
    options = set(re.findall(r"`(--[\w-]+)`", generate.commands()))
    assert not {name for name in names if name not in pages}
    assert not {option for option in options - {"--help", "--images-dir"} if option not in pages}
