"""Choices among values, and writes to places: by hand, and what cannot be told apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn, tensor

import relprop
from tiny import Does


def put(x: Tensor) -> Tensor:
    out = torch.zeros(1, 5, dtype=x.dtype)
    out[:, tensor([4, 0, 2])] = x[:, 1:]
    return out


def put_over(x: Tensor) -> Tensor:
    out = x + 0
    out[0, tensor([1, 3])] = x[0, 0]
    return out


def put_twice(x: Tensor) -> Tensor:
    out = torch.zeros(1, 3, dtype=x.dtype)
    out[:, tensor([1, 1, 0])] = x[:, 1:]
    return out


@pytest.mark.parametrize(
    ("function", "start", "expected"),
    [
        (lambda x: x.topk(2, dim=1)[0], [1, 2], [0, 2, 1, 0]),  # of (1, 5, 7, 3): 7 and 5
        (lambda x: x.sort(dim=1)[0], [1, 2, 3, 4], [1, 3, 4, 2]),
        (lambda x: x.sort(dim=1, descending=True, stable=True)[0], [1, 2, 3, 4], [4, 2, 1, 3]),
        (put, [1, 2, 3, 4, 5], [0, 5, 1, 3]),
        (put_over, [1, 2, 3, 4], [1 + 2 + 4, 0, 3, 0]),
        (put_twice, [1, 2, 3], [0, 1, 1, 1]),  # both were written to place 1
    ],
)
def test_choices_and_writes_by_hand(function, start, expected):
    x = tensor([[1.0, 5.0, 7.0, 3.0]]).double()
    result = relprop.explain(Does(function), x, start=tensor([start]).double())
    assert result.relevance.tolist() == [expected]


def test_images_that_are_sorted_are_not_told_apart():
    for function in (lambda x: x.sort(0)[0], lambda x: x.topk(len(x), 0)[0]):
        with pytest.raises(relprop.errors.UnsupportedOpError, match="do not stay apart at"):
            relprop.explain(Does(function), tensor([[2.0, 3.0], [1.0, 4.0]]), 1)


def test_images_that_change_places_in_their_batch_are_not_told_apart():
    net = nn.Linear(3, 2)
    x = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    for function in (
        lambda x: net(x)[tensor([1, 2, 0])[: len(x)]] if len(x) > 1 else net(x),
        lambda x: net(x).index_select(0, tensor([1, 2, 0])) if len(x) > 1 else net(x),
        lambda x: net(x).gather(0, tensor([[1, 1], [2, 2], [0, 0]])) if len(x) > 1 else net(x),
    ):
        with pytest.raises(relprop.errors.UnsupportedOpError, match="do not stay apart at"):
            relprop.explain(Does(function), x, 1)


def test_places_within_each_image_may_differ_from_run_to_run():
    """A number of each image's own choice, as models of texts pick the last token: images stay where they are."""

    def pick(x: Tensor) -> Tensor:
        return x[torch.arange(len(x)), x[:, 0].long()]

    lrp = relprop.LRP(Does(lambda x: pick(x)[:, None]))
    for first, expected in (([1, 2], [[0, 5, 0], [0, 0, 8]]), ([2, 1], [[0, 0, 6], [0, 7, 0]])):
        x = tensor([[0.0, 5, 6], [0, 7, 8]])
        x[:, 0] = tensor(first)
        assert lrp(x, start="logit", target=0).relevance.tolist() == expected
