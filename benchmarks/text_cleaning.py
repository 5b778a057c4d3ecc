"""Where a client's repair of texts, `clean(text, "fix")`, differs from ftfy's, by which OpenCLIP cleans them.

    .venv-dev/bin/python benchmarks/text_cleaning.py

Compares every code point, alone and within a word; every entity of HTML; prose in many languages, with quotes and
signs; that prose decoded with a wrong encoding (mojibake); and random letters. Figures: docs/families.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html.entities import html5
from random import Random

import ftfy

from clipdex.model.cleaning import clean

SEED, TEXTS = 20261128, 50_000
WORDS = (
    "a photo of the cat dog schön straße café naïve élève à la carte señor piñata façade Zürich München Łódź "
    "日本語 東京の写真 красный круг кошка собака Ελλάδα γάτα قطة כלב 고양이 ภาพ हिन्दी “quoted” it’s — … € £5 "
    "20°C ½ Åland Ørsted ÿ ž Š œuvre"
)
ENCODINGS = ("latin-1", "windows-1252", "windows-1251", "iso-8859-2", "macroman", "cp437")
BLOCKS = (
    *((0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F)),
    *(
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0x2000, 0x206F),
        (0xFF00, 0xFFEF),
        (0x1F300, 0x1F6FF),
    ),
)


def code_points() -> Iterator[int]:
    """All but surrogates, and the planes that Unicode has not begun."""
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x40000 or c >= 0xE0000))


def prose(rng: Random) -> Iterator[str]:
    words = WORDS.split()
    for _ in range(TEXTS):
        yield " ".join(rng.choices(words, k=rng.randint(1, 12)))


def mojibake(rng: Random, encoding: str) -> Iterator[str]:
    """Prose whose UTF-8 was read as another encoding, where that is possible."""
    for text in prose(rng):
        try:
            wrong = text.encode().decode(encoding)
        except UnicodeDecodeError:
            continue
        if wrong != text:
            yield wrong


def latin(rng: Random) -> Iterator[str]:
    letters = [chr(c) for c in range(0xA0, 0x250)]
    for _ in range(TEXTS):
        yield "".join(rng.choice(letters if rng.random() < 0.3 else "abc def") for _ in range(20))


def one_block(rng: Random) -> Iterator[str]:
    for _ in range(TEXTS):
        first, last = rng.choice(BLOCKS)
        yield "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 16)))


def compare(kind: str, texts: Iterable[str]) -> None:
    """Print how many differ, and the first few that do."""
    count, differing = 0, []
    for text in texts:
        count += 1
        if clean(text, "fix") != (theirs := ftfy.fix_text(text)):
            differing.append((text, theirs))
    shown = "; ".join(f"{text[:24]!r} is {theirs[:24]!r} to ftfy" for text, theirs in differing[:3])
    print(f"{kind}: {len(differing):,} of {count:,} differ{': ' + shown if shown else ''}", flush=True)


def main() -> None:
    print(f"ftfy {ftfy.__version__}")
    rng = Random(SEED)
    compare("code points alone", map(chr, code_points()))
    compare("code points in a word", (f"a{chr(c)}b" for c in code_points()))
    compare("entities", (f"x &{name} y" for name in html5))
    compare("prose", prose(rng))
    for encoding in ENCODINGS:
        compare(f"mojibake by {encoding}", mojibake(rng, encoding))
    compare("random Latin letters", latin(rng))
    compare("random letters of one block", one_block(rng))


if __name__ == "__main__":
    main()
