"""Thumbnails and originals of indexed pictures.

Not public.
"""
