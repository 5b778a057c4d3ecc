"""The client and the collection for asyncio: `async with await clipdex.aio.connect(...)`. Public."""

from clipdex.client.async_client import AsyncClient, connect
from clipdex.collection.async_collection import Collection

__all__ = ["AsyncClient", "Collection", "connect"]
