"""Packed convolutions compute what PyTorch's own do, and what they were packed from shows when it changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import relprop
from relprop.core.backward.plan import Kind
from relprop.core.graph.convolution import ConvGeometry
from relprop.core.weights.packed import available, pack_forward, pack_transpose, packs
from relprop.core.weights.prepared import Prepared
from tiny import Tiny, images

needs_packing = pytest.mark.skipif(not available(), reason="this build of PyTorch has no packed convolutions")

#: (in, out, kernel, stride, padding, dilation, groups, size)
CONVOLUTIONS = [
    (6, 4, (3, 3), 1, 1, 1, 1, (8, 8)),
    (6, 4, (3, 3), 2, 1, 1, 2, (9, 8)),
    (6, 6, (3, 1), 1, 1, 1, 6, (8, 5)),
    (6, 12, (3, 3), 2, 2, 2, 6, (11, 11)),
    (8, 8, (1, 1), 2, 0, 1, 1, (8, 9)),
    (4, 4, (2, 2), 3, 0, 1, 1, (9, 10)),  # rows that no window reaches
    (4, 4, (3, 3), 1, 4, 1, 1, (9, 9)),  # windows that see padding alone
    # few channels and a stride: by phases
    (3, 8, (7, 7), 2, 3, 1, 1, (20, 21)),
    (3, 8, (4, 4), 4, 0, 1, 1, (18, 16)),
    (1, 5, (3, 3), 2, 1, 1, 1, (9, 8)),
    (3, 4, (1, 1), 2, 0, 1, 1, (7, 7)),
    (2, 4, (3, 3), 5, 0, 1, 1, (14, 13)),
    (3, 4, (5, 5), 2, 4, 1, 1, (9, 9)),
]


@needs_packing
@pytest.mark.parametrize("kind", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_packed_convolutions_and_their_transposes_equal_the_plain_ones(kind, count):
    inputs, outputs, kernel, stride, padding, dilation, groups, size = kind
    pair = (stride, stride), (padding, padding), (dilation, dilation)
    shape = (outputs, inputs // groups, *kernel)
    geometry = ConvGeometry(shape, *pair, False, (0, 0), groups)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    value = torch.randn(count, inputs, *size, generator=generator).contiguous(memory_format=torch.channels_last)
    assert packs(geometry, value, weight)
    expected = geometry.forward(value, weight)
    bias = torch.randn(outputs, generator=generator)
    pushed = pack_forward(geometry, weight, value.shape).forward(value, bias)
    torch.testing.assert_close(pushed, expected + bias[:, None, None], rtol=1e-4, atol=1e-4)
    pulled = pack_transpose(geometry, weight, expected.shape, size).transpose(expected, size)
    torch.testing.assert_close(pulled, geometry.transpose(expected, weight, value), rtol=1e-4, atol=1e-4)


@needs_packing
def test_what_is_packed_for_one_batch_and_size_serves_others():
    geometry = ConvGeometry((4, 6, 3, 3), (2, 2), (1, 1), (1, 1), False, (0, 0), 1)
    weight, few, many = torch.randn(4, 6, 3, 3), torch.randn(1, 6, 9, 9), torch.randn(7, 6, 9, 9)
    packed = pack_forward(geometry, weight, few.shape)
    torch.testing.assert_close(packed.forward(many), geometry.forward(many, weight), rtol=1e-4, atol=1e-4)
    back = pack_transpose(geometry, weight, packed.forward(few).shape, (9, 9))
    for size in ((9, 9), (10, 9), (30, 21)):
        value = torch.randn(3, 6, *size)
        pushed = geometry.forward(value, weight)
        torch.testing.assert_close(
            back.transpose(pushed, size), geometry.transpose(pushed, weight, value), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_other_types_are_not_packed(kind):
    geometry = ConvGeometry((4, 6, 3, 3), (1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    assert not packs(geometry, torch.zeros(1, 6, 4, 4, dtype=kind), torch.zeros(4, 6, 3, 3, dtype=kind))


@needs_packing
def test_changed_weights_are_packed_anew():
    geometry = ConvGeometry((2, 1, 1, 1), (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    prepared = Prepared(channels_last=True)
    weight, value = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1), torch.full((1, 1, 2, 2), 5.0)
    for factor in (1.0, 10.0):
        weight.mul_(factor)
        run = prepared.for_run(value)
        assert run.forward("w", geometry, value, weight)[0, :, 0, 0].tolist() == [10 * factor, 15 * factor]
        pulled = run.transpose("w", geometry, torch.ones(1, 2, 2, 2), weight, value)
        assert pulled[0, 0, 0].tolist() == [5 * factor, 5 * factor]


def test_without_packing_the_maps_are_the_same(monkeypatch):
    model = Tiny()
    model.conv1.stride = (2, 2)
    packed = relprop.explain(model, images(3))
    monkeypatch.setattr("relprop.core.weights.prepared.packs", lambda *_, **__: False)
    plain = relprop.explain(model, images(3))
    torch.testing.assert_close(packed.relevance, plain.relevance, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(packed.logits, plain.logits, rtol=1e-5, atol=1e-6)
    assert packed.ledger.gap < 1e-6


def test_weights_that_the_model_computes_are_not_kept():
    model = Tiny()
    nn.utils.parametrizations.weight_norm(model.conv2)
    lrp = relprop.LRP(model.eval())
    lrp(images())
    sizes = []
    for _ in range(3):
        lrp(images())
        sizes.append(len(lrp._prepared.store.entries))
    assert sizes == sizes[:1] * 3


@needs_packing
def test_a_packed_weight_is_held_once_for_each_use():
    lrp = relprop.LRP(Tiny())
    lrp(images())
    prepared = lrp._prepared
    plain = {name.partition(" (")[0] for (_, name), made in prepared.tensors().items() if made.dim() == 4}
    assert plain == {"z of ones"}
    packed = {name.partition(",")[0] for _, name in prepared.store.entries if "packed" in name}
    assert packed == {"weight", "plus of weight"}


def test_the_last_walk_gives_up_what_it_has_read(monkeypatch):
    traces = []

    make = Kind.trace

    def noted(*given):
        traces.append(make(*given))
        return traces[-1]

    monkeypatch.setattr(Kind, "trace", noted)
    lrp = relprop.LRP(Tiny())
    lrp(images(), target=[[0, 1]] * len(images()))
    first = lrp.graph(images()).steps[0].index
    assert {*traces[0].values} <= {0, first}


@needs_packing
@pytest.mark.parametrize("kind", CONVOLUTIONS[:7], ids=str)
def test_dead_units_share_evenly_by_packed_transposes_too(kind):
    """Nothing excites any unit: float32, packed, against float64, which is not; batches and sizes change in between."""
    inputs, outputs, kernel, stride, padding, dilation, groups, size = kind
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)
    nn.init.constant_(conv.weight, -1.0)
    net = nn.Sequential(conv, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * outputs, 2)).eval()
    single = relprop.LRP(net, relprop.paper(first="image"))
    double = relprop.LRP(copy.deepcopy(net).double(), relprop.paper(first="image"))
    for count, extra in ((1, 0), (3, 0), (2, 3), (1, 0)):
        x = torch.rand(count, inputs, size[0] + extra, size[1], generator=torch.Generator().manual_seed(count))
        ours = single(x, target=0)
        theirs = double(x.double(), target=0)
        torch.testing.assert_close(ours.relevance.double(), theirs.relevance, rtol=1e-5, atol=1e-8)
        assert ours.ledger.gap < 1e-5


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("outputs", "kernel", "stride", "size"), [(1, 8, 1, 8), (1, 3, 1, 8), (4, 5, 2, 5), (2, 8, 2, 8)]
)
def test_kernels_as_large_as_the_image(outputs, kernel, stride, size, count):
    """Batches of single numbers, and strided transposes whose phases are larger than what they are of."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, outputs, kernel, stride), nn.Flatten()).eval()
    x = torch.rand(count, 3, size, size)
    double = copy.deepcopy(net).double()
    ours, theirs = (
        relprop.explain(model, given, lambda y: y[:, 0], composite=relprop.paper(first="image"))
        for model, given in ((net, x), (double, x.double()))
    )
    torch.testing.assert_close(ours.logits, net(x).detach())
    torch.testing.assert_close(ours.relevance.double(), theirs.relevance, rtol=1e-4, atol=1e-6)
    assert ours.ledger.gap < 1e-5
