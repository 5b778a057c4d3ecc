"""From a folder to an index: scan → decode → embed → append. `run.py` joins the stages."""

from clipdex.pipeline.run import Progress, RunReport, index_pictures

__all__ = ["Progress", "RunReport", "index_pictures"]
