"""What writes in place do, whatever memory format images are run in, is what they do in the user's own run."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import relprop

Body = Callable[["_Net", Tensor], Tensor]


class _Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.classify = nn.Linear(6, 4)
        self.register_buffer("scores", torch.zeros(2, 4))
        self.body = body

    def head(self, h: Tensor) -> Tensor:
        return self.classify(self.second(h).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _x(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.3


def _as_the_model(body: Body, without: Body | None = None) -> None:
    """Two calls of one LRP say what the model says, conserve, and equal those of the same network without writes."""
    model = _Net(body).eval()
    lrp = relprop.LRP(model)
    for seed in (0, 0, 1):
        result, expected = lrp(_x(seed)), copy.deepcopy(model)(_x(seed)).detach()
        torch.testing.assert_close(result.logits, expected, rtol=1e-5, atol=1e-6)
        assert result.ledger.gap < 1e-5
        if without is not None:
            twin = relprop.explain(_Net(without).eval(), _x(seed))
            torch.testing.assert_close(result.relevance, twin.relevance, rtol=1e-3, atol=1e-6)


def _filled(fill: Callable[[Tensor], object]) -> Body:
    def body(net: _Net, x: Tensor) -> Tensor:
        h = net.first(x).relu()
        fill(h)
        return net.head(h)

    return body


@pytest.mark.parametrize(
    "fill",
    [
        lambda h: h.__setitem__((slice(None), 0), 0),
        lambda h: h[:, 0].zero_(),
        lambda h: h[:, 0].fill_(0.0),
        lambda h: h[:, 0].fill_(torch.tensor(0.0)),
    ],
    ids=["setitem", "zero_", "fill_", "fill_ with a tensor"],
)
def test_a_part_that_is_filled_with_a_number_is_a_constant_and_the_rest_is_not(fill):
    _as_the_model(_filled(fill), _filled(lambda h: h.select(1, 0).copy_(torch.zeros(()))))


def test_a_part_that_is_filled_with_a_number_of_the_run_depends_on_the_image():
    def body(net: _Net, x: Tensor) -> Tensor:
        each = []
        for image in net.first(x).relu().unbind(0):
            whole = torch.zeros(6)
            whole[0] = image.mean()
            each.append(whole)
        return net.classify(torch.stack(each))

    _as_the_model(body, lambda net, x: net.classify(_only_first(net.first(x).relu())))


def _only_first(h: Tensor) -> Tensor:
    return nn.functional.pad(h.mean((1, 2, 3))[:, None], (0, 5))


def _through(views: Callable[[Tensor], Tensor]) -> Body:
    def body(net: _Net, x: Tensor) -> Tensor:
        h = net.first(x)
        views(h).relu_()
        return net.head(h)

    return body


@pytest.mark.parametrize(
    "views",
    [
        lambda h: h.view(2, 6, -1),
        lambda h: h.flatten(1),
        lambda h: h.reshape(2, -1),
        lambda h: h.contiguous().reshape(2, -1),
    ],
    ids=["view", "flatten", "reshape", "contiguous"],
)
def test_a_write_through_a_view_that_channels_last_images_do_not_have(views):
    _as_the_model(_through(views), lambda net, x: net.head(net.first(x).relu()))


def test_a_copy_that_channels_last_images_do_not_need_is_one():
    _as_the_model(_through(lambda h: h.permute(0, 2, 3, 1).contiguous()), lambda net, x: net.head(net.first(x)))


def test_a_model_may_ask_for_the_memory_format_that_it_was_given():
    def body(net: _Net, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        return net.head(net.first(x).relu())

    _as_the_model(body, lambda net, x: net.head(net.first(x).relu()))


def test_the_memory_format_that_a_model_needs_is_known_from_its_second_run_on():
    runs: list[bool] = []

    def body(net: _Net, x: Tensor) -> Tensor:
        runs.append(x.is_contiguous())
        return _through(lambda h: h.flatten(1))(net, x)

    lrp = relprop.LRP(_Net(body).eval())
    for _ in range(2):
        lrp(_x())
    assert runs == [False, True, True]


@pytest.mark.parametrize("part", [slice(None), slice(3)], ids=["whole", "part"])
def test_scores_that_lie_in_a_buffer_of_the_model_stay_when_it_is_put_back(part):
    def body(net: _Net, x: Tensor) -> Tensor:
        net.scores.copy_(net.head(net.first(x).relu()))
        return net.scores[:, part]

    _as_the_model(body, lambda net, x: net.head(net.first(x).relu())[:, part])


def test_scores_are_not_overwritten_by_the_next_run():
    kept: list[Tensor] = []

    def body(net: _Net, x: Tensor) -> Tensor:
        if kept:
            kept.pop().zero_()
        kept.append(net.head(net.first(x).relu()))
        return kept[0]

    lrp = relprop.LRP(_Net(body).eval())
    first = lrp(_x())
    before = first.logits.clone()
    lrp(_x(1))
    assert torch.equal(first.logits, before)
