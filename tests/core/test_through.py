"""Maps conditional on channels, relevance of channels, and relevance that begins at a channel of an inner layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from core_nets import Network, images
from relprop import LRP
from relprop.core.graph.separators import find_separators
from relprop.core.targets import Channel
from relprop.errors import TargetError, UsageError

NETWORKS = (("Basic", "Basic"), ("Bottleneck",), ("Dense",), ("Nested",), ("Triple",), ("TwiceSkipped",))
QUICK = (("Bottleneck",), ("Dense",))  # a projection, and a concatenation; the others add joins


def network(*blocks: str) -> nn.Module:
    return Network(list(blocks)).eval().double()


def batch(count: int = 2) -> torch.Tensor:
    return images(count).double()


class Two(nn.Module):
    """Two hidden units on two inputs: y = v · relu(W x), without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.relu, self.last = nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)
        self.hidden.weight.data = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
        self.last.weight.data = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
        self.double().eval()

    def forward(self, x):
        return self.last(self.relu(self.hidden(x)))


def test_a_conditional_map_by_hand():
    # hidden units: 1·1 + 2·3 = 7 and 3·1 + 1·3 = 6; the logit is 7 + 2·6 = 19, of which the units hold 7 and 12
    x = torch.tensor([[1.0, 3.0]]).double()
    result = LRP(Two(), relprop.original(), keep=["relu"])(x, 0, start="logit", through=[{"relu": 0}, {"relu": [1]}])
    torch.testing.assert_close(result.relevance, torch.tensor([[[1.0, 6.0], [6.0, 6.0]]]).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(result.channels("relu"), torch.tensor([[[7.0, 0.0], [0.0, 12.0]]]).double())
    line = next(entry for entry in result.ledger.entries if entry.op == "through")
    assert (line.name, line.rule, line.conserves) == ("relu, other channels", "ends here", False)
    torch.testing.assert_close(line.received - line.sent, torch.tensor([12.0, 7.0]).double())
    torch.testing.assert_close(result.score, torch.tensor([[19.0, 19.0]]).double())


@pytest.mark.parametrize(
    "blocks",
    [blocks if blocks in QUICK else pytest.param(blocks, marks=pytest.mark.slow) for blocks in NETWORKS],
    ids=" ".join,
)
def test_maps_of_all_channels_of_a_separator_layer_add_up_to_the_map(blocks):
    model, x = network(*blocks), batch()
    lrp = LRP(model, keep="all", strict=True, rtol=1e-12)
    whole = lrp(x)
    graph = lrp.graph(x)
    for layer in sorted(find_separators(graph).positions):
        name, side = layer.removesuffix("@input"), "input" if layer.endswith("@input") else "output"
        channels = whole.channels(name, side)
        torch.testing.assert_close(channels, whole.at(name, side).flatten(2).sum(2), rtol=1e-12, atol=1e-15)
        parts = lrp(x, through=[{layer: channel} for channel in range(channels.shape[1])])
        assert parts.relevance.shape == (2, channels.shape[1], *x.shape[1:])
        torch.testing.assert_close(parts.relevance.sum(1), whole.relevance, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(parts.channels(name, side).sum(-1), channels, rtol=1e-12, atol=1e-15)


def test_several_maps_are_those_of_as_many_calls_whatever_the_parts_of_the_batch():
    model, x = network("Basic", "Basic"), batch(3)
    lrp = LRP(model)
    layer = next(name for name in find_separators(lrp.graph(x)).positions if name not in ("input", "input@input"))
    together = LRP(model, chunk=1)(x, through=[{layer: [0]}, {layer: [1, 2]}])
    for place, channels in enumerate(([0], [1, 2])):
        alone = lrp(x, through={layer: channels})
        torch.testing.assert_close(together.relevance[:, place], alone.relevance, rtol=1e-12, atol=1e-15)
        assert together.target[:, place].tolist() == alone.target.tolist() == lrp(x).target.tolist()
    torch.testing.assert_close(
        lrp(x, through={layer: [0]}).relevance + lrp(x, through={layer: [2, 1]}).relevance,
        lrp(x, through={layer: [0, 1, 2]}).relevance,
        rtol=1e-12,
        atol=1e-15,
    )


def test_each_of_several_layers_lets_its_channels_through():
    x = torch.tensor([[1.0, 3.0]]).double()
    lrp = LRP(Two(), relprop.original())
    found = lrp(x, 0, start="logit", through={"relu": [1], "input": [0]})
    torch.testing.assert_close(found.relevance, torch.tensor([[6.0, 0.0]]).double())
    assert [entry.name for entry in found.ledger.entries if entry.op == "through"] == [
        "relu, other channels",
        "input, other channels",
    ]
    assert found.ledger.gap < 1e-12
    assert found.ledger.end.item() == 6.0
    torch.testing.assert_close(
        relprop.explain(Two(), x, 0, through={"relu": 1}).heatmap, LRP(Two())(x, 0, through={"relu": 1}).heatmap
    )


@pytest.mark.parametrize(
    ("through", "message"),
    [
        ({"rel": [0]}, r"no layer 'rel' lies on the way.*near it: relu"),
        ({"relu": [2]}, r"channels of 'relu' are 0 to 1: no channel 2"),
        ({"relu": []}, "none was named"),
        ({"relu": [0, -2]}, r"named once each, not \[0, -2\]"),
        ({"relu": "0"}, "must be whole numbers"),
        ({"relu": [0.5]}, "must be whole numbers"),
        ({"relu": [0], "last@input": [0]}, "are the same tensor; name it once"),
        ({}, "through must name channels by layer"),
        ([], "through must name channels by layer"),
        ([{"relu": [0]}, {"input": [0]}], "through names relu for one and input for another"),
    ],
)
def test_what_cannot_be_let_through_is_refused(through, message):
    with pytest.raises(UsageError, match=message):
        LRP(Two())(torch.ones(1, 2).double(), through=through)


def test_several_maps_of_several_classes_are_refused():
    with pytest.raises(UsageError, match="of one target an image"):
        LRP(Two())(torch.ones(1, 2).double(), [[0, 1]], through=[{"relu": [0]}])


def test_relevance_that_begins_at_a_channel_sums_to_its_values():
    model, x = network("Basic", "Bottleneck"), batch()
    lrp = LRP(model)
    layer = next(name for name in reversed([n.name for n in lrp.graph(x).steps]) if name.endswith("relu"))
    values = lrp.activation(x, layer)
    found = lrp(x, Channel(layer, 1))
    assert found.what == f"channel 1 of {layer}"
    torch.testing.assert_close(found.score, values[:, 1].sum((1, 2)))
    assert found.ledger.gap < 1e-12
    torch.testing.assert_close(found.ledger.end, found.heatmap.sum((1, 2)))
    torch.testing.assert_close(found.logits, model(x).detach())


def test_relevance_that_begins_at_a_channel_by_hand():
    # unit 1 is 3·1 + 1·3 = 6, of which the inputs hold 3 each
    x = torch.tensor([[1.0, 3.0]]).double()
    found = LRP(Two(), relprop.original(), keep=["relu", "last"])(x, Channel("relu", 1))
    assert (found.relevance.tolist(), found.score.item()) == ([[3.0, 3.0]], 6.0)
    assert found.channels("relu").tolist() == [[0.0, 6.0]]
    assert found.at("last").abs().sum() == 0
    with pytest.raises(TargetError, match="no channel 2 of 'relu'; channels are 0 to 1"):
        LRP(Two())(x, Channel("relu", 2))
    with pytest.raises(UsageError, match="no layer 'rel'"):
        LRP(Two())(x, Channel("rel", 0))
