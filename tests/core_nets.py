"""Residual networks in many spellings: building blocks, each (N, c, H, W) -> (N, c', H', W'), and chains of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **{"padding": k // 2, "bias": False, **options})


class Block(nn.Module):
    """A block of `c` channels that gives `out` channels."""

    growth = 0

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c, self.out = c, c + self.growth


class Basic(Block):
    """In-place ReLUs, `out += identity`."""

    def __init__(self, c):
        super().__init__(c)
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(c, c), nn.BatchNorm2d(c), conv(c, c), nn.BatchNorm2d(c)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Bottleneck(Block):
    """Grouped, strided, with a projection in the skip and `torch.add`."""

    def __init__(self, c):
        super().__init__(c)
        self.reduce, self.expand = conv(c, 4, 1), conv(4, c, 1)
        self.middle = conv(4, 4, groups=2, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(c), nn.BatchNorm2d(c)])
        self.down = conv(c, c, 1, stride=2)

    def forward(self, x):
        out = F.relu(self.norms[0](self.reduce(x)))
        out = torch.relu(self.norms[1](self.middle(out)))
        return torch.add(self.norms[2](self.expand(out)), self.norms[3](self.down(x))).relu_()


class PaddedShortcut(Block):
    """Option A: a strided slice, and channels of zeros by `F.pad`."""

    growth = 2

    def __init__(self, c):
        super().__init__(c)
        self.conv, self.bn = conv(c, c + 2, stride=2), nn.BatchNorm2d(c + 2)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))


class ConcatenatedZeros(Block):
    """Option A with zeros that are concatenated."""

    growth = 2

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c + 2)

    def forward(self, x):
        zeros = torch.zeros(x.shape[0], 2, *x.shape[2:], dtype=x.dtype, device=x.device)
        return F.relu(self.conv(x) + torch.cat([x, zeros], dim=1))


class MultipliedByZero(Block):
    """Option A with `x.mul(0)`, as in the first CIFAR ResNets."""

    growth = 1

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c + 1)

    def forward(self, x):
        return self.conv(x) + torch.cat((x, x[:, :1].mul(0)), 1)


class Nested(Block):
    """A join inside a branch of a join."""

    def __init__(self, c):
        super().__init__(c)
        self.inner, self.outer = Basic(c), conv(c, c)

    def forward(self, x):
        return F.relu(x + self.outer(self.inner(x)))


class Triple(Block):
    """One join of four branches, as a chain of sums of either order."""

    def __init__(self, c):
        super().__init__(c)
        self.a, self.b, self.d = conv(c, c), conv(c, c, 1), conv(c, c, 5)

    def forward(self, x):
        out = self.a(x) + self.b(x)
        return x + (self.d(x) + out)


class ChainedInPlace(Block):
    """`sum()`, then in-place sums into a buffer."""

    def __init__(self, c):
        super().__init__(c)
        self.a, self.b = conv(c, c), conv(c, c, dilation=2, padding=2)

    def forward(self, x):
        out = sum([self.a(x), self.b(x)])
        out += x
        out.add_(x.clamp(min=0), alpha=2)
        return out


class Subtracted(Block):
    def __init__(self, c):
        super().__init__(c)
        self.a = conv(c, c)

    def forward(self, x):
        return torch.sub(x, self.a(x), alpha=0.5)


class FanOut(Block):
    """A node that a join and two others consume; a partial sum used twice."""

    def __init__(self, c):
        super().__init__(c)
        self.a, self.b = conv(c, c), conv(c, c, 1)

    def forward(self, x):
        h = self.a(x).relu()
        partial = h + x
        return partial + self.b(partial) + h


class TwiceSkipped(Block):
    """A node that skips over two joins, one of three branches: what one join sends must not reach another's branch."""

    def __init__(self, c):
        super().__init__(c)
        self.a, self.b, self.d = conv(c, c), conv(c, c, 1), conv(c, c)

    def forward(self, x):
        return x + self.d(x + self.a(x) + self.b(x))


class ViewBeforeInPlace(Block):
    """Something that looks at memory which an activation would overwrite."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c)

    def forward(self, x):
        h = self.conv(x)
        before = h[:, : self.c // 2]
        return torch.cat([before, torch.relu(h)[:, self.c // 2 :]], 1)


class WritesThroughViews(Block):
    """`out[:, :c] += x`, and a shortcut assigned into zeros."""

    growth = 1

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c + 1)

    def forward(self, x):
        out = self.conv(x)
        out[:, : self.c] += x
        wide = torch.zeros_like(out)
        wide[:, 1:] = x
        return F.relu(out) + wide


class GroupsInBatch(Block):
    """Halves of the channels as separate rows of the batch."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(1, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        return x + F.relu(self.conv(x.reshape(n * c, 1, h, w))).view(n, c, h, w)


class Shared(Block):
    """One convolution and one ReLU, each used several times."""

    def __init__(self, c):
        super().__init__(c)
        self.conv, self.relu = conv(c, c), nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.conv(self.relu(self.conv(x))))


class Doubled(Block):
    """Both branches of the join are the same tensor."""

    def forward(self, x):
        return x + x


class Dense(Block):
    growth = 2

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, 2)

    def forward(self, x):
        return torch.cat([x, self.conv(F.relu(x))], dim=-3)


