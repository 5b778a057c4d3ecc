"""Perceptual similarity of pictures: signatures, and their comparison. Pure functions of arrays.

Not public: docs/design.md lists what is.
"""
