import numpy as np
import pytest
from training_helpers import pictures

from relprop.training import RECIPES, override


@pytest.fixture
def noise():
    """40 pictures of noise with labels 0 to 3 in turn: nothing to be learnt but the pictures themselves."""
    draw = np.random.default_rng(0)
    return pictures([(draw.integers(0, 256, (8, 8, 3)), index % 4) for index in range(40)], ("a", "b", "c", "d"))


@pytest.fixture
def small():
    """The CIFAR-10 recipe on a network of 8 layers and pictures of 8x8."""
    return override(
        RECIPES.build("cifar10"),
        "arch=cifar-resnet8-b",
        "size=8",
        "resize=8",
        "pad=1",
        "batch=16",
        "lr=0.1",
        "epochs=3",
        "holdout=0.2",
        "precision=32-true",
        "classes=none",
        "store=float32",
    )
