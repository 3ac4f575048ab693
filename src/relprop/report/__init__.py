"""Reports: one HTML file with images, conservation tables, scores and curves, without scripts or anything to fetch.

from relprop.report.of_run import report_of_run
from relprop.report.render import write
from relprop.report.saved import report_of_results

report = report_of_run(Path("runs/3f2a"))          # a run of `relprop evaluate`
report = report_of_results([Path("relprop-out")])  # what `relprop explain` wrote
write(report, Path("report.html"))
"""
