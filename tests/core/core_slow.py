"""The whole method a second time, for ResNets like torchvision's: straight from the paper's equations, by autograd.

Nothing here comes from `relprop`. Each layer's share is the gradient form of Eq. 3, R = h ∂(W⁺ h)/∂h · (R' / W⁺ h),
for inputs of one sign; joins follow Eqs. 4 and 5. What the paper leaves open is decided as our documentation says: the
first layer sees ones, max pooling is winner-takes-all, and a unit that nothing excites shares evenly over its
in-bounds receptive field.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def backwards(function, value: Tensor, relevance: Tensor) -> Tensor:
    """value · ∂function/∂value · (relevance / function(value)); what dead units hold is left out."""
    value = value.detach().requires_grad_()
    with torch.enable_grad():
        z = function(value)
    alive = z > torch.finfo(z.dtype).tiny
    share = torch.where(alive, relevance / torch.where(alive, z, 1), 0)
    (gradient,) = torch.autograd.grad(z, value, share)
    return (value * gradient).detach()


def weighted(layer: nn.Conv2d | nn.Linear, value: Tensor, relevance: Tensor) -> Tensor:
    def apply(weight):
        if isinstance(layer, nn.Linear):
            return lambda h: F.linear(h, weight)
        return lambda h: F.conv2d(h, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    positive = apply(layer.weight.detach().clamp(min=0))
    dead = torch.where(positive(value) > torch.finfo(value.dtype).tiny, 0, relevance)
    everywhere = apply(torch.ones_like(layer.weight))
    return backwards(positive, value, relevance) + backwards(everywhere, torch.ones_like(value), dead)


def pooled(pool: nn.MaxPool2d, value: Tensor, relevance: Tensor) -> Tensor:
    indices = F.max_pool2d(value, pool.kernel_size, pool.stride, pool.padding, return_indices=True)[1]
    out = torch.zeros_like(value).flatten(2)
    return out.scatter_add_(2, indices.flatten(2), relevance.flatten(2)).view_as(value)


def averaged(value: Tensor, relevance: Tensor) -> Tensor:
    """Global average pooling of (N, C, H, W), from (N, C)."""
    total = value.sum((2, 3), keepdim=True)
    even = torch.full_like(value, 1 / value[0, 0].numel())
    share = torch.where(total > 0, value / torch.where(total > 0, total, 1), even)
    return share * relevance[:, :, None, None]


def split(main: Tensor, skip: Tensor, relevance: Tensor, how: str) -> tuple[Tensor, Tensor]:
    if how == "symmetric":
        return relevance / 2, relevance / 2
    both = main.abs() + skip.abs()
    share = torch.where(both > 0, main.abs() / torch.where(both > 0, both, 1), 0.5)
    return relevance * share, relevance * (1 - share)


@torch.no_grad()
def explain_resnet(model: nn.Module, x: Tensor, how: str, identity: bool) -> Tensor:
    """Relevance (N, 3, H, W) of the predicted class of a torchvision ResNet."""
    h = F.relu(model.bn1(model.conv1(x)))
    before_pool, h = h, model.maxpool(h)
    tape = []
    for block in (b for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for b in stage):
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if hasattr(block, "conv3"):
            pairs.append((block.conv3, block.bn3))
        inputs, main = [], h
        for k, (conv, norm) in enumerate(pairs):
            inputs.append(main)
            main = norm(conv(main))
            if k < len(pairs) - 1:
                main = F.relu(main)
        skip = h if block.downsample is None else block.downsample(h)
        tape.append((block, [conv for conv, _ in pairs], inputs, h, main, skip))
        h = F.relu(main + skip)
    features = h.mean((2, 3))
    probability = model.fc(features).softmax(1)
    best = probability.argmax(1, keepdim=True)
    relevance = torch.zeros_like(probability).scatter(1, best, probability.gather(1, best))
    relevance = averaged(h, weighted(model.fc, features, relevance))
    for block, convs, inputs, entry, main, skip in reversed(tape):
        if block.downsample is None and not identity:
            to_main, to_skip = relevance, torch.zeros_like(relevance)
        else:
            to_main, to_skip = split(main, skip, relevance, how)
        for conv, value in zip(reversed(convs), reversed(inputs), strict=True):
            to_main = weighted(conv, value, to_main)
        if block.downsample is not None:
            to_skip = weighted(block.downsample[0], entry, to_skip)
        relevance = to_main + to_skip
    relevance = pooled(model.maxpool, before_pool, relevance)
    return weighted(model.conv1, torch.ones_like(x), relevance)
