"""What the README and docs/ tell a user to type is something clipdex understands, and the session runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.main import get_command

import clipdex
from clipdex.cli.app import app

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, *languages):
    """The fenced blocks of a page in these languages."""
    text = page.read_text()
    return [
        body for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if language in languages
    ]


def commands(page):
    """Every `clipdex …` of a page as words: of its shell blocks, continued lines joined, and of its prose."""
    for block in blocks(page, "sh", "bash", "console", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)  # an environment variable set for this command
            if words and words[0] == "clipdex":
                yield [word for word in words if word != "&"]
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for span in re.findall(r"`(clipdex [^`]+)`", prose):
        for command in " ".join(span.split()).split(" && "):
            yield shlex.split(command)


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in commands(page)
]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 100


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_in_the_docs_exists_with_its_options(words):
    group: Any = get_command(app)
    if words[1].startswith("-"):
        return
    assert words[1] in group.commands, f"there is no command {words[1]}"
    command = group.commands[words[1]]
    if hasattr(command, "commands") and len(words) > 2:  # clipdex bench server
        assert words[2] in command.commands, f"there is no command {words[1]} {words[2]}"
        command = command.commands[words[2]]
    options = {name for parameter in command.params for name in parameter.opts}
    options |= {"--help"}
    used = {word.partition("=")[0] for word in words[2:] if word.startswith("-") and len(word) > 1}
    assert used <= options, f"clipdex {words[1]} has no {used - options}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_the_pages_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_named_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set()
    for line in re.findall(r"(?:^|`)make ([a-z][a-z -]*)", page.read_text(), re.M):
        named |= set(line.split())
    assert named <= targets, f"{page.name} names make {named - targets}"


def test_every_page_is_in_the_list_of_pages():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_readme_shows_a_session_within_thirty_lines():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "make demo" in first
    assert "clipdex index" in first
    assert "clipdex search" in first


def test_every_reason_in_the_code_is_in_the_docs_and_the_other_way_round():
    source = "".join(path.read_text() for path in (ROOT / "client" / "clipdex").rglob("*.py"))
    used = set(re.findall(r'reason="(\w+)"', source))
    used |= set(re.findall(r'(?:Failure|_failed|_replace)\([^)"]*"(\w+)"', source))
    used |= {"truncated", "broken", "vanished", "unreadable"}  # chosen by expressions
    page = (ROOT / "docs" / "failures.md").read_text()
    assert used == set(re.findall(r"^\| `(\w+)`", page, re.M))


@pytest.mark.triton
def test_the_session_of_the_readme_runs_as_printed(triton, tmp_path, monkeypatch, capsys):
    """Its commands and its Python, in a folder like the one `make demo` leaves, against the session's server."""
    from clipdex_export.demo.questions import draw_demo_pictures

    draw_demo_pictures(tmp_path / "demo" / "pictures", 100)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPDEX_SERVER", triton.address)
    ran = set()
    for words in commands(ROOT / "README.md"):
        if words[1] in ("index", "search", "retrieve") and "demo/" in " ".join(words):
            monkeypatch.setattr("sys.argv", words)
            with pytest.raises(SystemExit) as ended:
                clipdex.cli.main()
            assert not ended.value.code, capsys.readouterr().err
            ran.add(words[1])
    assert ran == {"index", "search", "retrieve"}
    (code,) = blocks(ROOT / "README.md", "python")
    code = code.replace("localhost:8001", triton.address)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"(-?\d\.\d{3} — \S+\n){5}", capsys.readouterr().out)


@pytest.mark.triton
def test_the_python_of_the_index_format_needs_no_clipdex(triton, tmp_path, monkeypatch, pictures):
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, pictures, tmp_path / "photos.clipdex")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "index-format.md", "python")
    found: dict[str, Any] = {}
    exec(compile(code, "index-format.md", "exec"), found)
    found["db"].close()
    assert found["vectors"].shape == (12, found["D"])
    assert {Path(path.decode()).name for path in found["paths"].values()} == {
        path.name for path in pictures.rglob("*.*")
    }


def test_the_python_of_the_client_page_runs(capsys, monkeypatch):
    """One block after the other, with a server that is not there; what needs OpenTelemetry is only parsed."""
    from clipdex.wire import FakeTransport

    asked = []

    def connect(address, **options):
        asked.append(options)
        return clipdex.Client(FakeTransport())

    monkeypatch.setattr(clipdex, "connect", connect)
    space = {"clipdex": clipdex, "token": "secret"}
    ran = 0
    for code in blocks(ROOT / "docs" / "client.md", "python"):
        compiled = compile(code, "client.md", "exec")
        if "opentelemetry" not in code:
            exec(compiled, space)
            ran += 1
    assert ran >= 5
    assert {"retry", "credentials"} <= {name for options in asked for name in options}
    assert capsys.readouterr().out == "(1, 16)\n"


def test_nothing_says_to_install_clipdex_from_an_index_that_does_not_have_it():
    """Before the first release there is none: a checkout or a wheel is named, or the extra."""
    code = [path for part in ("client", "export", "server") for path in (ROOT / part).rglob("*.py")]
    for path in [*PAGES, *code]:
        for words in re.findall(r"pip3? install[^`\n]*", path.read_text()):
            assert not re.search(r"install .*(?<![\w/.-])clipdex(\[|\W*$)", words), f"{path.name}: {words}"


def test_every_extra_is_on_the_page_of_installing():
    extras = re.findall(r"^([a-z-]+) = \[", _optional_dependencies(), re.M)
    assert len(extras) >= 10
    page = (ROOT / "docs" / "install.md").read_text()
    assert [extra for extra in extras if f"\n| `{extra}` |" not in page] == []


def _optional_dependencies() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text.partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
