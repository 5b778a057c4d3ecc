"""The page that --help prints: panels of arguments, options and commands, and examples, as wide as the terminal.

Typer's own page reads help texts as markup, shows Python types, and takes a tenth of a second to import.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from clipdex.cli.examples import EXAMPLES
from clipdex.cli.panels import CONNECTION, LIMITS, OUTPUT
from clipdex.cli.printing import rendered

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Command", "HelpPage", "paragraphs", "signature"]

_ARGUMENTS = "Arguments"
_OPTIONS = "Options"
_COMMANDS = "Commands"
_LAST = (LIMITS, OUTPUT, CONNECTION)
# How Typer names types that have no metavar, and says what they allow.
_TYPE = re.compile(r"(?<= )(?:<([^>]*)>|(INTEGER(?: RANGE)?)|\[([\w|]+)])$")
_KINDS = {"int": "N", "int range": "N", "float": "NUMBER", "float range": "NUMBER", "str": "TEXT", "path": "PATH"}
_KINDS |= {"integer": "N", "integer range": "N"}
_AT_LEAST = re.compile(r"\bx>=([\d.]+)")
_NATURALLY = re.compile(r"; x>=[01](?=])|  \[x>=[01]]$")  # any count is that
_WHOLE = re.compile(r"(?<=default: )(\d+)\.0(?=[];])")

_Row = tuple[str, str]  # what is typed, what it does


class HelpPage:
    """A command or group with such a help page. path: its full name, by which its examples are found."""

    path: str

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        from rich.text import Text

        parts: list[Any] = [Text(re.sub(r"[{}]", "", self.get_usage(ctx)), style="bold"), Text()]
        for each in paragraphs(self.help):
            parts += [Text(each), Text()]
        options = defaultdict[str, list[_Row]](list)
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                is_argument = parameter.param_type_name == "argument"
                # click's own --help option has no panel
                panel = getattr(parameter, "rich_help_panel", None) or (_ARGUMENTS if is_argument else _OPTIONS)
                options[panel].append((signature(parameter, ctx), _help_of(parameter, ctx)))
        commands = defaultdict[str, list[_Row]](list)
        for name in self.list_commands(ctx) if hasattr(self, "list_commands") else ():
            command = self.get_command(ctx, name)
            commands[command.rich_help_panel or _COMMANDS].append((name, paragraphs(command.help)[0]))
        for panel in sorted(options, key=_place):
            parts.append(_panel(panel, options[panel]))
        parts += [_panel(panel, rows) for panel, rows in commands.items()]
        if examples := EXAMPLES.get(self.path):
            parts.append(_panel("Examples", [(example.command, example.does) for example in examples], below=True))
        formatter.write(rendered(parts))

    if TYPE_CHECKING:  # what the command or group has that this is mixed into
        help: str | None
        get_usage: Any
        get_params: Any
        list_commands: Any
        get_command: Any


class Command(HelpPage, TyperCommand):
    """A command with such a help page."""

    path = ""


def paragraphs(text: str | None) -> list[str]:
    """Return a docstring's paragraphs, each as one line; the lines of one that begins with \\b stay."""
    found = re.split(r"\n\n+", inspect.cleandoc(text or ""))
    return [each[1:].lstrip("\n") if each[:1] == "\b" else re.sub(r"\s*\n\s*", " ", each) for each in found]


def signature(parameter: Any, ctx: Any) -> str:
    """Return the spelling of a parameter on the command line: `-k, --top-k K`."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs != 1 else "")
    return _TYPE.sub(_kind, str(parameter.get_help_record(ctx)[0]))


def _kind(found: re.Match[str]) -> str:
    name: str = next(filter(None, found.groups()))
    return _KINDS.get(name.lower(), name)


def _help_of(parameter: Any, ctx: Any) -> str:
    said = str(parameter.get_help_record(ctx)[1]).replace("\\[", "[")  # older Typers escape it
    said = _AT_LEAST.sub(r"at least \1", _NATURALLY.sub("", said))
    return _WHOLE.sub(r"\1", said)


def _place(panel: str) -> int:
    """Return the sort key of a panel: the command's own panels before those that many commands share."""
    first = (_ARGUMENTS, _OPTIONS)
    return first.index(panel) if panel in first else 9 + _LAST.index(panel) if panel in _LAST else 5


def _panel(title: str, rows: list[_Row], *, below: bool = False) -> Any:
    """Return a box of rows. below: the second column is a remark on its own line, above the first."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if below:
        body: Any = Text(overflow="fold")
        for number, (command, does) in enumerate(rows):
            body.append("\n" if number else "").append(f"# {does}\n", "dim").append(command, "cyan")
    else:
        body = Table.grid(padding=(0, 2), expand=True)
        body.add_column(max_width=30, overflow="fold")
        body.add_column(ratio=1)
        for typed, does in rows:
            body.add_row(Text(typed, "cyan"), _dimmed(does))
    return Panel(body, title=title, title_align="left", border_style="dim")


def _dimmed(text: str) -> Text:
    """Return a help text with its remarks, such as [default: 5], less bright."""
    from rich.text import Text

    said, gap, remark = text.rpartition("  [")
    if not gap or not remark.endswith("]"):
        return Text(text.strip())
    return Text(said).append(f"  [{remark}", "dim")
