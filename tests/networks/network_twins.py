"""Whole networks a second time, slowly: a ViT and a residual network with squeeze-and-excitation, in float64.

Nothing here comes from relprop. Every weighted layer is a dense matrix that shares as `core_dense` says; joins,
attention and gates follow the equations that the documentation gives. One image at a time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core_dense as slow


def weighted(layer: nn.Module, value: Tensor, relevance: Tensor, *, ones: bool = False) -> Tensor:
    """Relevance of the input (*in) of a layer, of that of its output; biases take no part."""
    w, b, field = slow.dense(layer, tuple(value.shape))
    rule = slow.z_plus_ones if ones else slow.z_plus
    return rule(w, b, field, value.flatten(), relevance.flatten()).view_as(value)


def tokens(layer: nn.Linear, value: Tensor, relevance: Tensor) -> Tensor:
    """The same, each token by itself: (T, out) -> (T, in)."""
    field = torch.ones_like(layer.weight)
    pairs = zip(value, relevance, strict=True)
    return torch.stack([slow.z_plus(layer.weight, None, field, h, r) for h, r in pairs])


def join(main: Tensor, skip: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 5: by magnitude, in halves where both are zero."""
    both = main.abs() + skip.abs()
    to_main = torch.where(both > 0, main.abs() / both.clamp(min=slow.TINY), 0.5) * relevance
    return to_main, relevance - to_main


def start(logits: Tensor, target: int) -> Tensor:
    begin = torch.zeros_like(logits)
    begin[target] = logits.softmax(0)[target]
    return begin


# ---- ViT, as torchvision builds it


