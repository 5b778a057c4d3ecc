"""Benchmarks of a server, an indexing run and a search. Nothing here prints; `clipdex bench` does."""
