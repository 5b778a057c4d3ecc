"""What the options of `clipdex search` ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json
from clipdex.search import Query, weighted_name, weighted_text

__all__ = ["ImageOption", "LikeOption", "MinusOption", "ParamOption", "TextOption", "WhereOption"]
__all__ += ["parameters", "queries_of"]

TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="TEXT[:W]", help="A part of one mixed query, with its weight.", show_default=False
    ),
]
MinusOption = Annotated[
    list[str] | None,
    typer.Option("--minus", metavar="TEXT[:W]", help="What it should be less of.", show_default=False),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="FILE[:W]", help="A picture as a part of it.", show_default=False),
]
LikeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--like",
        metavar="ROW|PATH[:W]",
        help="A picture of the index as a part of it; it is no answer itself.",
        show_default=False,
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help="Only pictures for which this holds, as in  \"width > 1000 AND path GLOB '*/2024/*'\".",
        show_default=False,
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="NAME=VALUE", help="What :NAME stands for in the condition.", show_default=False
    ),
]


def queries_of(
    texts: Sequence[str], plus: Sequence[str], minus: Sequence[str], images: Sequence[str], like: Sequence[str]
) -> list[Query]:
    """Each text by itself, or all the parts as one.

    Raises:
        InvalidArgument: there is nothing, both, or a part is empty or has no weight that it could have.
    """
    mixture = Query()
    for word in plus:
        text, weight = weighted_text(word)
        mixture = mixture.plus(text=text, weight=weight)
    for word in minus:
        text, weight = weighted_text(word)
        mixture = mixture.minus(text=text, weight=weight)
    for word in images:
        name, weight = weighted_name(word)
        mixture = mixture.plus(image=Path(name), weight=weight)
    for word in like:
        name, weight = weighted_name(word)
        mixture = mixture.plus(like=int(name) if name.isascii() and name.isdigit() else name, weight=weight)
    if texts and mixture.parts:
        raise InvalidArgument(
            f"{texts[0]!r} stands by itself and would be a ranking of its own; "
            f"to mix it with the other parts write  --text {texts[0]!r}"
        )
    if mixture.parts:
        return [mixture]
    if not texts:
        raise InvalidArgument("there is no query; give a TEXT, or --text, --image, --like")
    if not all(text.strip() for text in texts):
        raise InvalidArgument("a query is empty; say what the pictures should show")
    return [Query().plus(text=text) for text in texts]


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE`s; a value that looks like a number is one, unless it stands in double quotes.

    Raises:
        InvalidArgument: there is no `=`, or no name before it.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"--param {word!r} is not NAME=VALUE")
        found[name.lstrip(":")] = _value(value)
    return found


def _value(text: str) -> int | float | str:
    if re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return float(text)
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(parse_json(text))
        except ValueError:
            return text
    return text
