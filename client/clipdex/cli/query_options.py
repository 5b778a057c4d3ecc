"""The query options of `clipdex search`, and the queries they describe."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json
from clipdex.cli.printing import note
from clipdex.search import Query, weighted_name, weighted_text
from clipdex.sources.scan import SUFFIXES

__all__ = ["ImageOption", "LikeOption", "MinusOption", "ParamOption", "TextOption", "WhereOption"]
__all__ += ["note_pictures_as_texts", "parameters", "queries_of"]

TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="TEXT[:W]", help="Text to mix into one query, with its weight W.", show_default=False
    ),
]
MinusOption = Annotated[
    list[str] | None,
    typer.Option("--minus", metavar="TEXT[:W]", help="Text to subtract from the mixed query.", show_default=False),
]
ImageOption = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="FILE[:W]", help="Picture file to mix into the query.", show_default=False),
]
LikeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--like",
        metavar="ROW|PATH[:W]",
        help="Picture of the index to mix into the query; it is left out of the results.",
        show_default=False,
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help="Use only pictures that meet this condition, as in  \"width > 1000 AND path GLOB '*/2024/*'\".",
        show_default=False,
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="NAME=VALUE", help="Value of :NAME in the --where condition.", show_default=False
    ),
]


def queries_of(
    texts: Sequence[str], plus: Sequence[str], minus: Sequence[str], images: Sequence[str], like: Sequence[str]
) -> list[Query]:
    """Return one query for each text, or a single mixed query of all the parts.

    Raises:
        InvalidArgument: there are neither texts nor parts, or both; or one is empty or has an invalid weight.
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
            f"{texts[0]!r} is a query of its own and cannot be combined with --text, --minus, --image or --like; "
            f"to mix it with them, write  --text {texts[0]!r}"
        )
    if mixture.parts:
        return [mixture]
    if not texts:
        raise InvalidArgument("there is no query; give a TEXT, or --text, --image, --like")
    if not all(text.strip() for text in texts):
        raise InvalidArgument("a query is empty; describe what the pictures should show")
    return [Query().plus(text=text) for text in texts]


def note_pictures_as_texts(texts: Sequence[str]) -> None:
    """Note which texts are picture files, whose names say little of what they show."""
    for text in texts:
        if os.fsencode(text.lower()).endswith(SUFFIXES) and os.path.isfile(text):
            note(
                f"{text} was taken as a text; to search by the picture in that file:  --image {shlex.quote(text)}"
            )


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` words; a value that looks like a number is one, unless it is in double quotes.

    Raises:
        InvalidArgument: a word has no `=`, or no name before it.
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
