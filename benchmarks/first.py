"""Seconds of the first explanation of a network, by a fresh `LRP`, beside a gradient and a later explanation.

    python benchmarks/first.py

One image of 224 px, one thread, random weights; medians of five, each in turns with a gradient of the same model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision

import relprop

NETWORKS = ("resnet18", "resnet50", "resnet152", "densenet121", "vit_b_16", "convnext_tiny", "efficientnet_b0")
ROUNDS = 5


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
    return f"| {name} | {unit:.2f} | {first:.2f} | {first / unit:.1f} | {later / unit:.2f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    relprop.LRP(torchvision.models.resnet18().eval())(torch.rand(1, 3, 64, 64))  # what is loaded once a process
    print("| network | a gradient, s | first explanation, s | in gradients | later ones, in gradients |")
    print("|---|--:|--:|--:|--:|")
    for network in NETWORKS:
        print(measure(network), flush=True)
