"""Perceptual similarity of pictures: signatures, and their comparison. Pure functions of arrays."""
