"""Vector databases: pushing an index into one, and asking there.

Not public.
"""
