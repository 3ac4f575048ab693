"""CIFAR-10 in the layout of torchvision (`cifar-10-batches-py`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relprop.data.dataset import DATASETS, Dataset, Sample
from relprop.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


@DATASETS.register("cifar10")
@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10 as torchvision keeps it (ROOT/cifar-10-batches-py).

    Options:
        split: `test` (10,000 pictures, the default) or `train` (50,000).
    """

    split: Literal["test", "train"] = "test"

    def __call__(self, root: Path) -> Dataset:
        """Open it with torchvision, which checks the files' digests; ids are `test/00000` and so on."""
        from torchvision.datasets import CIFAR10

        try:
            found = CIFAR10(str(root), train=self.split == "train", download=False)
        except RuntimeError as error:
            raise DataError(
                f"CIFAR-10 is not in {root}, or is damaged ({error}); download cifar-10-python.tar.gz from "
                f"https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there, so that there is "
                f"{root / CIFAR10.base_folder}"
            ) from None
        samples = tuple(Sample(f"{self.split}/{at:05d}", label) for at, label in enumerate(found.targets))
        return Dataset(f"cifar10:{root}:split={self.split}", samples, Pixels(found.data), tuple(found.classes))


@dataclass(frozen=True, eq=False)
class Pixels:
    """A reader for pictures that are in memory: (n, H, W, 3), uint8, in the order of the ids."""

    data: Any

    def __call__(self, sample: Sample) -> Image:
        """Return the picture of a sample."""
        from PIL import Image

        return Image.fromarray(self.data[int(sample.id.split("/")[1])])
