"""A contact sheet: the answers to queries as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clipdex.base.errors import ImageError
from clipdex.base.replacing import replacing
from clipdex.index.hits import Hit
from clipdex.model.images import open_image
from clipdex.sources.opening import member_bytes

__all__ = ["Section", "contact_sheet", "write_contact_sheet"]

_THUMBNAIL = 240  # pixels along the longer side
_COPIES_NAMED = 20

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #66707a; --paper: #f6f6f3; --card: #fff;
  --line: #dfe0da; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaec; --soft: #9aa4ad; --paper: #16191c; --card: #1f2428; --line: #343b41; }
}
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
header p, footer { color: var(--soft); margin: 0 0 1.5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; font-weight: 600; }
h2 small { color: var(--soft); font-weight: 400; margin-left: .5rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
li .frame { aspect-ratio: 4 / 3; display: flex; align-items: center; justify-content: center; padding: .5rem; }
li img { max-width: 100%; max-height: 100%; border-radius: .2rem; }
li .gone { color: var(--soft); font-size: .85rem; text-align: center; }
li p { margin: 0; padding: .4rem .6rem .5rem; border-top: 1px solid var(--line); font-size: .8rem; }
li b { font-variant-numeric: tabular-nums; }
li em { float: right; font-style: normal; color: var(--soft); }
li span { display: block; color: var(--soft); overflow-wrap: anywhere; }
"""

# Nothing on the page may run or be fetched: paths and queries are not to be trusted.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A query, a note on it, and its answers."""

    query: str
    hits: Sequence[Hit]
    note: str = ""


def contact_sheet(sections: Sequence[Section], *, title: str, summary: str) -> str:
    """Return the page's HTML. A picture that cannot be read any more is replaced by the reason."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1>\n<p>{_text(summary)}</p></header>\n{body}\n</body>\n</html>\n"
    )


def write_contact_sheet(path: Path, sections: Sequence[Section], *, title: str, summary: str) -> None:
    """Write the page; a file that was at `path` stays until the new one is complete.

    Raises:
        ClipdexError: the file cannot be written.
    """
    with replacing(path, "the contact sheet") as file:
        file.write(contact_sheet(sections, title=title, summary=summary).encode("utf-8"))


def _section(section: Section) -> str:
    note = f" <small>{_text(section.note)}</small>" if section.note else ""
    cards = "\n".join(_card(hit) for hit in section.hits)
    return f"<section>\n<h2>{_text(section.query)}{note}</h2>\n<ol>\n{cards}\n</ol>\n</section>"


def _card(hit: Hit) -> str:
    try:
        if hit.id is not None:
            raise ImageError(f"{hit.path}: was added by id", reason="added by id: no file")
        source = base64.b64encode(_thumbnail(hit.path)).decode()
        picture = f'<img alt="" src="data:image/jpeg;base64,{source}">'
    except ImageError as exc:
        picture = f'<span class="gone">{_text(exc.reason)}</span>'
    name = _text(Path(hit.path).name)
    paths = [hit.path, *(copy.path for copy in hit.copies[:_COPIES_NAMED])]
    if len(hit.copies) > _COPIES_NAMED:
        paths.append(f"... and {len(hit.copies) - _COPIES_NAMED:,} more")
    title = html.escape(_clean("\n".join(paths)), quote=True)
    word = "copy" if len(hit.copies) == 1 else "copies"
    copies = f" <em>+ {len(hit.copies):,} {word}</em>" if hit.copies else ""
    return (
        f'<li title="{title}"><div class="frame">{picture}</div>'
        f"<p><b>{hit.score:.3f}</b>{copies}<span>{name}</span></p></li>"
    )


def _thumbnail(path: str) -> bytes:
    image = open_image(member_bytes(path) or path)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _text(text: str) -> str:
    return html.escape(_clean(text))


def _clean(text: str) -> str:
    """Spell a path's undecodable bytes as \\udcNN, since UTF-8 cannot encode them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
