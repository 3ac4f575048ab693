"""Evaluations: a plan, rows, runs that resume and scale, summaries."""

from relprop.evaluation.memory import evaluate
from relprop.evaluation.plan import ModelSpec, Plan, with_controls
from relprop.evaluation.rows import Row, Rows
from relprop.evaluation.summary import summarise
from relprop.evaluation.tables import Line, Summary

__all__ = ["Line", "ModelSpec", "Plan", "Row", "Rows", "Summary", "evaluate", "summarise", "with_controls"]
