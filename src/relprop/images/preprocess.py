"""From a picture to the tensor that a network was trained to see, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from relprop.errors import InputError, UsageError
from relprop.images.read import MAX_PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


@dataclass(frozen=True)
class Preprocess:
    """From a picture to the input of a network: resize, centre crop, scale to [0, 1], normalise.

    `prepare(picture)` gives (channels, size, size) float32, equal to what the evaluation transforms of torchvision and
    timm give.

    Attributes:
        size: side of the network's square input, in pixels.
        resize: length to which the shorter side of the picture is brought before the centre crop.
        mean: subtracted from each channel of the picture in [0, 1]; one number stands for all channels.
        std: divides each channel after that.
        interpolation: one of `INTERPOLATIONS`, antialiased.
        channels: 3 for colour; 1 turns the picture to grey first, and averages a `mean` and `std` of three.
        squash: resize both sides, so that the picture is distorted and not cut.

    Raises:
        UsageError: a value that makes no sense.
    """

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    channels: int = 3
    squash: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UsageError(f"pictures have 3 channels, or 1 if grey; this network wants {self.channels}")
        object.__setattr__(self, "mean", _per_channel("mean", self.mean, self.channels))
        object.__setattr__(self, "std", _per_channel("std", self.std, self.channels))
        if not 0 < self.size <= self.resize:
            raise UsageError(f"size must be positive and at most resize; they are {self.size} and {self.resize}")
        if not all(0 < value < math.inf for value in self.std) or not all(map(math.isfinite, self.mean)):
            raise UsageError(f"mean must be finite and std positive; they are {self.mean} and {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise UsageError(f"interpolation must be one of {known}, not {self.interpolation!r}")

    @classmethod
    def from_torchvision(cls, transforms: Any) -> Preprocess:
        """Take over `weights.transforms()` of torchvision's classification models."""
        return cls(
            size=transforms.crop_size[0],
            resize=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        )

    @classmethod
    def from_timm(cls, config: dict[str, Any]) -> Preprocess:
        """Take over what `timm.data.resolve_model_data_config(model)` returns.

        Raises:
            UsageError: an input that is not square, or a crop mode other than "center" and "squash".
        """
        channels, height, width = config["input_size"]
        mode = config.get("crop_mode") or "center"
        if height != width or mode not in ("center", "squash"):
            raise UsageError(
                f"timm prepares pictures for this model as {height} x {width} with crop mode {mode!r}; only square "
                "inputs with 'center' or 'squash' can be prepared"
            )
        return cls(
            size=height,
            resize=int(height / (config.get("crop_pct") or 0.875)),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            channels=channels,
            squash=mode == "squash",
        )

    def adapt(
        self,
        *,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: int | None = None,
    ) -> Preprocess:
        """Change what is given; a new `size` scales `resize` by the same factor."""
        given: dict[str, Any] = {"channels": channels, "mean": mean and tuple(mean), "std": std and tuple(std)}
        if size is not None:
            given |= {"size": size, "resize": round(size * self.resize / self.size)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def __call__(self, picture: Image.Image) -> Tensor:
        """Prepare one picture: (channels, size, size), float32, normalised."""
        seen = self.crop(picture).convert("L" if self.channels == 1 else "RGB")
        values = torch.from_numpy(np.array(seen)).reshape(self.size, self.size, self.channels)
        return self.normalize(values.permute(2, 0, 1).contiguous().to(torch.float32) / 255)

    def crop(self, picture: Image.Image) -> Image.Image:
        """Return what the network sees of `picture`, `size` x `size`, RGB (grey if it sees one channel).

        Raises:
            InputError: so long and thin a picture that the resized one would exceed `MAX_PIXELS`.
        """
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        width, height = self._resized(*picture.size)
        if width * height > MAX_PIXELS:
            shape = f"{picture.width} x {picture.height}"
            raise InputError(f"a picture of {shape} pixels is too thin to resize its shorter side to {self.resize}")
        if (width, height) != picture.size:
            picture = picture.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return picture.crop((left, top, left + self.size, top + self.size)).convert("RGB")

    def box(self, box: Sequence[float], picture: tuple[int, int]) -> tuple[float, float, float, float] | None:
        """Map a box of the picture to what the network sees of it: resized, cropped, and cut at the crop's edges.

        Args:
            box: (x0, y0, x1, y1) in pixels of the picture, x to the right and y down from its upper left corner.
            picture: its (width, height).

        Returns:
            (x0, y0, x1, y1) in pixels of the network's input, in general not whole; None if it sees nothing of the box.

        Raises:
            InputError: a box that does not lie within the picture.
        """
        x0, y0, x1, y1 = box
        width, height = picture
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            text = ",".join(f"{value:g}" for value in box)
            raise InputError(
                f"the box {text} does not lie within the picture of {width} x {height} pixels; "
                f"a box is x0,y0,x1,y1 with 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
            )
        resized = self._resized(width, height)
        offsets = [round((side - self.size) / 2) for side in resized]
        scales = [new / old for new, old in zip(resized, picture, strict=True)]
        left, right = (min(max(x * scales[0] - offsets[0], 0.0), self.size) for x in (x0, x1))
        upper, lower = (min(max(y * scales[1] - offsets[1], 0.0), self.size) for y in (y0, y1))
        return (left, upper, right, lower) if left < right and upper < lower else None

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.squash:
            return self.resize, self.resize
        longer = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, longer) if width <= height else (longer, self.resize)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(pixels - mean) / std, for (C, H, W) or (N, C, H, W) in [0, 1]."""
        return (pixels - self._column(self.mean, pixels)) / self._column(self.std, pixels)

    def denormalize(self, x: Tensor) -> Tensor:
        """Undo `normalize`: back to [0, 1], up to rounding."""
        return x * self._column(self.std, x) + self._column(self.mean, x)

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _per_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(map(float, values))
    if len(values) == 1:
        return (float(values[0]),) * channels
    if channels == 1 and len(values) == 3:
        return (sum(values) / 3,)
    raise UsageError(f"{name} needs one value, or {channels}: one a channel; there are {len(values)}")
