"""A client and an index joined: pictures added, found and removed by the caller's own ids.

Not public: docs/design.md lists what is.
"""
