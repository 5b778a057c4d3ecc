"""The commands, each imported when it is used, so that --help and shell completion answer at once.

Everything that all commands have is added here: the help page, the examples, --quiet and --verbose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from clipdex.cli.help_page import Command, HelpPage
from clipdex.cli.verbosity_options import has_verbosity

__all__ = ["Entry", "LazyGroup"]


@dataclass(frozen=True)
class Entry:
    """A command in the list of commands.

    place: "MODULE:FUNCTION" below clipdex.cli. summary: the first line of the function's docstring, which a list
    of commands shows without importing it. panel: where the list shows it. commands: those of a group, which has
    no function.
    """

    summary: str
    place: str = ""
    panel: str | None = None
    commands: Mapping[str, Entry] | None = None


class _Loaded(MutableMapping[str, Any]):
    """The commands of a group by name, imported when they are looked up."""

    def __init__(self, entries: Mapping[str, Entry], others: Mapping[str, Any], path: str) -> None:
        self._entries = entries
        self._path = path
        self._loaded: dict[str, Any] = dict(others)

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self._entries[name], f"{self._path} {name}")
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._entries, *self._loaded]))

    def __len__(self) -> int:
        return len(set(self._entries) | set(self._loaded))


class LazyGroup(HelpPage, TyperGroup):
    """A group whose commands are `entries`; a list of them imports none."""

    entries: Mapping[str, Entry]
    path = "clipdex"

    def __init__(self, *, entries: Mapping[str, Entry] | None = None, path: str = "", **attributes: Any) -> None:
        super().__init__(**attributes)
        if entries is not None:
            self.entries, self.path = entries, path
        self.commands = _Loaded(self.entries, self.commands, self.path)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in order."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command as a list of commands shows it."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return self.commands.get(cmd_name)
        return TyperCommand(cmd_name, help=entry.summary, rich_markup_mode=None, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command that the words begin with, the command, and its own words."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else self.commands[name], rest


def _load(name: str, entry: Entry, path: str) -> Any:
    if entry.commands is not None:
        return LazyGroup(
            name=name,
            help=entry.summary,
            no_args_is_help=True,
            rich_markup_mode=None,
            entries=entry.commands,
            path=path,
        )
    module, _, function = entry.place.partition(":")
    command: Callable[..., None] = getattr(import_module(f"clipdex.cli.{module}"), function)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, cls=Command)(has_verbosity(command))
    made = typer.main.get_command(alone)
    made.path = path  # type: ignore[attr-defined]  # by which its examples are found
    return made
