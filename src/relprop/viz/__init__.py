"""Pictures of relevance: they read maps and results, and never compute relevance themselves."""

from relprop.viz.colour import Scale as Scale
from relprop.viz.colour import scale_of as scale_of
from relprop.viz.colour import shared_scale as shared_scale
from relprop.viz.contours import contours as contours
from relprop.viz.figure import figure as figure
from relprop.viz.figure import show as show
from relprop.viz.grid import grid as grid
from relprop.viz.grid import save as save
from relprop.viz.grid import save_overlay as save_overlay
from relprop.viz.grid import save_pixels as save_pixels
from relprop.viz.grid import side_by_side as side_by_side
from relprop.viz.overlay import blend as blend
from relprop.viz.overlay import overlay as overlay
from relprop.viz.overlay import squares as squares

__all__ = [
    "Scale",
    "blend",
    "contours",
    "figure",
    "grid",
    "overlay",
    "save",
    "save_overlay",
    "save_pixels",
    "scale_of",
    "shared_scale",
    "show",
    "side_by_side",
    "squares",
]
