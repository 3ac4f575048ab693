"""Torchvision's detectors and segmentation networks as they are, and a network of two inputs: conservation and cost.

    python benchmarks/detectors.py                       # all of them, as Markdown
    python benchmarks/detectors.py --only fcos_resnet50_fpn --repeats 7

One image (of 320 px unless told, `--size`), random weights made sane as in `survey.py`, no threshold on scores. What is
explained is the best detection (of Mask R-CNN its mask too), a class over a square of a segmentation, and the predicted
class of two ResNet-18 that read an image each. "gap" is the largest leak at any layer, as a share of the relevance
there; "gradients" the time of an explanation in plain gradients of the same number: runs alternate in one process on
one thread, and the ratio is of medians.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from survey import sane
from torch import Tensor, nn
from turns import by_turns

import relprop
from relprop import targets

DETECTORS = (
    "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn", "masks",
)  # fmt: skip
SEGMENTATIONS = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
NETWORKS = (*DETECTORS, *SEGMENTATIONS, "two resnet18")


class Two(nn.Module):
    """Two ResNet-18 that read an image each, and one classifier."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision

        self.nets = nn.ModuleList(torchvision.models.resnet18() for _ in range(2))
        self.head = nn.Linear(2000, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(N, 3, H, W), (N, 3, H, W) -> (N, 10)."""
        return self.head(torch.cat([net(x) for net, x in zip(self.nets, (left, right), strict=True)], 1))


def made(name: str, x: Tensor) -> nn.Module:
    """A network with random weights that relevance can flow through."""
    from torchvision.models import detection, segmentation

    torch.manual_seed(0)
    if name == "two resnet18":
        return sane(_Pair(Two().eval()), x).two  # type: ignore[return-value]
    if name in SEGMENTATIONS:
        return sane(getattr(segmentation, name)(weights=None, weights_backbone=None).eval(), x)
    name = "maskrcnn_resnet50_fpn" if name == "masks" else name
    options: dict[str, Any] = {"box_score_thresh" if "rcnn" in name else "score_thresh": 0.0}
    options |= {} if name.startswith("ssd") else {"min_size": x.shape[-1], "max_size": x.shape[-1]}
    return sane(getattr(detection, name)(weights=None, weights_backbone=None, **options).eval(), x)


class _Pair(nn.Module):
    """Takes both images of a batch as one."""

    def __init__(self, two: nn.Module) -> None:
        super().__init__()
        self.two = two

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 10)."""
        result: Tensor = self.two(x, x)
        return result


def asked(name: str, size: int) -> tuple[Any, Callable[[Any], Tensor]]:
    """The target, and the same number of what the model returns."""
    if name == "masks":
        return targets.InstanceMask(0), lambda y: y[0]["masks"][0].mean()
    if name in DETECTORS:
        return targets.Detection(0), lambda y: y[0]["scores"][0]
    if name in SEGMENTATIONS:
        region = torch.zeros(size, size, dtype=torch.bool)
        region[size // 3 : size // 2, size // 3 : size // 2] = True
        return targets.Mask(3, region), lambda y: y["out"].softmax(1)[:, 3][:, region].mean()
    return None, lambda y: y.amax(1).sum()


def row(name: str, size: int, repeats: int) -> str:
    """One line of the table."""
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = made(name, x).requires_grad_(False)
    target, number = asked(name, size)
    x = x[:1]
    one: Any = (x, x.flip(3)) if name.startswith("two") else x
    lrp = relprop.LRP(model)
    result = lrp(one, target)
    score = float(result.score[0])
    absorbed = result.ledger.absorbed

    def gradient() -> None:
        leaves = [part.clone().requires_grad_() for part in (one if isinstance(one, tuple) else (one,))]
        torch.autograd.grad(number(model(*leaves)), leaves)

    median = by_turns({"lrp": lambda: lrp(one, target), "gradient": gradient}, repeats, warm=1)
    double = tuple(part.double() for part in one) if isinstance(one, tuple) else one.double()
    exact = relprop.explain(model.double(), double, target).ledger
    cells = (f"{score:.3f}", f"{result.ledger.gap:.1e}", f"{exact.gap:.1e}", f"{absorbed:.2g}")
    cost = f"{median['lrp'] / median['gradient']:.2f}", f"{median['gradient']:.2f}"
    return f"| {name} | {' | '.join((*cells, *cost))} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, metavar="NETWORK", default=NETWORKS)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| network | score | gap, float32 | gap, float64 | absorbed | gradients | a gradient, s |")
    print("|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in options.only:
        print(row(name, options.size, options.repeats), flush=True)


if __name__ == "__main__":
    main()
