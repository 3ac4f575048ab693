"""How well relevance is conserved: the largest gap at any layer, network by network, in float32 and float64.

    python benchmarks/conservation.py                        # every network below, at 224 px, two images
    python benchmarks/conservation.py --only resnet50 vgg16_bn
    python benchmarks/conservation.py --checkpoints DIR      # also resnet20-*.th and resnet56-*.th there (CIFAR-10)

Weights are random unless the name says otherwise; that is the hard case: random networks have units that nothing
excites. Three variants: as made; with every batch-norm shift lowered by 1.2, which leaves many more of these; and with
the last batch norm of each block at zero (`zero_init_residual`), so that one side of joins is zero. Classifiers
and layer scales that begin at or near zero get numbers first, or else nothing would flow. The last column is how far
the second image's map is from the same image explained alone, relative.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop.models import load_model

NETWORKS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "vgg16_bn", "densenet121",
    "googlenet", "mobilenet_v2", "timm:resnet50d", "timm:resnetv2_50", "timm:seresnet50", "regnet_y_400mf",
    "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t", "functional block", "compiled resnet18",
)  # fmt: skip


class Functional(nn.Module):
    """A residual block written with functions alone, in place and through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 10)."""
        h = F.relu_(F.max_pool2d(self.first(x), 2))
        out = self.second(h)
        out += h
        out[:, :4] *= 2
        return F.linear(F.gelu(out).mean((-2, -1)), self.head.weight, self.head.bias)


def made(name: str) -> nn.Module:
    """A network with random weights, with numbers for what begins at or near zero."""
    torch.manual_seed(0)
    if name == "functional block":
        return Functional().eval()
    if name == "compiled resnet18":
        return torch.compile(made("resnet18"))  # type: ignore[return-value]
    model = load_model(f"random:{name}").model
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
            elif "scale" in label or "gamma" in label:
                parameter.fill_(0.5)
    return model


def lowered(model: nn.Module) -> nn.Module:
    """Lower every batch-norm shift by 1.2."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return nn.Identity()
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
            yield name, lambda name=name: made(name), 224  # type: ignore[misc]
    if only is None or "efficientnet-lite0" in only:
        yield "efficientnet-lite0 (ImageNet weights)", lambda: load_model("efficientnet-lite0").model, 224  # type: ignore[return-value]
    for file in sorted(checkpoints.glob("resnet*.th")) if checkpoints else ():
        arch = f"cifar-{file.name.split('-')[0]}"
        yield f"{arch} (CIFAR-10 checkpoint)", lambda f=file, a=arch: load_model(str(f), arch=a).model, 32  # type: ignore[misc]


def gap(model: nn.Module, x: Tensor) -> tuple[float, float, float]:
    """Largest gap at any layer and cut, largest share absorbed, and how far a batch is from its last image alone."""
    lrp = relprop.LRP(model)
    result = lrp(x)
    assert result.ledger is not None
    alone = lrp(x[-1:], target=result.target[-1:]).relevance
    apart = float((alone - result.relevance[-1:]).abs().sum() / alone.abs().sum())
    return result.ledger.gap, result.ledger.absorbed, apart


def main() -> None:
    """Measure and print a table; fail if a gap misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--checkpoints", type=Path)
    options = parser.parse_args()
    print(f"relprop {relprop.__version__}, torch {torch.__version__}, two images\n")
    print("| network | variant | gap, float32 | gap, float64 | absorbed | batch against single |")
    print("|---|---|--:|--:|--:|--:|")
    missed = []
    begin = time.time()
    for name, make, size in networks(options.only, options.checkpoints):
        for variant, change in VARIANTS.items():
            model = change(make())
            if isinstance(model, nn.Identity):
                continue
            x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
            single, absorbed, apart = gap(model, x)
            double, _, _ = gap(model.double(), x.double())
            print(f"| {name} | {variant} | {single:.1e} | {double:.1e} | {absorbed:.1e} | {apart:.1e} |", flush=True)
            if not (single <= 1e-5 and double <= 1e-12 and apart <= 1e-4):
                missed.append(f"{name}, {variant}")
    print(f"\n{time.time() - begin:.0f} s. Bounds: 1e-5 in float32, 1e-12 in float64.")
    if missed:
        raise SystemExit(f"missed by: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
