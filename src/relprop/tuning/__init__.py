"""Choosing what `lrp-cuts` reads by measurement: on some images, and reported on others."""

from relprop.tuning.candidates import Candidate, grid
from relprop.tuning.choose import Validation, cross_validate, require_disjoint, split_samples
from relprop.tuning.tune import Settings, Tuned, tune

__all__ = [
    "Candidate",
    "Settings",
    "Tuned",
    "Validation",
    "cross_validate",
    "grid",
    "require_disjoint",
    "split_samples",
    "tune",
]
