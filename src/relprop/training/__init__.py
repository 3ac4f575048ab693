"""Training: recipes, a resumable loop, and the weights file it ends with."""

from relprop.training.loop import train
from relprop.training.recipes import RECIPES, Recipe, override
from relprop.training.report import Report, card, draw_curve, measure
from relprop.training.schedules import SCHEDULES, Position
from relprop.training.state import Event, Finished, Row, Step

__all__ = [
    "RECIPES",
    "SCHEDULES",
    "Event",
    "Finished",
    "Position",
    "Recipe",
    "Report",
    "Row",
    "Step",
    "card",
    "draw_curve",
    "measure",
    "override",
    "train",
]
