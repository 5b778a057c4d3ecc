"""Write what the docs take from the code: docs/commands.md from `--help`, the table of models, lines of links.

python docs/generate.py            # `make docs` runs it, and makes the API reference in site/
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from typer.main import get_command

from clipdex.base.json_text import parse_json
from clipdex.cli.app import app
from clipdex.cli.examples import EXAMPLES
from clipdex.cli.panels import CONNECTION
from clipdex_export.catalogue import CATALOGUE, available_models

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
COMMANDS = DOCS / "commands.md"
MODELS = DOCS / "models.md"
NUMBERED = (DOCS / "tour.md", DOCS / "extending.md")

_INTRODUCTION = """# Commands

<!-- Written by docs/generate.py from the commands' own help. -->

Every command and option, as `--help` shows them. A mistake is one sentence on standard error and exit status 1;
for a command or option that does not exist, 2. `--json` prints [one JSON document](command-line.md#json).

Every command has `-q, --quiet` (results and errors only: no notes, no progress) and `-v, --verbose` (also what was
chosen, stages and times). `clipdex --install-completion` makes your shell complete commands and options.
"""

_CONNECTION = "\n## Connection\n\nThe options of every command that talks to a server.\n"
_EVERYWHERE = ("quiet", "verbose")

_TABLE, _END = "<!-- The table is written by docs/generate.py from the list. -->", "<!-- end -->"

# [`Class.method`](../path.py#L12): the symbol's definition stands on that line.
LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)#L(\d+)\)")


def commands() -> str:
    """The page of all commands, in Markdown."""
    group: Any = get_command(app)
    shared = [each for each in group.commands["models"].params if _panel(each) == CONNECTION]
    return _INTRODUCTION + "".join(_sections("clipdex", group)) + _CONNECTION + _table(shared)


def renumbered(page: str) -> str:
    """A page whose links to code have the lines at which the code is.

    Raises:
        LookupError: a file does not define what a link names.
    """
    return LINK.sub(lambda link: f"[`{link[1]}`](../{link[2]}#L{line_of(link[1], ROOT / link[2])})", page)


def with_table(page: str) -> str:
    """A page with the table of listed models, where it is marked, as the list has it."""
    before, mark, rest = page.partition(_TABLE)
    return before + mark + "\n" + available_table() + rest[rest.index(_END) :]


def available_table() -> str:
    """The list of models that a name stands for, in Markdown."""
    keys = {source["url"]: key for key, source in parse_json(CATALOGUE.read_bytes())["sources"].items()}
    rows = [
        f"| `{model.name}` | {_mb(model.image_mb)} + {_mb(model.text_mb)} | {model.pixels} | {model.dim} | "
        f"{model.languages} | {model.speed or '—'} | {_of(model, 'recall', keys)} | "
        f"{_of(model, 'imagenet', keys)} | "
        f"{model.licence} | {_source(model)} |\n"
        for model in available_models().models
    ]
    linked = ("recall", "imagenet")
    cited = {keys[url] for model in available_models().models for f, url in model.sources.items() if f in linked}
    links = "".join(f"[{key}]: {url}\n" for url, key in keys.items() if key in cited)
    return (
        "| name | MB, image + text | px | dim | languages | speed | recall | ImageNet | licence | taken from |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n" + "".join(rows) + "\n" + links
    )


def _mb(size: int | None) -> str:
    return "—" if size is None else f"{size:,}"


def _of(model: Any, fact: str, keys: dict[str, str]) -> str:
    value = getattr(model, fact)
    return "—" if value is None else f"[{value}][{keys[model.sources[fact]]}]"


def _source(model: Any) -> str:
    return f"`{model.onnx}`" if model.onnx else f"`{model.torch}` (PyTorch)"


def line_of(name: str, path: Path) -> int:
    """The line of a file that defines a function, class or method."""
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    found: ast.stmt | None = None
    for part in name.split("."):
        named = [node for node in body if getattr(node, "name", None) == part]
        if not named:
            raise LookupError(f"{path} does not define {name}")
        found = named[0]
        body = getattr(found, "body", [])
    assert found is not None
    return found.lineno


def _sections(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        parts = [] if name == "clipdex" else [f"\n## {name}\n\n{_prose(command.help)}\n"]
        return parts + [
            part
            for each in sorted(command.commands)
            for part in _sections(f"{name} {each}", command.commands[each])
        ]
    own = [each for each in command.params if _panel(each) != CONNECTION and each.name not in _EVERYWHERE]
    connects = len(own) < len(command.params) - len(_EVERYWHERE)
    ending = "\nAnd those of the [connection](#connection).\n" if connects else ""
    examples = "".join(f"# {example.does}\n{example.command}\n" for example in EXAMPLES.get(name, ()))
    shown = f"\n```sh\n{examples}```\n" if examples else ""
    return [f"\n## {name}\n\n{_prose(command.help)}\n{_table(own)}{ending}{shown}"]


def _panel(parameter: Any) -> str | None:
    return getattr(parameter, "rich_help_panel", None)


def _table(parameters: Sequence[Any]) -> str:
    rows = [_row(parameter) for parameter in parameters if not getattr(parameter, "hidden", False)]
    return "\n| | | default |\n|---|---|---|\n" + "".join(rows) if rows else ""


def _prose(text: str | None) -> str:
    lines = "\n".join(line.strip() for line in (text or "").strip("\n ").splitlines())
    return re.sub(r"\n\n\x08\n(.+?)\n\n", r"\n\n```text\n\1\n```\n\n", lines, flags=re.S)


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            name += f" `{parameter.metavar or _kind(parameter.type_descriptor.annotation)}`"
    default = parameter.default
    said = "required" if parameter.required else ""
    if parameter.show_default and not said and not callable(default) and default not in (None, False, ()):
        said = f"`{getattr(default, 'value', default)}`"
    text = _line(parameter.help)
    if parameter.envvar:
        text += f" (`{parameter.envvar}`)"
    return "| " + " | ".join(each.replace("|", "\\|") for each in (name, text, said)) + " |\n"


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _kind(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(choice.value) for choice in annotation)
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def main() -> None:
    """Write the pages."""
    COMMANDS.write_text(commands(), encoding="utf-8")
    MODELS.write_text(with_table(MODELS.read_text(encoding="utf-8")), encoding="utf-8")
    for page in NUMBERED:
        page.write_text(renumbered(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