class Halves(Block):
    """Channels chunked, treated apart, swapped and concatenated."""

    def __init__(self, c):
        super().__init__(c)
        self.a = conv(c // 2, c // 2)

    def forward(self, x):
        left, right, *rest = x.split(self.c // 2, dim=1)
        return torch.cat([right, self.a(left) + left, *rest], 1)


class Shuffle(Block):
    def forward(self, x):
        n, c, h, w = x.shape
        left, right = x.chunk(2, dim=-1)
        x = torch.cat([right, left], dim=-1)
        return x.view(n, c, h * w).transpose(1, 2).flip(1).permute(0, 2, 1).reshape(n, c, h, w).contiguous()


class SeesPaddingAlone(Block):
    """A 1x1 convolution with padding: its border depends on nothing, and a bias fires there."""

    absorbs = True

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c, 1, padding=1, bias=True)
        nn.init.constant_(self.conv.bias, 0.2)

    def forward(self, x):
        return F.relu(self.conv(x))


class PaddedBoth(Block):
    """Such a border that meets a skip which depends on the image there."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c, 1, padding=1, bias=True)
        self.wide = conv(c, c, 3, padding=2)

    def forward(self, x):
        return F.relu(self.conv(x) + self.wide(x))


class PadsFirst(Block):
    def __init__(self, c):
        super().__init__(c)
        self.pad, self.conv, self.even = nn.ZeroPad2d((1, 0, 2, 1)), conv(c, c, padding=0), conv(c, c, 3)

    def forward(self, x):
        h = F.relu(self.conv(self.pad(x)))
        return self.even(F.pad(h, (1, 1, 1, 1), mode="reflect"))


class PaddedPool(Block):
    """Max pooling over zeros that padding put there, of values that are all negative."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c)

    def forward(self, x):
        return F.max_pool2d(F.pad(-F.relu(self.conv(x)) - 1, (1, 1, 1, 1)), 3, 1)


class Pools(Block):
    """Ceiling mode, padding that does not count, a pooled skip."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c, stride=2)

    def forward(self, x):
        down = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        out = F.relu(self.conv(x))
        size = [min(a, b) for a, b in zip(down.shape[2:], out.shape[2:], strict=True)]
        out = out[..., : size[0], : size[1]] + down[..., : size[0], : size[1]]
        return F.max_pool2d(out, 2, 1, ceil_mode=True) + F.max_pool2d(out, 3, 1, 1)[..., 1:, 1:]


class Broadcast(Block):
    """A branch of one number a channel."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c, 1)

    def forward(self, x):
        return x + self.conv(x.mean((-1, -2), keepdim=True))


class Activations(Block):
    def __init__(self, c):
        super().__init__(c)
        self.conv, self.drop = conv(c, c), nn.Dropout(0.5)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, c).view(-1, 1, 1))

    def forward(self, x):
        h = F.leaky_relu(self.conv(F.hardtanh(x)), 0.1)
        return F.relu6(self.drop(h) * self.scale - 0.1).clamp(0, 3) + F.silu(x / 2)


class Transposed(Block):
    def __init__(self, c):
        super().__init__(c)
        self.down, self.up = conv(c, c, stride=2), nn.ConvTranspose2d(c, c, 4, stride=2, padding=1)

    def forward(self, x):
        h = self.up(F.relu(self.down(x)))
        return F.relu(h[..., : x.shape[2], : x.shape[3]] + x[..., : h.shape[2], : h.shape[3]])


class NoGrad(Block):
    """A frozen branch."""

    def __init__(self, c):
        super().__init__(c)
        self.conv = conv(c, c)

    def forward(self, x):
        with torch.no_grad():
            frozen = self.conv(x)
        return frozen + x


BLOCKS = {
    block.__name__: block
    for block in (
        Basic, Bottleneck, PaddedShortcut, ConcatenatedZeros, MultipliedByZero, Nested, Triple, ChainedInPlace,
        Subtracted, FanOut, Shared, Doubled, Dense, Halves, Shuffle, SeesPaddingAlone, PaddedBoth, PadsFirst,
        PaddedPool, Pools, Broadcast, Activations, Transposed, NoGrad, TwiceSkipped, ViewBeforeInPlace,
        WritesThroughViews, GroupsInBatch,
    )
}  # fmt: skip
HEADS = ("mean", "adaptive", "flatten", "reshape", "adaptive 2", "adaptive max")


class Network(nn.Module):
    """A stem, blocks by name, and a head; weights from a seed, batch norms with many dead units."""

    size = 8

    def __init__(self, blocks: tuple[str, ...], head: str = "mean", seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = head
        self.stem = conv(3, 4)
        layers, c = [], 4
        for name in blocks:
            layers.append(BLOCKS[name](c))
            c = layers[-1].out
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(1, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias, -0.3, 0.4)
                nn.init.uniform_(module.weight, -0.5, 1.5)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 1.5)
        with torch.no_grad():
            self.fc = nn.Linear(self.features(torch.zeros(1, 3, self.size, self.size)).shape[1], 5)
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        if self.head == "mean":
            return x.mean(dim=[2, 3])
        if self.head == "adaptive":
            return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        if self.head == "flatten":
            return x.flatten(1)
        if self.head == "reshape":
            return x.contiguous().view(x.size(0), -1)
        if self.head == "adaptive 2":
            return F.adaptive_avg_pool2d(x, (2, 3)).reshape(x.shape[0], -1)
        return F.adaptive_max_pool2d(x, 2).reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

    @property
    def absorbs(self) -> bool:
        return any(getattr(block, "absorbs", False) for block in self.blocks)


def images(count: int, dtype: torch.dtype = torch.float64, size: int = Network.size, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )
