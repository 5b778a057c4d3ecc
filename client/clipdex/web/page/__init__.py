"""The page: templates, style and script.

Not public.
"""
