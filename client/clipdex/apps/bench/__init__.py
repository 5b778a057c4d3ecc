"""Benchmarks of a server, a run, the feeding of a GPU, and a search. Nothing here prints; `clipdex bench` does.

Public: the modules in `__all__`, with the names in theirs.
"""

__all__ = ["measure_feed", "measure_index", "measure_search", "measure_server"]
