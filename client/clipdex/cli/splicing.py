"""Options that several commands share: they replace a parameter of a command, and make its value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

__all__ = ["splice"]


def splice(command: Callable[..., None], parameter: str, options: Callable[..., Any]) -> Callable[..., None]:
    """Replace a command's parameter by the parameters of `options`, whose result the command receives.

    If the command has no such parameter, the options are added at its end, and their result is dropped. Both
    receive a parameter that both have, such as the context.
    """
    hints = get_type_hints(command, include_extras=True)
    our_hints = get_type_hints(options, include_extras=True)
    ours = {
        name: each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=our_hints[name])
        for name, each in inspect.signature(options).parameters.items()
    }
    theirs = inspect.signature(command).parameters
    parameters: dict[str, inspect.Parameter] = {}
    for name, each in theirs.items():
        if name == parameter:
            parameters |= ours
        else:
            parameters[name] = each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
    parameters |= ours

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = options(**{name: given[name] for name in ours})
        rest = {name: given[name] for name in theirs if name != parameter}
        command(**rest, **({parameter: made} if parameter in theirs else {}))

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return run
