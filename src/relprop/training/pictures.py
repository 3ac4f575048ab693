"""Pictures as batches, with every random choice a function of (seed, epoch, picture).

Nothing here remembers anything: a run can be resumed at any epoch, with any number of workers, and sees the same
pictures with the same changes. Batches are uint8 (N, 3, H, W) in channels-last memory; whoever uses them normalises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from relprop.errors import DataError
from relprop.images import Preprocess
from relprop.seeding import generator, mix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relprop.data import Dataset
    from relprop.training.recipes import Recipe

Batch = tuple[Tensor, Tensor]
"""Pictures (N, 3, H, W), uint8, and labels (N,), int64."""


def hold_out(labels: Tensor, share: float, seed: int, by: str = "class") -> tuple[Tensor, Tensor]:
    """Return indices to train on and indices held out, drawn by `seed`.

    `by` "class" holds out round(`share` n) of each class's n pictures; "random" n - floor((1 - `share`) n) of all n.
    """
    order = torch.randperm(len(labels), generator=generator(seed, 0))
    held = torch.zeros(len(labels), dtype=torch.bool)
    if by == "random":
        held[order[int((1 - share) * len(labels)) :]] = True
        return (~held).nonzero().flatten(), held.nonzero().flatten()
    for label in set(labels.tolist()):
        mine = order[labels[order] == label]
        held[mine[: round(share * len(mine))]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def shift_and_flip(pixels: Tensor, draw: torch.Generator, pad: int, cutout: int) -> Tensor:
    """Shift each picture by up to `pad` pixels, borders reflected; flip half of them; grey out a square.

    (N, H, W, 3) uint8 -> (N, H, W, 3). Pixel (i, j) of the result is pixel (reflect(i + di), reflect(j + dj)) of the
    picture, one lookup for the whole batch.
    """
    n, height, width, _ = pixels.shape
    shift = torch.randint(-pad, pad + 1, (2, n, 1), generator=draw)
    flip = torch.rand(n, 1, generator=draw) < 0.5
    rows, columns = torch.arange(height), torch.arange(width)
    columns = torch.where(flip, width - 1 - columns, columns)
    rows, columns = reflect(rows + shift[0], height), reflect(columns + shift[1], width)
    out = pixels[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    if cutout:
        tall, wide = (_span(side, cutout, torch.randint(side, (n, 1), generator=draw)) for side in (height, width))
        out[tall[:, :, None] & wide[:, None, :]] = 127
    return out


def reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices from -(size - 1) to 2 (size - 1) back into 0 .. size - 1, the border not repeated."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _span(side: int, length: int, centre: Tensor) -> Tensor:
    """Mark `length` of `side` pixels around each centre, cut off at the border: (N, 1) -> (N, side), bool."""
    offset = torch.arange(side) - centre
    return (offset >= -(length // 2)) & (offset < length - length // 2)


@dataclass(frozen=True)
class Decoded:
    """Pictures decoded once and kept in memory, for sizes such as 32x32."""

    pixels: Tensor  # (N, H, W, 3), uint8
    labels: Tensor  # (N,), int64
    pad: int  # see `Recipe.pad`
    cutout: int  # see `Recipe.cutout`

    def draw(self, batches: Sequence[Tensor], seed: int | None) -> Iterator[Batch]:
        """Yield the pictures of each list of indices: shifted and flipped by `seed`, or as they are for evaluation."""
        for indices in batches:
            pixels = self.pixels[indices]
            if seed is not None:  # a picture comes once an epoch, so the first one names its batch
                pixels = shift_and_flip(pixels, generator(seed, int(indices[0])), self.pad, self.cutout)
            yield pixels.permute(0, 3, 1, 2), self.labels[indices]


@dataclass(frozen=True)
class Streamed:
    """Pictures decoded each time that they are drawn, by `workers` processes (0: by this one)."""

    dataset: Dataset
    labels: Tensor
    preprocess: Preprocess
    workers: int
    resize_first: bool = False

    def draw(self, batches: Sequence[Tensor], seed: int | None) -> Iterator[Batch]:
        """Yield each batch: random resized crops and flips by `seed`, or resized and cropped at the centre."""
        # a picture has a seed of its own: neither the number of workers nor that of devices changes its crop
        keys = [[(i, None if seed is None else mix(seed, i)) for i in indices.tolist()] for indices in batches]
        draw = generator(seed or 0)  # else the loader would draw from torch's own generator
        loader = DataLoader(_Crops(self), batch_sampler=keys, num_workers=self.workers, generator=draw)
        try:
            for pixels, labels in loader:
                yield pixels.contiguous(memory_format=torch.channels_last), labels
        except DataError as error:  # from a worker process it brings its traceback, of which the end is the sentence
            raise DataError(str(error).strip().rpartition("\n")[2].rpartition("DataError: ")[2]) from None


Pictures = Decoded | Streamed


class _Crops(TorchDataset[Batch]):
    """The pictures as torch's loader wants them; a key is (index, seed)."""

    def __init__(self, pictures: Streamed) -> None:
        from torchvision.transforms import v2

        self.pictures = pictures
        size = pictures.preprocess.size
        first = [v2.Resize(pictures.preprocess.resize)] if pictures.resize_first else []
        self.change = v2.Compose([*first, v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])

    def __getitem__(self, key: tuple[int, int | None]) -> Batch:
        index, seed = key
        dataset = self.pictures.dataset
        picture = dataset.load(dataset.samples[index])
        if seed is None:
            crop = self.pictures.preprocess.crop(picture)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                crop = self.change(picture)
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()
        return pixels, self.pictures.labels[index]


def preprocess_of(recipe: Recipe) -> Preprocess:
    """Return how pictures are prepared when a network of this recipe is evaluated or explained."""
    return Preprocess(size=recipe.size, resize=recipe.resize, mean=recipe.mean, std=recipe.std)


def prepare(dataset: Dataset, recipe: Recipe, workers: int = 0) -> Pictures:
    """Make a data set ready to be drawn from in the way of `recipe`.

    Raises:
        DataError: the data set is empty.
    """
    if not len(dataset):
        raise DataError(f"{dataset.name} holds no pictures; there is nothing to train on")
    labels = torch.tensor([sample.label for sample in dataset.samples])
    preprocess = preprocess_of(recipe)
    if recipe.augment != "shift":
        return Streamed(dataset, labels, preprocess, workers, recipe.augment == "resize-crop")
    pixels = np.empty((len(dataset), recipe.size, recipe.size, 3), dtype=np.uint8)
    for index, sample in enumerate(dataset.samples):
        pixels[index] = np.asarray(preprocess.crop(dataset.load(sample)))
    return Decoded(torch.from_numpy(pixels), labels, recipe.pad, recipe.cutout)
