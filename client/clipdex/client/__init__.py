"""The client: pictures and texts in, unit vectors out; blocking, for asyncio, and in batches."""
