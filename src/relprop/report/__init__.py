"""Reports: one HTML file with images, conservation tables, scores and curves, without scripts or anything to fetch.

report = report_of_run(Path("runs/3f2a"))          # a run of `relprop evaluate`
report = report_of_results([Path("relprop-out")])  # what `relprop explain` wrote
write(report, Path("report.html"))
"""

from relprop.report.of_comparisons import report_of_comparisons
from relprop.report.of_concepts import report_of_concepts
from relprop.report.of_run import report_of_run
from relprop.report.render import render, write
from relprop.report.saved import report_of_results
from relprop.sessions import Comparison, Session

__all__ = [
    "Comparison",
    "Session",
    "render",
    "report_of_comparisons",
    "report_of_concepts",
    "report_of_results",
    "report_of_run",
    "write",
]
