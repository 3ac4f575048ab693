"""Metrics by name. A metric maps `Inputs` (model, x, heatmap, target, ...) to one value per sample and row."""

from relprop.metrics import localisation, map_properties, quantus_metrics  # noqa: F401  (to register)
from relprop.metrics.base import METRICS, Inputs, Metric
from relprop.metrics.curves import Curves, area, masking_curves
from relprop.metrics.insertion_deletion import InsertionDeletion, SymmetricRelevanceGain, insertion_deletion
from relprop.metrics.localisation import box_mask
from relprop.metrics.masking import fill_picture, pixel_counts, row_major, schedule, shuffled, together
from relprop.metrics.protocols import PROTOCOLS, Protocol

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Curves",
    "Inputs",
    "InsertionDeletion",
    "Metric",
    "Protocol",
    "SymmetricRelevanceGain",
    "area",
    "box_mask",
    "fill_picture",
    "insertion_deletion",
    "masking_curves",
    "pixel_counts",
    "row_major",
    "schedule",
    "shuffled",
    "together",
]
