"""Errors, records, limits and files: the base of every other package, importing none of them."""
