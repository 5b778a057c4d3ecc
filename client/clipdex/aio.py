"""The client for asyncio: `async with await clipdex.aio.connect(...)`. Public."""

from clipdex.client.aio import *  # noqa: F403
from clipdex.client.aio import __all__ as __all__