@torch.no_grad()
def explain_vit(net: nn.Module, image: Tensor, target: int) -> Tensor:
    """Relevance (3, H, W) of one image (3, H, W)."""
    patches = net.conv_proj(image[None])[0]
    h = torch.cat([net.class_token[0], patches.flatten(1).T]) + net.encoder.pos_embedding[0]
    tape = []
    for block in net.encoder.layers:
        normed = block.ln_1(h)
        attention = block.self_attention
        query, key, value = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 1)
        size = value.shape[1] // attention.num_heads
        heads = [slice(k, k + size) for k in range(0, value.shape[1], size)]
        maps = [(query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(1) for part in heads]
        mixed = torch.cat([a @ value[:, part] for a, part in zip(maps, heads, strict=True)], 1)
        attended = attention.out_proj(mixed)
        middle = attended + h
        wide = block.mlp[0](block.ln_2(middle))
        narrow = block.mlp[3](block.mlp[1](wide))
        tape.append((block, h, normed, value, maps, size, mixed, attended, middle, wide, narrow))
        h = narrow + middle
    last = net.encoder.ln(h)[0]
    head = net.heads.head
    relevance = torch.zeros_like(h)
    relevance[0] = weighted(head, last, start(head(last), target))
    for place, (block, entry, normed, value, maps, size, mixed, attended, middle, wide, narrow) in reversed(
        [*enumerate(tape)]
    ):
        to_narrow, to_middle = join(narrow, middle, relevance)
        to_wide = tokens(block.mlp[3], block.mlp[1](wide), to_narrow)
        to_middle = to_middle + tokens(block.mlp[0], block.ln_2(middle), to_wide)
        to_attended, to_entry = join(attended, entry, to_middle)
        seen = torch.ones(len(entry), dtype=entry.dtype)
        if place == 0:  # the class token does not depend on the image yet: it takes no part
            seen[0] = 0
            to_attended[0], to_entry[0] = to_middle[0], 0
        to_mixed = tokens(block.self_attention.out_proj, mixed, to_attended)
        to_value = torch.zeros_like(value)
        for c in range(value.shape[1]):
            weights = maps[c // size] * seen
            to_value[:, c] = by_weights(weights * value[:, c], weights, to_mixed[:, c])
        own = nn.Linear(value.shape[1], value.shape[1]).double()
        own.weight.data = block.self_attention.in_proj_weight[2 * value.shape[1] :]
        relevance = to_entry + tokens(own, normed, to_value)
    assert float(relevance[0].abs().sum()) == 0
    return weighted(net.conv_proj, image, relevance[1:].T.reshape(patches.shape), ones=True)


def by_weights(z: Tensor, weights: Tensor, relevance: Tensor) -> Tensor:
    """An average of values: where none is positive, tokens share by their weights."""
    out = torch.zeros(z.shape[1], dtype=z.dtype)
    for j, received in enumerate(relevance):
        positive = z[j].clamp(min=0)
        shares = positive if positive.sum() > slow.TINY else weights[j]
        out += shares / shares.sum() * received
    return out


# ---- a residual network with squeeze-and-excitation


class Block(nn.Module):
    """Two convolutions, a squeeze-and-excitation, and a skip: the identity, or a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        from torchvision.ops import SqueezeExcitation

        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.gate = SqueezeExcitation(outputs, 2)
        plain = inputs == outputs and stride == 1
        self.down = None if plain else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        h = self.gate(self.bn2(self.conv2(h)))
        h += x if self.down is None else self.down(x)
        return torch.relu(h)


class SEResNet(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.bn, self.pool = nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.fc = nn.Linear(6, 3)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    nn.init.normal_(tensor, 0.2, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(torch.relu(self.bn(self.conv(x))))
        return self.fc(self.blocks(h).mean((2, 3)))


@torch.no_grad()
def explain_se_resnet(net: SEResNet, image: Tensor, target: int) -> Tensor:
    """Relevance (3, H, W) of one image (3, H, W): gates get none, their signal all."""
    high = torch.relu(net.bn(net.conv(image[None])))
    h = net.pool(high)
    tape = []
    for block in net.blocks:
        inner = torch.relu(block.bn1(block.conv1(h)))
        main = block.gate(block.bn2(block.conv2(inner)))
        skip = h if block.down is None else block.down(h)
        tape.append((block, h, inner, main, skip))
        h = torch.relu(main + skip)
    features = h.mean((2, 3))[0]
    relevance = weighted(net.fc, features, start(net.fc(features), target))
    count = h[0, 0].numel()
    average = torch.block_diag(*[torch.ones(1, count, dtype=h.dtype)] * len(features))
    relevance = slow.by_share(average * h.flatten(), average, relevance).view_as(h)
    for block, entry, inner, main, skip in reversed(tape):
        to_main, to_skip = join(main, skip, relevance)
        to_main = weighted(block.conv1, entry[0], weighted(block.conv2, inner[0], to_main[0]))[None]
        if block.down is not None:
            to_skip = weighted(block.down[0], entry[0], to_skip[0])[None]
        relevance = to_main + to_skip
    winners = F.max_pool2d(high, 2, return_indices=True)[1]
    unpooled = torch.zeros_like(high).flatten(2).scatter_add_(2, winners.flatten(2), relevance.flatten(2))
    return weighted(net.conv, image, unpooled.view_as(high)[0], ones=True)


# ---- ConvNeXt and EfficientNet, as torchvision builds them


def run(modules: list[nn.Module], value: Tensor) -> tuple[list[tuple[nn.Module, Tensor]], Tensor]:
    """The convolutions among some modules with their inputs, and the output; all else passes relevance."""
    tape = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            tape.append((module, value[0]))
        value = module(value)
    return tape, value


def back(tape: list[tuple[nn.Module, Tensor]], relevance: Tensor, *, ones: bool = False) -> Tensor:
    for layer, value in reversed(tape):
        relevance = weighted(layer, value, relevance, ones=ones)
    return relevance


def flat(modules: nn.Module) -> list[nn.Module]:
    """Children of containers in order, squeeze-and-excitation in one piece."""
    if not isinstance(modules, nn.Sequential):
        return [modules]
    return [part for child in modules for part in flat(child)]


def pooled(value: Tensor, relevance: Tensor) -> Tensor:
    """Global average of (1, C, H, W): by positive contribution; where there is none, evenly."""
    average = torch.block_diag(*[torch.ones(1, value[0, 0].numel(), dtype=value.dtype)] * value.shape[1])
    return slow.by_share(average * value.flatten(), average, relevance).view_as(value[0])


def rows(value: Tensor) -> Tensor:
    """(C, H, W) -> (positions, C)."""
    return value.flatten(1).T


@torch.no_grad()
def explain_convnext(net: nn.Module, image: Tensor, target: int) -> Tensor:
    stem, h = run(flat(net.features[0]), image[None])
    tape = []
    for part in [part for stage in list(net.features)[1:] for part in stage]:
        if hasattr(part, "layer_scale"):
            conv, _, norm, wide, gelu, narrow, _ = part.block
            inner = norm(conv(h).permute(0, 2, 3, 1))
            high = gelu(wide(inner))
            main = part.layer_scale * narrow(high).permute(0, 3, 1, 2)
            tape.append((part, h, inner, high, main))
            h = main + h
        else:
            tape.append((part, h, None, None, None))
            h = part(h)
    norm, _, head = net.classifier
    features = norm(h.mean((2, 3), keepdim=True))[0, :, 0, 0]
    relevance = pooled(h, weighted(head, features, start(head(features), target)))
    for part, entry, inner, high, main in reversed(tape):
        if isinstance(part, nn.Conv2d):
            relevance = weighted(part, entry[0], relevance)
        elif main is not None:
            conv, _, _, wide, _, narrow, _ = part.block
            to_main, to_skip = join(main[0], entry[0], relevance)
            to_high = tokens(narrow, high[0].flatten(0, 1), rows(to_main))
            to_inner = tokens(wide, inner[0].flatten(0, 1), to_high)
            relevance = to_skip + weighted(conv, entry[0], to_inner.T.reshape(entry[0].shape))
    return back(stem, relevance, ones=True)


@torch.no_grad()
def explain_efficientnet(net: nn.Module, image: Tensor, target: int) -> Tensor:
    first, *stages, last = net.features
    stem, h = run(flat(first), image[None])
    tape = []
    for block in [block for stage in stages for block in stage]:
        inner, main = run(flat(block.block), h)
        tape.append((block, inner, main, h))
        h = main + h if block.use_res_connect else main
    end, h = run(flat(last), h)
    features, head = h.mean((2, 3))[0], net.classifier[1]
    relevance = back(end, pooled(h, weighted(head, features, start(head(features), target))))
    for block, inner, main, entry in reversed(tape):
        skip = entry[0] if block.use_res_connect else torch.zeros_like(main[0])
        to_main, to_skip = join(main[0], skip, relevance) if block.use_res_connect else (relevance, 0)
        relevance = back(inner, to_main) + to_skip
    return back(stem, relevance, ones=True)
