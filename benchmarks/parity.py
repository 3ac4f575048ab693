"""How far the maps of `released()` are from maps that the authors' code made: relative L1 distance.

    python benchmarks/parity.py FOLDER

FOLDER holds `released_resnet18_seed7_images3.npz`, maps of the authors' code for variants (i) to (iv), and `seeded.py`,
which makes the weights (seed 7) and images (seed 3) that they belong to. It is not part of relprop.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
import torchvision

import relprop
from relprop.core.composites.presets import COMPOSITES
from relprop.reproduce.maps import VARIANTS


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    spec = importlib.util.spec_from_file_location("seeded", folder / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    maps = np.load(folder / "released_resnet18_seed7_images3.npz")
    model, x = seeded.seed_weights(torchvision.models.resnet18(), 7), seeded.seed_images(len(maps["p"]), 224, 3)
    for variant, (split, identity) in VARIANTS.items():
        rules = COMPOSITES.build(f"released:split={split}:identity={identity}")
        ours = relprop.explain(model, x, composite=rules).heatmap
        theirs = torch.from_numpy(maps[variant])
        distance = (ours - theirs).abs().sum((1, 2)) / theirs.abs().sum((1, 2))
        print(f"({variant})", *(f"{one:.1e}" for one in distance.tolist()))


if __name__ == "__main__":
    main()
