"""Path convertors of routes, in addition to Starlette's."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

__all__ = ["ITEM_ID"]

ITEM_ID = "item"  # as in `/items/{id:item}`


class _ItemId(Convertor[str]):
    """An id of an item: any characters, slashes and line breaks too, at which `path` would end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor(ITEM_ID, _ItemId())
