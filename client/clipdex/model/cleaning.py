"""What some models want done to a text before their tokenizer sees it, in steps that the card names.

CLIP in Hugging Face's format needs none: its tokenizer does all. SigLIP removes punctuation, and OpenCLIP repairs
text first, with ftfy: `fix` repeats what ftfy does to text that is sound (curly quotes, ligatures, wide letters,
control characters), and leaves out its guesses at text that was decoded with the wrong encoding.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from html.entities import html5
from types import MappingProxyType

__all__ = ["STEPS", "clean", "known_steps"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Of Latin letters; those of other scripts may be meant.
_LIGATURES = {
    "Ĳ": "IJ", "ĳ": "ij", "ŉ": "ʼn", "Ǳ": "DZ", "ǲ": "Dz", "ǳ": "dz", "Ǆ": "DŽ", "ǅ": "Dž", "ǆ": "dž",
    "Ǉ": "LJ", "ǈ": "Lj", "ǉ": "lj", "Ǌ": "NJ", "ǋ": "Nj", "ǌ": "nj",
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st",
}  # fmt: skip
_WIDE = {chr(i): unicodedata.normalize("NFKC", chr(i)) for i in range(0xFF01, 0xFFF0)}
_CONTROLS = [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD), 0xFEFF]
_CHARACTERS = str.maketrans(
    _LIGATURES
    | {wide: narrow for wide, narrow in _WIDE.items() if wide != narrow}
    | {"\u3000": " "}
    | dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)
_NO_CONTROLS = str.maketrans(dict.fromkeys(map(chr, _CONTROLS), ""))
# &amp;lt; takes two. Each pass reads the whole line, and an &amp;amp;amp;… of some kilobytes would take thousands.
_MOST_PASSES = 32
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_LINE_BREAKS = re.compile("\r\n|[\r\u2028\u2029\u0085]")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_C1_CONTROL = re.compile("[\x80-\x9f]")


def _fix(text: str) -> str:
    """ftfy's repairs, but for those of a wrong encoding."""
    fixed, entities = [], True
    for line in re.split(r"(?<=\n)", text):
        entities = entities and "<" not in line  # what has tags is HTML, and means its entities
        fixed.append(_fix_line(line, entities))
    return "".join(fixed)


def _fix_line(text: str, entities: bool) -> str:
    """All repairs, again and again until nothing changes, or it is no text but made to take long."""
    for _ in range(_MOST_PASSES):
        before = text
        if entities:
            text = _ENTITY.sub(_character, text)
        text = _C1_CONTROL.sub(_as_windows_1252, text).translate(_CHARACTERS)
        text = _TERMINAL_ESCAPE.sub("", _LINE_BREAKS.sub("\n", text)).translate(_NO_CONTROLS)
        text = unicodedata.normalize("NFC", text)
        if text == before:
            break
    return text


def _character(match: re.Match[str]) -> str:
    """What an HTML entity stands for; itself where it is none."""
    entity = match.group()
    unescaped = html.unescape(entity) if entity.startswith("&#") else _entities().get(entity, entity)
    return entity if ";" in unescaped else unescaped


@cache
def _entities() -> dict[str, str]:
    """HTML's names, and those of letters in capitals that HTML does not know: &EACUTE;"""
    known = {f"&{name}": character for name, character in html5.items() if name.endswith(";")}
    small = {name.upper(): character.upper() for name, character in known.items() if name == name.lower()}
    return {name: character for name, character in small.items() if html.unescape(name) == name} | known


def _as_windows_1252(match: re.Match[str]) -> str:
    """What browsers make of a C1 control character."""
    return match.group().encode("latin-1").decode("windows-1252", errors="ignore") or match.group()


def _unescape(text: str) -> str:
    return html.unescape(html.unescape(text)).strip()


# In the order in which OpenCLIP and big_vision apply those that they do.
STEPS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "fix": _fix,
        "unescape": _unescape,
        "lower": str.lower,
        "underscores": lambda text: text.replace("_", " "),
        "punctuation": lambda text: text.translate(_NO_PUNCTUATION),
        "whitespace": lambda text: " ".join(text.split()),
    }
)


def known_steps(cleaning: str) -> bool:
    """Whether a card's `text.cleaning` is "none", or names of steps with a blank between them."""
    return cleaning == "none" or (bool(cleaning) and all(name in STEPS for name in cleaning.split(" ")))


def clean(text: str, cleaning: str) -> str:
    """A text after the steps of a card's `text.cleaning`, in their order."""
    if cleaning != "none":
        for name in cleaning.split(" "):
            text = STEPS[name](text)
    return text
