"""Measuring: a server, a run over pictures, a search. Nothing here prints; `clipdex bench` does."""
