"""A client and an index joined: pictures added, found and removed by ids of the caller's.

Not public: docs/design.md lists what is.
"""
