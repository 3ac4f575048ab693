"""How well relevance is conserved: the largest gap at any layer, network by network, in float32 and float64.

    python benchmarks/conservation.py                        # every network below, at 224 px, two images
    python benchmarks/conservation.py --only resnet50 vgg16_bn
    python benchmarks/conservation.py --checkpoints DIR      # also resnet20-*.th and resnet56-*.th there (CIFAR-10)

Weights are random unless the name says otherwise; that is the hard case: random networks have units that nothing
excites. Three variants: as made; with every batch-norm shift lowered by 1.2, which leaves many more of these; and with
the last batch norm of each block at zero (`zero_init_residual`), which leaves joins of which one side is zero.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import relprop
from relprop.models import load_model

NETWORKS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "vgg16_bn", "densenet121",
    "googlenet", "mobilenet_v2", "timm:resnet50d", "timm:resnetv2_50",
)  # fmt: skip


def lowered(model: nn.Module) -> nn.Module:
    """Lower every batch-norm shift by 1.2."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.bias is not None:
                module.bias -= 1.2
    return model


def zeroed(model: nn.Module) -> nn.Module:
    """Set the last batch norm of every residual block to zero, as `zero_init_residual` does."""
    blocks = [m for m in model.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck") and hasattr(m, "bn2")]
    with torch.no_grad():
        for block in blocks:
            last = block.bn3 if hasattr(block, "bn3") else block.bn2
            assert isinstance(last, nn.Module)
            for value in (last.weight, last.bias):
                assert isinstance(value, Tensor)
                value.zero_()
    return model if blocks else nn.Identity()


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as made": lambda model: model,
    "shifts -1.2": lowered,
    "zero-init residual": zeroed,
}


def networks(only: list[str] | None, checkpoints: Path | None) -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    """Name, maker and input size of each network."""
    for name in NETWORKS:
        if only is None or name in only:
            yield name, lambda name=name: load_model(f"random:{name}").model, 224  # type: ignore[misc]
    if only is None or "efficientnet-lite0" in only:
        yield "efficientnet-lite0 (ImageNet weights)", lambda: load_model("efficientnet-lite0").model, 224  # type: ignore[return-value]
    for file in sorted(checkpoints.glob("resnet*.th")) if checkpoints else ():
        arch = f"cifar-{file.name.split('-')[0]}"
        yield f"{arch} (CIFAR-10 checkpoint)", lambda f=file, a=arch: load_model(str(f), arch=a).model, 32  # type: ignore[misc]


def gap(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Largest gap at any layer and cut, and the largest share absorbed."""
    ledger = relprop.explain(model, x).ledger
    assert ledger is not None
    return ledger.gap, ledger.absorbed


def main() -> None:
    """Measure and print a table; fail if a gap misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--checkpoints", type=Path)
    options = parser.parse_args()
    print(f"relprop {relprop.__version__}, torch {torch.__version__}, two images\n")
    print("| network | variant | gap, float32 | gap, float64 | absorbed |\n|---|---|--:|--:|--:|")
    missed = []
    begin = time.time()
    for name, make, size in networks(options.only, options.checkpoints):
        for variant, change in VARIANTS.items():
            model = change(make())
            if isinstance(model, nn.Identity):
                continue
            x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
            single, absorbed = gap(model, x)
            double, _ = gap(model.double(), x.double())
            print(f"| {name} | {variant} | {single:.1e} | {double:.1e} | {absorbed:.1e} |", flush=True)
            if not (single <= 1e-5 and double <= 1e-12):
                missed.append(f"{name}, {variant}")
    print(f"\n{time.time() - begin:.0f} s. Bounds: 1e-5 in float32, 1e-12 in float64.")
    if missed:
        raise SystemExit(f"missed by: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
