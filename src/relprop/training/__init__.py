"""Training: recipes, a resumable loop, and the weights file it ends with."""

from relprop.training.curve import draw_curve
from relprop.training.events import Event, Finished, Row, Step
from relprop.training.loop import train
from relprop.training.recipes import RECIPES, Recipe, override
from relprop.training.report import Report, card, measure
from relprop.training.schedules import SCHEDULES, Position

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
