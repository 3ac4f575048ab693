"""Pictures of relevance: they read maps and results, and never compute relevance themselves."""

from relprop.viz.colour import Scale, scale_of, shared_scale
from relprop.viz.contours import contours
from relprop.viz.figure import figure, show
from relprop.viz.grid import grid, save, save_overlay, save_pixels, side_by_side
from relprop.viz.overlay import blend, overlay, squares

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
