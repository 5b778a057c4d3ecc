"""A contact sheet: the answers to queries as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdex.base.replacing import replacing
from clipdex.base.short_names import short_names
from clipdex.index.hits import Hit
from clipdex.index.tiles import Tile, as_text, tile_grid, tile_style
from clipdex.sources.thumbnail import ThumbnailSize

__all__ = ["Section", "contact_sheet", "write_contact_sheet"]

_SIZE = ThumbnailSize(side=256, most_bytes=256 << 10)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #5c666f; --paper: #f6f6f3; --clipdex-card: #fff;
  --clipdex-line: #dfe0da; --clipdex-mark: #1a7f4b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaec; --soft: #9aa4ad; --paper: #16191c; --clipdex-card: #1f2428; --clipdex-line: #343b41;
    --clipdex-mark: #2fa56a; }
}
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(.75rem, 3vw, 1.5rem) 3rem; background: var(--paper);
  color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
header p { color: var(--soft); margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; font-weight: 600; overflow-wrap: anywhere; break-after: avoid; }
h2 small { color: var(--soft); font-weight: 400; margin-left: .5rem; }
"""

# Nothing on the page may run or be fetched: paths and queries are not to be trusted.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A query, a note on it, and its answers.

    labels: what to write below each answer instead of its score.
    regions: for each answer, what to draw on it: the corners of each region, in shares of its width and height.
    keeper: whether the answers are duplicates of each other, of which the first is kept, and `query` its path.
    """

    query: str
    hits: Sequence[Hit]
    note: str = ""
    labels: Sequence[str] = ()
    keeper: bool = False
    regions: Sequence[Sequence[Sequence[Sequence[float]]]] = ()


def contact_sheet(sections: Sequence[Section], *, title: str, summary: str, links: bool = True) -> str:
    """Return the page's HTML. A picture that cannot be read any more is replaced by the reason.

    links: whether each picture links to its file, by a URL that works on this machine.
    """
    return "".join(_parts(sections, title, summary, links))


def write_contact_sheet(
    path: Path, sections: Sequence[Section], *, title: str, summary: str, links: bool = True
) -> None:
    """Write the page; a file that was at `path` stays until the new one is complete.

    Raises:
        ClipdexError: the file cannot be written.
    """
    with replacing(path, "the contact sheet") as file:
        for part in _parts(sections, title, summary, links):
            file.write(part.encode("utf-8"))


def _parts(sections: Sequence[Section], title: str, summary: str, links: bool) -> Iterator[str]:
    """Yield the page, one section at a time, since thumbnails of thousands of groups are large."""
    names = short_names(hit.path for section in sections for hit in section.hits)
    style = _STYLE + tile_style(len(section.hits) for section in sections if section.hits)
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{as_text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{as_text(title)}</h1>\n<p>{as_text(summary)}</p></header>\n"
    )
    for section in sections:
        note = f" <small>{as_text(section.note)}</small>" if section.note else ""
        yield f"<section>\n<h2><bdi>{as_text(section.query)}</bdi>{note}</h2>\n"
        if section.hits:
            yield tile_grid(_tiles(section, names), names, _SIZE, links=links)
        else:
            yield "<p>no picture matches</p>"
        yield "\n</section>\n"
    yield "</body>\n</html>\n"


def _tiles(section: Section, names: dict[str, str]) -> list[Tile]:
    labels = section.labels or [f"{hit.score:.3f}" for hit in section.hits]
    tiles = []
    for i, (hit, label) in enumerate(zip(section.hits, labels, strict=True)):
        alt = f"{names[hit.path]}, result {i + 1} for “{section.query}”"
        if section.keeper:
            alt = names[hit.path] + (f", a duplicate of {names[section.hits[0].path]}" if i else ", which is kept")
        mark = "keep" if section.keeper and i == 0 else ""
        regions = section.regions[i] if section.regions else ()
        tiles.append(Tile(hit.path, label, alt, mark, [copy.path for copy in hit.copies], regions))
    return tiles
