"""Residual networks for 32x32 pictures (He et al. 2015, arXiv 1512.03385, section 4.2).

A 3x3 stem, three stages of n basic blocks with `width`, 2 `width` and 4 `width` channels, global average pooling and
one fully connected layer: 6n + 2 weighted layers. Modules are named as torchvision names them, so that whatever is
said about a layer of `torchvision.models.resnet18` can be said here.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import UsageError

Shortcut = Literal["A", "B"]


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zero channels on either side; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.stride = stride
        self.padding = (extra // 2, extra - extra // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Option B: 1x1 convolution and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            make = PaddedShortcut if shortcut == "A" else projection
            self.downsample = make(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        main = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        skip = x if self.downsample is None else self.downsample(x)
        return cast("Tensor", self.relu(main + skip))


class CifarResNet(nn.Module):
    """The network of section 4.2; build it with `cifar_resnet`."""

    def __init__(self, blocks: int, shortcut: Shortcut, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(blocks, width, width, 1, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, 2, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures (N, 3, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast("Tensor", self.fc(self.avgpool(x).flatten(1)))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, *, shortcut: Shortcut = "B", num_classes: int = 10, width: int = 16) -> CifarResNet:
    """Build ResNet-`depth` for 32x32 pictures, with He's initialisation.

    Args:
        depth: 6n + 2 weighted layers: 20, 32, 44, 56, 110, ...
        shortcut: where the shape changes: "A" takes every second pixel and pads with zero channels (no parameters; the
            choice of the paper and of most published CIFAR-10 weights), "B" is a 1x1 convolution with batch norm.
        num_classes: outputs of the last layer.
        width: channels of the first stage.

    Raises:
        UsageError: a depth that is not 6n + 2, or an unknown shortcut.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise UsageError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 32, 44, 56, 110, ...), not {depth}")
    if shortcut not in ("A", "B"):
        raise UsageError(f"shortcut must be 'A' (zero padding) or 'B' (1x1 convolution), not {shortcut!r}")
    return CifarResNet(blocks, shortcut, num_classes, width)
