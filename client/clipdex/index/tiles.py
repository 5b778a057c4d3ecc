"""Pictures as HTML tiles in rows that are full at any width: the grid of a contact sheet, and of a notebook.

It runs no script and loads nothing. Paths and queries are not trusted: whatever they contain is shown as text.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from urllib.parse import quote_from_bytes

from clipdex.base.errors import ImageError
from clipdex.base.printable import printable
from clipdex.sources.scan import SUFFIXES
from clipdex.sources.thumbnail import Thumbnail, ThumbnailSize, thumbnail

__all__ = ["CLASS", "Tile", "as_text", "file_link", "rows_style", "tile_grid", "tile_style"]

CLASS = "clipdex-tiles"

_NAME, _ALT, _FIRST_PATH, _PATH = 80, 300, 500, 160  # characters shown
_OTHERS_NAMED = 10

_NARROWEST, _GAP, _PADDING = 160, 12, 8  # CSS pixels
_MOST_COLUMNS = 6

# Colours come from the page, which sets the variables, or from the notebook, whose ink is inherited.
_STYLE = """
.clipdex-tiles { container-type: inline-size; }
.clipdex-tiles .grid { display: grid; gap: 12px; grid-template-columns: minmax(0, 1fr); }
.clipdex-tiles .tile { box-sizing: border-box; overflow: hidden; border-radius: 8px; font-size: 13px;
  line-height: 1.4; break-inside: avoid; background: var(--clipdex-card, transparent);
  border: 1px solid var(--clipdex-line, rgb(128 128 128 / .35)); }
.clipdex-tiles .frame { box-sizing: border-box; display: flex; align-items: center; justify-content: center;
  width: 100%; aspect-ratio: var(--ratio, 1); max-height: var(--tall, 272px); padding: 8px; text-decoration: none;
  color: inherit; }
