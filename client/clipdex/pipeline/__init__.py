"""From a source to an index: scan → decode → embed → append. `run.py` joins the stages."""
