"""Small random networks from a seed: what people write, in any order, on 8 x 8 images."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], Tensor]
"""(value, image) -> value, both (N, C, H, W)."""

CLASSES = 4


class Random(nn.Module):
    """Steps in a row, each on the value so far and the image; `words` says what they are."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.parts = nn.ModuleList()
        self.words: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.steps: list[Step] = [self.begin(), *(self.step() for _ in range(self.chance.randint(2, 5)))]
            self.head = self.ending()
            self.double()
            self.calibrate()

    def forward(self, x: Tensor) -> Tensor:
        value = x
        for step in self.steps:
            value = step(value, x)
        return self.head(value)

    def calibrate(self) -> None:
        """Give batch norms the statistics of some images, and biases of either sign to all."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3)
        self.train()
        with torch.no_grad():
            self(torch.randn(8, 3, 8, 8, dtype=torch.float64))
        self.eval()

    def add(self, part: nn.Module) -> nn.Module:
        self.parts.append(part)
        return part

    # parts

    def begin(self) -> Step:
        """One convolution, or several readings of the image put together."""
        kind = self.chance.choice(["conv", "sum", "cat", "skip", "difference"])
        self.words.append(f"begin:{kind}")
        if kind == "skip":  # the image itself, and a convolution of it
            first, second = self.conv(3, 3), self.conv(3, 4)
            return lambda value, x: second(x + first(x))
        first, second = self.conv(3, 4), self.conv(3, 4)
        if kind == "conv":
            return lambda value, x: first(x)
        if kind == "sum":
            return lambda value, x: first(x) + second(x).relu()
        if kind == "difference":
            return lambda value, x: first(x) - second(x)
        both = self.conv(8, 4)
        return lambda value, x: both(torch.cat([first(x), second(x)], 1))

    def conv(self, channels: int, out: int) -> nn.Module:
        """A convolution that keeps the size: grouped, dilated, padded with other things than zeros, or none of it."""
        kernel, dilation = self.chance.choice([(1, 1), (3, 1), (3, 2)])
        groups = self.chance.choice([1, 2]) if channels % 2 == 0 and out % 2 == 0 else 1
        mode = self.chance.choice(["zeros", "zeros", "zeros", "circular", "replicate"])
        return self.add(
            nn.Conv2d(
                channels,
                out,
                kernel,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=groups,
                bias=self.chance.random() < 0.7,
                padding_mode=mode,
            )
        )

    def norm(self) -> nn.Module:
        return self.add(
            self.chance.choice(
                [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.Identity()]
            )
        )

    def act(self) -> nn.Module:
        return self.add(
            self.chance.choice([nn.ReLU(), nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.1), nn.Tanh(), nn.Identity()])
        )

    def branch(self) -> Callable[[Tensor], Tensor]:
        layers = [self.conv(4, 4), self.norm(), self.act()]
        return nn.Sequential(*layers[: self.chance.randint(1, 3)])

    # steps

    def step(self) -> Step:
        kinds = ["chain", "residual", "cat", "stack", "pool", "upsample", "image", "pad", "scale", "twice"]
        kind = self.chance.choice(kinds)
        self.words.append(kind)
        return getattr(self, kind)()

    def chain(self) -> Step:
        f = self.branch()
        return lambda value, x: f(value)

    def residual(self) -> Step:
        f, g, act = self.branch(), self.branch(), self.act()
        kind = self.chance.choice(["plus", "minus", "two", "alpha", "outer"])
        self.words[-1] += f":{kind}"
        return {
            "plus": lambda value, x: act(value + f(value)),
            "minus": lambda value, x: act(f(value) - value),
            "two": lambda value, x: act(value + f(value) + g(value)),
            "alpha": lambda value, x: act(torch.add(f(value), g(value), alpha=0.5)),
            "outer": lambda value, x: f(value) + g(value).mean((2, 3), keepdim=True),
        }[kind]

    def cat(self) -> Step:
        f, g = self.branch(), self.branch()
        dim = self.chance.choice([1, 2, 3, -1])
        self.words[-1] += f":{dim}"
        if dim == 1:
            both = self.conv(8, 4)
            return lambda value, x: both(torch.cat([f(value), g(value)], 1))
        return lambda value, x: F.interpolate(torch.cat([f(value), g(value)], dim), value.shape[2:])

    def stack(self) -> Step:
        """A mean or sum over any axis of a stack: the ensemble's own, channels, rows or columns."""
        branches = [self.branch() for _ in range(self.chance.randint(2, 3))]
        at = self.chance.choice([0, 1, 2, 4, -1])
        over = self.chance.choice([at, at, 2, 3, 4])
        kind, keep = self.chance.choice(["mean", "sum"]), self.chance.random() < 0.3
        self.words[-1] += f":{len(branches)} at {at} {kind} over {over}"

        batch = 1 if at == 0 else 0
        axis = at if over % 5 == batch else over

        def run(value: Tensor, x: Tensor) -> Tensor:
            stacked = torch.stack([branch(value) for branch in branches], at)
            reduced = getattr(stacked, kind)(axis, keepdim=keep)
            reduced = reduced.squeeze(axis) if keep else reduced
            reduced = reduced.movedim(0, 1) if at == 0 and axis != 0 else reduced
            if reduced.shape == value.shape:
                return reduced
            rows = reduced.flatten(2) if reduced.shape[1] == 4 else reduced.transpose(1, 2).flatten(2)
            four = rows[:, [0, 1, 0, 1]] if rows.shape[1] < 4 else rows[:, :4]
            return F.adaptive_avg_pool1d(four, value[0, 0].numel()).reshape(value.shape)

        return run

    def pool(self) -> Step:
        made = self.chance.choice(
            [
                nn.MaxPool2d(2),
                nn.MaxPool2d(3, 1, 1),
                nn.MaxPool2d(3, 2, 1, ceil_mode=True),
                nn.AvgPool2d(2, ceil_mode=True),
                nn.AvgPool2d(3, 1, 1),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                nn.AdaptiveAvgPool2d(3),
                nn.AdaptiveMaxPool2d(3),
            ]
        )
        self.words[-1] += f":{made}"
        return lambda value, x: made(value) if min(value.shape[2:]) > 2 else value

    def upsample(self) -> Step:
        mode = self.chance.choice(["nearest", "bilinear", "bicubic", "nearest-exact"])
        self.words[-1] += f":{mode}"
        return lambda value, x: F.interpolate(value, (6, 6), mode=mode)

    def image(self) -> Step:
        """Read the image again, at the size that the value has by now."""
        f = self.conv(3, 4)
        kind = self.chance.choice(["sum", "cat"])
        both = self.conv(8, 4)
        self.words[-1] += f":{kind}"
        if kind == "sum":
            return lambda value, x: value + F.adaptive_avg_pool2d(f(x), value.shape[2:])
        return lambda value, x: both(torch.cat([value, F.adaptive_max_pool2d(f(x), value.shape[2:])], 1))

    def pad(self) -> Step:
        """Constants beside what comes from the image, which meet it in a sum."""
        f, kind = self.branch(), self.chance.choice(["channels", "rows", "constants"])
        self.words[-1] += f":{kind}"
        if kind == "channels":
            return lambda value, x: f(value) + F.pad(value[:, :2], (0, 0, 0, 0, 1, 1))
        if kind == "rows":
            return lambda value, x: f(value) + F.pad(value[:, :, 1:], (0, 0, 1, 0))
        return lambda value, x: f(torch.cat([value[:, :3], torch.ones_like(value[:, :1])], 1))

    def scale(self) -> Step:
        factor = self.chance.choice([0.5, -1.0, 2.0])
        gate = self.conv(4, 4)
        kind = self.chance.choice(["number", "gate", "shift"])
        self.words[-1] += f":{kind}"
        if kind == "number":
            return lambda value, x: value * factor
        if kind == "gate":
            return lambda value, x: value * gate(value).mean((2, 3), keepdim=True).sigmoid()
        return lambda value, x: value + factor

    def twice(self) -> Step:
        """The same layers used twice, on values of one source."""
        f = self.branch()
        return lambda value, x: f(f(value) + value)

    # heads

    def ending(self) -> Callable[[Tensor], Tensor]:
        kind = self.chance.choice(["mean", "sum", "pool", "max", "ensemble", "mlp", "scores"])
        self.words.append(f"head:{kind}")
        fc, hidden, out = (self.add(nn.Linear(*size)) for size in ((4, CLASSES), (4, 6), (6, CLASSES)))
        if kind == "mean":
            return lambda value: fc(value.mean((2, 3)))
        if kind == "sum":
            return lambda value: fc(value.sum((-1, -2)) / 16)
        if kind == "pool":
            return lambda value: fc(F.adaptive_avg_pool2d(value, 1).flatten(1))
        if kind == "max":
            return lambda value: fc(value.amax((2, 3)))
        if kind == "mlp":
            return lambda value: out(hidden(value.mean((2, 3))).relu())
        if kind == "scores":  # scores at each place, averaged
            score = self.conv(4, CLASSES)
            return lambda value: score(value).mean((2, 3))
        dim, total = self.chance.choice([0, 1, -1]), self.chance.choice(["mean", "sum"])
        members = [self.add(nn.Linear(4, CLASSES)) for _ in range(3)]
        self.words[-1] += f":{dim} {total}"
        return lambda value: getattr(torch.stack([m(value.mean((2, 3))) for m in members], dim), total)(dim)