.clipdex-tiles a.frame:focus-visible { outline: 3px solid var(--clipdex-mark, #1a7f4b); outline-offset: -3px; }
.clipdex-tiles .seen { fill: none; stroke: #ff3b6b; stroke-width: 4px; vector-effect: non-scaling-stroke; }
.clipdex-tiles img, .clipdex-tiles svg { display: block; min-width: 0; max-width: 100%; max-height: 100%;
  height: auto; margin: 0; object-fit: contain; border-radius: 2px; }
.clipdex-tiles .gone { opacity: .7; text-align: center; }
.clipdex-tiles .line { padding: 6px 9px 0; border-top: 1px solid var(--clipdex-line, rgb(128 128 128 / .35));
  font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.clipdex-tiles .aside { float: right; font-weight: 400; opacity: .7; }
.clipdex-tiles .name { padding: 0 9px 7px; opacity: .75; overflow-wrap: anywhere; }
.clipdex-tiles .marked { border-color: var(--clipdex-mark, #1a7f4b);
  box-shadow: inset 0 0 0 1px var(--clipdex-mark, #1a7f4b); }
.clipdex-tiles .mark { margin-right: 6px; padding: 1px 7px; border-radius: 9px; background: #1a7f4b; color: #fff; }
"""


@dataclass(frozen=True)
class Tile:
    """One picture of a grid.

    label: a word on it, such as its score. alt: the text shown if the picture is not.
    mark: a word that sets the tile apart, such as "keep". others: paths of its copies, named in the tooltip.
    regions: what to draw on the picture: the corners of each, in shares of its width and height.
    """

    path: str
    label: str
    alt: str
    mark: str = ""
    others: Sequence[str] = ()
    regions: Sequence[Sequence[Sequence[float]]] = ()


def tile_style(counts: Iterable[int]) -> str:
    """Return the CSS for grids with these numbers of tiles."""
    return _STYLE + "".join(rows_style(count) for count in sorted(set(counts)))


def rows_style(count: int) -> str:
    """Return the CSS that lays `count` tiles out in full rows, whatever the width.

    There are as many rows as needed, and their lengths differ by one tile at most; the shorter rows, of larger
    tiles, come first. Example: 5 tiles where 3 fit -> a row of 2, a row of 3; where 2 fit -> rows of 1, 2, 2.
    """
    rules = []
    for columns in range(2, _MOST_COLUMNS + 1):
        rows = -(-count // columns)
        short, longer = divmod(count, rows)  # `longer` rows have short + 1 tiles
        grid, spans, units = f".{CLASS} .of-{count}", "", short
        if longer:
            units, wide = short * (short + 1), (rows - longer) * short
            spans = (
                f" {grid} > * {{ grid-column: span {short}; }}"
                f" {grid} > :nth-child(-n+{wide}) {{ grid-column: span {short + 1}; }}"
            )
        below = f" and (width < {_width(columns + 1)}px)" if columns < _MOST_COLUMNS else ""
        rules.append(
            f"@container (width >= {_width(columns)}px){below} {{ {grid} {{ grid-template-columns: "
            f"repeat({units}, minmax(0, 1fr)); }}{spans} }}\n"
        )
    return "".join(rules)


def _width(columns: int) -> int:
    """Return the smallest width, in CSS pixels, at which this number of columns fits."""
    return columns * _NARROWEST + (columns - 1) * _GAP


def tile_grid(tiles: Sequence[Tile], names: Mapping[str, str], size: ThumbnailSize, *, links: bool) -> str:
    """Return the grid's HTML. A picture that cannot be read is replaced by the reason.

    names: the name to show for each path. links: whether each picture links to its file.
    """
    drawn = [_drawn(tile.path, size) for tile in tiles]
    ratios = [picture.width / picture.height for picture in drawn if isinstance(picture, Thumbnail)]
    ratio = min(1.5, max(0.75, median(ratios))) if ratios else 1.5
    tall = round(size.side / max(1.0, ratio)) + 2 * _PADDING
    cards = "\n".join(
        _card(tile, picture, names[tile.path], file_link(tile.path) if links else None)
        for tile, picture in zip(tiles, drawn, strict=True)
    )
    # A lone row of few tiles is not stretched beyond what their pictures fill.
    widest = len(tiles) * (size.side + 64 + _GAP)
    return (
        f'<div class="{CLASS}" style="--ratio: {ratio:.3f}; --tall: {tall}px; max-width: {widest}px">'
        f'<div class="grid of-{len(tiles)}" role="list">\n{cards}\n</div></div>'
    )


def as_text(text: str, most: int | None = None) -> str:
    """Escape text for HTML, also in an attribute, and shorten it in the middle to `most` characters."""
    shown = printable(text)
    if most is not None and len(shown) > most:
        shown = f"{shown[: (most + 1) // 2]}…{shown[len(shown) - most // 2 :]}"
    return html.escape(shown, quote=True)


def file_link(path: str) -> str | None:
    """Return the file: URL of a picture's file; None if it lies in a tar or table, is gone, or has another suffix.

    A browser decides by the suffix what to do with a file: a file that is a picture to clipdex may be a page with
    scripts to a browser.
    """
    try:
        raw = os.fsencode(path)
        there = os.path.isfile(raw)
    except (OSError, ValueError):
        return None
    if not raw.startswith(b"/") or not raw.lower().endswith(SUFFIXES) or not there:
        return None
    return "file://" + quote_from_bytes(raw, safe=b"/")


def _drawn(path: str, size: ThumbnailSize) -> Thumbnail | ImageError:
    try:
        return thumbnail(path, size)
    except ImageError as exc:
        return exc


def _card(tile: Tile, picture: Thumbnail | ImageError, name: str, link: str | None) -> str:
    if isinstance(picture, Thumbnail):
        source = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
        alt, size = as_text(tile.alt, _ALT), f'width="{picture.width}" height="{picture.height}"'
        shown = f'<img alt="{alt}" {size} src="{source}">'
        if tile.regions:
            seen = "".join(_polygon(region, picture) for region in tile.regions)
            shown = (
                f'<svg role="img" aria-label="{alt}" {size} viewBox="0 0 {picture.width} {picture.height}">'
                f'<image {size} href="{source}"></image>{seen}</svg>'
            )
    else:
        shown = f'<span class="gone">{as_text(picture.reason.replace("_", " "))}</span>'
    if link is None:
        frame = f'<div class="frame">{shown}</div>'
    else:
        frame = f'<a class="frame" href="{html.escape(link, quote=True)}">{shown}</a>'
    mark = f'<span class="mark">{as_text(tile.mark)}</span>' if tile.mark else ""
    word = "copy" if len(tile.others) == 1 else "copies"
    copies = f' <span class="aside">+ {len(tile.others):,} {word}</span>' if tile.others else ""
    return (
        f'<div class="tile{" marked" if tile.mark else ""}" role="listitem" title="{_tooltip(tile)}">{frame}'
        f'<div class="line">{mark}{as_text(tile.label)}{copies}</div>'
        f'<div class="name"><bdi>{as_text(name, _NAME)}</bdi></div></div>'
    )


def _polygon(region: Sequence[Sequence[float]], picture: Thumbnail) -> str:
    corners = " ".join(f"{x * picture.width:.1f},{y * picture.height:.1f}" for x, y in region)
    return f'<polygon class="seen" points="{corners}"></polygon>'


def _tooltip(tile: Tile) -> str:
    lines = [tile.path, *tile.others[:_OTHERS_NAMED]]
    if len(tile.others) > _OTHERS_NAMED:
        lines.append(f"... and {len(tile.others) - _OTHERS_NAMED:,} more")
    return "\n".join(as_text(line, _PATH if i else _FIRST_PATH) for i, line in enumerate(lines))
