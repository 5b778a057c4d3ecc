"""The links of a page of HTML."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["links_of"]


def links_of(page: str) -> list[str]:
    """Return the addresses that the page's links have, in their order, as they are written."""
    parser = _Links()
    parser.feed(page)
    parser.close()
    return parser.found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value.strip() for name, value in attrs if name == "href" and value]
