"""Seconds of the first explanation of a network, by a fresh `LRP`, beside a gradient, a later one, and other libraries.

    python benchmarks/first.py
    python benchmarks/first.py resnet18 resnet50      # these networks

One image of 224 px, one thread, random weights; medians of five, interleaved with a gradient of the same model. Other
libraries' explainers are made anew for each call too; "-" where one raises for a network.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from peers import CONTENDERS

import relprop

NETWORKS = ("resnet18", "resnet50", "resnet152", "densenet121", "vit_b_16", "convnext_tiny", "efficientnet_b0")
ROUNDS = 5
PEERS = ("captum LRP", "zennit EpsilonPlusFlat", "Grad-CAM (pytorch-grad-cam)")


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure(name: str) -> str:
    """One line of the table."""
    model = getattr(torchvision.models, name)().eval().requires_grad_(False)
    if name == "vit_b_16":
        torch.nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision begins with zeros
    x = torch.rand(1, 3, 224, 224)

    def gradient() -> None:
        image = x.clone().requires_grad_()
        model(image).amax().backward()

    rows = []
    gradient()
    for _ in range(ROUNDS):
        lrp = relprop.LRP(model)
        rows.append([seconds(gradient), *(seconds(lambda lrp=lrp: lrp(x)) for _ in range(3))])
    unit, first, _, later = (statistics.median(column) for column in zip(*rows, strict=True))
    others = " | ".join(peer(make, name, x, unit) for make in map(CONTENDERS.get, PEERS))
    return f"| {name} | {unit:.2f} | {first:.2f} | {first / unit:.1f} | {later / unit:.2f} | {others} |"


def peer(make: Callable[..., Any], name: str, x: torch.Tensor, unit: float) -> str:
    """First call of another library's explainer, in gradients."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f"{statistics.median([seconds(make(name, x)) for _ in range(ROUNDS)]) / unit:.1f}"
    return "-"


if __name__ == "__main__":
    torch.set_num_threads(1)
    relprop.LRP(torchvision.models.resnet18().eval())(torch.rand(1, 3, 64, 64))  # what is loaded once a process
    print(f"| network | a gradient, s | first, s | first, in gradients | later ones | {' | '.join(PEERS)} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for network in sys.argv[1:] or NETWORKS:
        print(measure(network), flush=True)
