"""From pictures on disk to an index: scan → decode → embed → append. `run.py` joins the stages."""

from clipdex.pipeline.limits import Limits
from clipdex.pipeline.opening import open_source, open_sources, retry_source
from clipdex.pipeline.plan import Plan, plan_run
from clipdex.pipeline.run import Progress, RunReport, index_pictures
from clipdex.pipeline.source import Folder, PathList, Source

__all__ = [
    "Folder",
    "Limits",
    "PathList",
    "Plan",
    "Progress",
    "RunReport",
    "Source",
    "index_pictures",
    "open_source",
    "open_sources",
    "plan_run",
    "retry_source",
]
