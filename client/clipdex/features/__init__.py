"""Local features of an index's pictures, and matching with them. docs/local-features.md.

Not public: docs/design.md lists what is.
"""
