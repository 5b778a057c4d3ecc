"""The indexing pipeline: scan → decode → embed → append. `run.py` joins the stages."""
