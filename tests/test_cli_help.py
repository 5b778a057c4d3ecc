"""The help pages: their panels, their width, their examples, and that a list of commands imports none."""

import os
import shlex
import subprocess
import sys

import pytest
from test_cli_options import ALL, EACH, GROUP, found

from clipdex.cli.app import _ENTRIES
from clipdex.cli.examples import EXAMPLES
from clipdex.cli.help_page import paragraphs

EXAMPLE = pytest.mark.parametrize(
    ("path", "command"), [(path, each.command) for path, examples in EXAMPLES.items() for each in examples]
)


def clipdex(*words, **environment):
    command = [sys.executable, "-m", "clipdex", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_help_is_as_wide_as_the_terminal(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for path in ((), *ALL):
        status, out, _ = run(*path, "--help")
        assert status == 0
        lines = out.splitlines()
        assert max(map(len, lines)) == width
        assert lines[0].startswith("Usage: clipdex " + " ".join(path))


@EACH
def test_a_page_has_every_option_in_its_panel(run, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run(*path, "--help")
    panels = {part.split(" ─")[0]: part for part in out.split("╭─ ")[1:]}
    for parameter in found(path).params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert parameter.opts[0] in panels[parameter.rich_help_panel or "Options"]
        assert parameter.help or parameter.hidden, parameter.name
    if "Connection" in panels:
        assert "--server" in panels["Connection"] and "--tls-ca" in panels["Connection"]
        assert "CLIPDEX_SERVER" in panels["Connection"] and "CLIPDEX_MODEL" in panels["Connection"]
        assert "--server" not in panels["Options"]
    assert "--quiet" in panels["Output"]
    assert "<" not in panels["Options"].replace("<=", "").replace("width <", ""), "a type of Python"


@EACH
def test_every_page_has_examples(run, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "80")
    examples = EXAMPLES["clipdex " + " ".join(path)]
    out = run(*path, "--help")[1]
    for example in examples:
        assert f"│ # {example.does} " in out
        assert f"│ {example.command} " in out, "it is wider than a terminal"


def test_no_example_is_of_a_command_that_is_gone():
    assert set(EXAMPLES) == {"clipdex " + " ".join(path) for path in ALL} | {"clipdex"}


@EXAMPLE
def test_every_example_parses(path, command):
    words = shlex.split(command.rpartition("| ")[2])
    while "=" in words[0]:
        words.pop(0)
    assert " ".join(words).startswith(path + " ") or words == path.split()
    named = path.split()[1:] or words[1:2]
    found(named).make_context(path, words[1 + len(named) :])


def test_what_a_list_of_commands_says_of_each_is_what_its_own_page_says():
    def compare(entries, group):
        for name, entry in entries.items():
            command = group.commands[name]
            assert paragraphs(command.help)[0] == entry.summary
            if entry.commands:
                compare(entry.commands, command)

    compare(_ENTRIES, GROUP)


def test_a_paragraph_of_lines_keeps_them():
    assert paragraphs("One\nline.\n\n\b\na   1\nb   2\n\nThe\nend.") == ["One line.", "a   1\nb   2", "The end."]


def test_a_list_of_commands_and_the_version_import_no_command():
    script = """
import sys
from clipdex.cli import main
sys.argv = ["clipdex", *sys.argv[1:]]
try:
    main()
finally:
    assert not {"numpy", "PIL", "grpc", "clipdex.cli.search"} & set(sys.modules)
"""
    for words in (["--help"], ["bench", "--help"]):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_a_shell_completes_commands_and_options():
    for line, word, expected in (("clipdex se", "1", "search"), ("clipdex search --wh", "2", "--where")):
        done = clipdex(_CLIPDEX_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=word)
        assert expected in done.stdout.split(), done.stderr
    assert {"--install-completion", "--show-completion"} <= {
        option for parameter in GROUP.params for option in parameter.opts
    }


def test_without_words_the_page_is_shown_and_the_status_is_2(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ((), ("bench",), ("ann",)):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert err.startswith("Usage: clipdex")
        assert "Traceback" not in err
