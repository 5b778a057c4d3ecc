"""Errors, records, limits and files: the base of every other package, importing none of them.

Not public: docs/design.md lists what is.
"""
