"""Preparation of a model's inputs, as its card says: decoding, resizing, tokenizing.

Not public: docs/design.md lists what is.
"""
