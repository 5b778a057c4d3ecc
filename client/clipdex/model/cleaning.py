"""Cleaning of texts before the tokenizer, in steps that the model card names.

CLIP in Hugging Face's format needs none: its tokenizer does everything. SigLIP removes punctuation, and OpenCLIP
first repairs text with ftfy: `fix` does what ftfy does to correctly decoded text (curly quotes, ligatures,
full-width letters, control characters), but not its guesses at text decoded with the wrong encoding. They change
between its versions, and two machines would make different vectors of one text; docs/families.md has the figures.
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
# Latin ones only; ligatures of other scripts may be intended.
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
# &amp;lt; takes two. Each pass reads the whole line, and a few kilobytes of &amp;amp;amp;… would take thousands.
_MOST_PASSES = 32
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_LINE_BREAKS = re.compile("\r\n|[\r\u2028\u2029\u0085]")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_C1_CONTROL = re.compile("[\x80-\x9f]")


def _fix(text: str) -> str:
    """Apply ftfy's repairs, except those of wrong encodings."""
    fixed, entities = [], True
    for line in re.split(r"(?<=\n)", text):
        entities = entities and "<" not in line  # text with tags is HTML, whose entities are intended
        fixed.append(_fix_line(line, entities))
    return "".join(fixed)


def _fix_line(text: str, entities: bool) -> str:
    """Repeat all repairs until nothing changes, or for as many passes as only a hostile text needs."""
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
    """Replace an HTML entity by its character; leave other text as it is."""
    entity = match.group()
    if not entity.startswith("&#"):
        return _entities().get(entity, entity)
    unescaped = html.unescape(entity)
    return entity if ";" in unescaped else unescaped


@cache
def _entities() -> dict[str, str]:
    """Map HTML's entities to characters, including upper-case ones that HTML lacks, such as &EACUTE;"""
    known = {f"&{name}": character for name, character in html5.items() if name.endswith(";")}
    small = {name.upper(): character.upper() for name, character in known.items() if name == name.lower()}
    return {name: character for name, character in small.items() if html.unescape(name) == name} | known


def _as_windows_1252(match: re.Match[str]) -> str:
    """Read a C1 control character as windows-1252, as browsers do."""
    return match.group().encode("latin-1").decode("windows-1252", errors="ignore") or match.group()


def _unescape(text: str) -> str:
    return html.unescape(html.unescape(text)).strip()


# In the order in which OpenCLIP and big_vision apply them.
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
    """Return whether a card's `text.cleaning` is "none", or names of steps separated by spaces."""
    return cleaning == "none" or (bool(cleaning) and all(name in STEPS for name in cleaning.split(" ")))


def clean(text: str, cleaning: str) -> str:
    """Apply the steps of a card's `text.cleaning` to a text, in order."""
    if cleaning != "none":
        for name in cleaning.split(" "):
            text = STEPS[name](text)
    return text
