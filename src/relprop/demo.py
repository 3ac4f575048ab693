"""What runs without arguments and without a network: a photograph, and a network trained on ImageNet.

from relprop import demo
demo.photograph()           # a cat
demo.model().model          # EfficientNet-Lite0, extra `demo`
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relprop.errors import UsageError
from relprop.images import read_image

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from relprop.models import LoadedModel

NAME = "chelsea"
"""The photograph that is explained where none is given."""
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
ASSETS = Path(__file__).parent / "assets"


def photograph(name: str = NAME) -> Image:
    """Return a bundled photograph, all of them free of copyright (assets/README.md): a cat, a cup of coffee, a rocket.

    Raises:
        UsageError: none is called `name`.
    """
    if name not in PHOTOGRAPHS:
        raise UsageError(f"no bundled photograph is called {name!r}; there are {', '.join(PHOTOGRAPHS)}")
    return read_image(ASSETS / f"{name}.jpg")


def model(device: str | torch.device = "cpu") -> LoadedModel:
    """Return the model that explains where none is given: EfficientNet-Lite0 with its ImageNet weights.

    Raises:
        MissingDependencyError: the extra `demo` is not installed.
    """
    from relprop.models import load_model

    return load_model(device=device)
