"""The client for asyncio: `async with await clipdex.aio.connect(...)`. Public."""

from clipdex.client.async_client import *  # noqa: F403
from clipdex.client.async_client import __all__ as __all__
