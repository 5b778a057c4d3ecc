"""The client: pictures and texts in, unit vectors out; blocking, for asyncio, and in batches.

Not public: docs/design.md lists what is.
"""
