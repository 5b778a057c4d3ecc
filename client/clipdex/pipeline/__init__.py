"""The indexing pipeline: scan → decode → embed → append. `run.py` joins the stages.

Not public: docs/design.md lists what is.
"""
