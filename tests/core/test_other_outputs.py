"""Embeddings and regression of a small ResNet, and values that hold no numbers."""

from __future__ import annotations

import torch
from torch import nn

import relprop
from core_resnet import ResNet, with_statistics
from relprop.core.targets.target import Similarity, Value


def images(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def small_resnet(classes: int = 6) -> ResNet:
    return ResNet(8, (1, 1, 1, 1), classes)


def test_the_similarity_of_two_images_is_their_cosine():
    model = small_resnet()
    model.fc = nn.Identity()
    model, x = with_statistics(model), images()
    with torch.no_grad():
        embeddings = model(x)
    result = relprop.LRP(model, strict=True)(x[:1], target=Similarity(embeddings[1]))
    cosine = torch.cosine_similarity(embeddings[:1], embeddings[1:])
    torch.testing.assert_close(result.score, cosine)
    torch.testing.assert_close(result.heatmap.sum((1, 2)), cosine, rtol=1e-5, atol=0)
    assert (result.target.tolist(), result.what) == ([-1], "similarity")
    both = relprop.LRP(model, chunk=1)(x, target=Similarity(embeddings.flip(0)))  # each with the other, in two parts
    torch.testing.assert_close(both.score, cosine.expand(2))


def test_several_numbers_of_a_regression():
    model, x = with_statistics(small_resnet(3)), images()
    result = relprop.LRP(model, strict=True)(x, target=Value(2))
    torch.testing.assert_close(result.heatmap.sum((1, 2)), model(x)[:, 2].detach(), rtol=1e-4, atol=1e-6)


class EmptyParts(nn.Module):
    """A prefix of no tokens is cut off, joined again, and summed, as vision transformers do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x):
        h = self.conv(x).relu()
        turned = torch.cat([h[:, :, :0].permute(2, 0, 1, 3), h.permute(2, 0, 1, 3)]).permute(1, 2, 0, 3)
        prefix = h[:, :, :0].permute(2, 0, 1, 3).reshape(0, len(x), 4, 4)
        return self.fc(turned.mean((2, 3)) + prefix.sum((0, 3)))


def test_values_without_numbers_take_no_part():
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = EmptyParts()
    plain = nn.Sequential(model.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    result = relprop.explain(model, x)
    assert result.ledger.gap <= 1e-14
    torch.testing.assert_close(result.relevance, relprop.explain(plain, x).relevance)
    torch.testing.assert_close(relprop.explain(model, x[:1]).relevance, result.relevance[:1])
