"""Cost of an explanation in plain gradients of the same model, in one process and interleaved.

    python benchmarks/speed.py                                    # ResNet-50, batch 1 and 8, one thread
    python benchmarks/speed.py --models resnet18 resnet50 --batch 1 8 32 --threads 2 --repeats 9
    python benchmarks/speed.py --peers                            # also zennit, autoLRP and captum, where installed

A gradient is forward and backward to the input, weights frozen. Runs alternate, so that whatever else the machine does
hits all alike; the figures are medians and the ratio to the gradient's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import relprop

Run = Callable[[], object]


def build(name: str) -> nn.Module:
    """A network with random weights and frozen parameters."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)


def gradient(model: nn.Module, x: Tensor) -> Run:
    """Forward and backward to the input."""

    def run() -> Tensor | None:
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        model(image).amax(1).sum().backward()
        return image.grad

    return run


def forward(model: nn.Module, x: Tensor) -> Run:
    """The model alone."""

    def run() -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(x)
        return scores

    return run


def peers(name: str, x: Tensor) -> dict[str, Run]:
    """The same explanation by other libraries, on models of their own since some change them."""
    runs: dict[str, Run] = {}
    target = torch.zeros(len(x), dtype=torch.long)
    if importlib.util.find_spec("zennit"):
        from zennit.attribution import Gradient
        from zennit.composites import EpsilonPlusFlat
        from zennit.torchvision import ResNetCanonizer

        model, onehot = build(name), torch.eye(1000)[target]

        def by_zennit() -> object:
            with Gradient(model, EpsilonPlusFlat(canonizers=[ResNetCanonizer()])) as attributor:
                return attributor(x.clone().requires_grad_(), onehot)

        runs["zennit EpsilonPlusFlat"] = by_zennit
    if importlib.util.find_spec("captum"):
        from captum.attr import LRP, GuidedBackprop, IntegratedGradients

        guided = build(name)
        for module in guided.modules():  # captum cannot hook in-place activations
            if isinstance(module, nn.ReLU):
                module.inplace = False
        lrp, backprop, integrated = LRP(build(name)), GuidedBackprop(guided), IntegratedGradients(build(name))
        chunk = max(8, len(x))
        runs["captum LRP"] = lambda: lrp.attribute(x.clone(), target=target)
        runs["captum GuidedBackprop"] = lambda: backprop.attribute(x.clone().requires_grad_(), target=target)
        runs["captum IntegratedGradients, 50 steps"] = lambda: integrated.attribute(
            x, target=target, n_steps=50, internal_batch_size=chunk
        )
    return runs


def measure(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of each; a run that raises is left out, with its error."""
    times: dict[str, list[float]] = {}
    for name, run in [*runs.items()]:
        try:
            run()  # capture, caches
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
            continue
        times[name] = []
    for _ in range(repeats):
        for name, seconds in times.items():
            begin = time.perf_counter()
            runs[name]()
            seconds.append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Measure and print a table; write it as JSON too if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.size} px, median of {options.repeats}\n")
    print("| model | batch | run | ms | gradients |\n|---|--:|---|--:|--:|")
    rows = []
    for name in options.models:
        model = build(name)
        last = build(name).to(memory_format=torch.channels_last)
        for batch in options.batch:
            x = torch.randn(batch, 3, options.size, options.size)
            xl = x.contiguous(memory_format=torch.channels_last)
            lrp, bare = relprop.LRP(model), relprop.LRP(model, ledger=False)
            runs: dict[str, Run] = {
                "gradient": gradient(model, x),
                "gradient, channels last": gradient(last, xl),
                "forward": forward(model, x),
                "relprop": lambda lrp=lrp, x=x: lrp(x),  # type: ignore[misc]
                "relprop, no ledger": lambda lrp=bare, x=x: lrp(x),  # type: ignore[misc]
            }
            if options.peers:
                runs |= peers(name, x)
            seconds = measure(runs, options.repeats)
            for run, took in seconds.items():
                ratio = took / seconds["gradient"]
                rows.append({"model": name, "batch": batch, "run": run, "seconds": took, "gradients": ratio})
                print(f"| {name} | {batch} | {run} | {took * 1e3:.1f} | {ratio:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
