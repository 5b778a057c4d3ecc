"""From a source to an index: scan → decode → embed → append. `run.py` joins the stages."""

from clipdex.pipeline.limits import Limits
from clipdex.pipeline.plan import Plan, plan_run
from clipdex.pipeline.run import Progress, RunReport, index_pictures

__all__ = ["Limits", "Plan", "Progress", "RunReport", "index_pictures", "plan_run"]
