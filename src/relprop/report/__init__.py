"""Reports: one HTML file with images, conservation tables, scores and curves, without scripts or anything to fetch.

report = report_of_run(Path("runs/3f2a"))          # a run of `relprop evaluate`
report = report_of_results([Path("relprop-out")])  # what `relprop explain` wrote
write(report, Path("report.html"))
"""

from relprop.report.of_results import report_of_results
from relprop.report.of_run import report_of_run
from relprop.report.of_studies import report_of_studies
from relprop.report.render import render, write
from relprop.sessions import Study, Workbench

__all__ = ["Study", "Workbench", "render", "report_of_results", "report_of_run", "report_of_studies", "write"]
