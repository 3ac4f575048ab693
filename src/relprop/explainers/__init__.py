"""Explainers and post-processing by name. An explainer maps (model, x, target) to heatmaps; see `base`."""

from relprop.explainer import Explainer, Post
from relprop.explainers import cam, captum_lrp, controls, cuts, gradients, lrp, post, rise  # noqa: F401  (to register)
from relprop.explainers.base import EXPLAINERS, POST

__all__ = ["EXPLAINERS", "POST", "Explainer", "Post"]
