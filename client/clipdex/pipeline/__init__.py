"""From a source to an index: scan → decode → embed → append. `run.py` joins the stages."""

from clipdex.base.limits import Limits
from clipdex.pipeline.departures import Forgotten, Stranded, forget_pictures
from clipdex.pipeline.plan import Plan, plan_run
from clipdex.pipeline.report import Progress, RunReport
from clipdex.pipeline.run import MAX_RING_BYTES, index_pictures

__all__ = [
    "MAX_RING_BYTES",
    "Forgotten",
    "Limits",
    "Plan",
    "Progress",
    "RunReport",
    "Stranded",
    "forget_pictures",
    "index_pictures",
    "plan_run",
]
