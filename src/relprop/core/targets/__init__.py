"""What of an output is explained, and with how much relevance the backward pass starts."""

from relprop.core.targets.detection import Detection, InstanceMask
from relprop.core.targets.start import Sigmoid
from relprop.core.targets.target import (
    Binary,
    Channel,
    Contrast,
    Function,
    Given,
    Mask,
    OutputTarget,
    Scale,
    Similarity,
    Value,
    of_function,
)

__all__ = [
    "Binary",
    "Channel",
    "Contrast",
    "Detection",
    "Function",
    "Given",
    "InstanceMask",
    "Mask",
    "OutputTarget",
    "Scale",
    "Sigmoid",
    "Similarity",
    "Value",
    "of_function",
]
