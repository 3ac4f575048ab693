"""How joins share, in numbers worked out by hand, and what is known of a join from the graph alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor

import relprop
from relprop.core.capture import capture
from relprop.core.graph.joins import find_joins
from relprop.core.rules.splits import ratio, signed, symmetric
from tiny import images


def branches(*values):
    return tuple(tensor([float(value)], dtype=torch.float64) for value in values)


def shares(split, *values, relevance=8.0):
    parts = split(branches(*values), tensor([relevance], dtype=torch.float64))
    return [part.item() for part in parts]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3, 1), [6, 2]),
        ((-3, 1), [6, 2]),
        ((3, -1), [6, 2]),
        ((0, 2), [0, 8]),
        ((2, 0), [8, 0]),
        ((0, 0), [4, 4]),
        ((1, 2, -1), [2, 4, 2]),
        ((0, 0, 5), [0, 0, 8]),
        ((1e-320, 3e-320), [2, 6]),
    ],
)
def test_ratio_shares_by_magnitude(values, expected):
    assert shares(ratio, *values) == pytest.approx(expected, rel=1e-3 if values[0] == 1e-320 else 0)


def test_ratio_shares_evenly_where_three_branches_are_zero():
    parts = shares(ratio, 0, 0, 0, relevance=9.0)
    assert parts == pytest.approx([3, 3, 3], rel=1e-15)


@pytest.mark.parametrize(("count", "expected"), [(2, 4), (4, 2)])
def test_symmetric_shares_evenly_whatever_the_values(count, expected):
    assert shares(symmetric, *range(count)) == [expected] * count


@pytest.mark.parametrize(
    ("values", "expected"),
    [((3, 1), [6, 2]), ((3, -1), [12, -4]), ((0, 0), [4, 4]), ((1, -1), [4, 4]), ((4, -1, 1), [8, -2, 2])],
)
def test_signed_shares_by_contribution(values, expected):
    assert shares(signed, *values) == expected


@pytest.mark.parametrize("split", [ratio, symmetric, signed])
def test_parts_add_up_to_the_whole_for_values_of_every_size(split):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(1000, generator=generator) * 10.0**k for k in (-6, 0, 4)]
    relevance = torch.rand(1000, generator=generator)
    parts = torch.stack(split(tuple(values), relevance)).double()
    assert ((parts.sum(0) - relevance).abs() <= 4e-7 * parts.abs().sum(0)).all()


# ---- a whole network by hand: x -> stem (weight 1) -> h; main 3 h, skip h; both meet; one class


class Tiny(nn.Module):
    def __init__(self, main: float, skip: float | None = None, size: int = 1) -> None:
        super().__init__()
        self.stem, self.main = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.skip = None if skip is None else nn.Linear(1, 1, bias=False)
        self.fc = nn.Linear(1, 1, bias=False)
        for layer, weight in ((self.stem, 1.0), (self.main, main), (self.skip, skip), (self.fc, 1.0)):
            if layer is not None:
                nn.init.constant_(layer.weight, weight)

    def forward(self, x):
        h = self.stem(x)
        return self.fc(self.main(h) + (h if self.skip is None else self.skip(h)))


@pytest.mark.parametrize(
    ("options", "net", "main", "skip"),
    [
        ({"split": "ratio"}, Tiny(3.0), 6, 2),
        ({"split": "symmetric"}, Tiny(3.0), 4, 4),
        ({"split": "ratio", "identity": False}, Tiny(3.0), 8, 0),
        ({"split": "symmetric", "identity": False}, Tiny(3.0), 8, 0),
        # projections share also where identities do not
        ({"split": "ratio", "identity": False}, Tiny(3.0, 1.0), 6, 2),
        ({"split": "symmetric", "identity": False}, Tiny(3.0, 1.0), 4, 4),
    ],
)
def test_table_2_variants_on_one_join(options, net, main, skip):
    x = tensor([[2.0]])  # the logit is 2 (3 + 1) = 8
    result = relprop.LRP(net.eval(), relprop.paper(**options), keep="all")(x, target=0, start="logit")
    assert result.score.item() == 8
    assert result.at("main").item() == main
    assert result.at("stem").item() == 8
    if net.skip is not None:
        assert result.at("skip").item() == skip
    assert result.relevance.item() == 8


def test_a_split_of_ones_own_is_used():
    def all_to_the_first(values, relevance):
        return (relevance, *(torch.zeros_like(relevance) for _ in values[1:]))

    result = relprop.LRP(Tiny(3.0, 1.0).eval(), relprop.paper(split=all_to_the_first), keep="all")(
        tensor([[2.0]]), target=0, start="logit"
    )
    assert (result.at("main").item(), result.at("skip").item()) == (8, 0)
    assert "split: all_to_the_first" in result.ledger.table()


def test_subtraction_shares_by_the_magnitude_of_the_scaled_branch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Linear(1, 1, bias=False) for _ in range(2))
            nn.init.constant_(self.a.weight, 6.0)
            nn.init.constant_(self.b.weight, 1.0)

        def forward(self, x):
            return torch.sub(self.a(x), self.b(x), alpha=2)

    # 6 - 2 * 1 = 4: ratio gives |6| : |2|, the signed split 6 : -2
    for split, expected in (("ratio", (3, 1)), ("signed", (6, -2))):
        result = relprop.LRP(Net().eval(), relprop.paper(split=split), keep=["a", "b"])(
            tensor([[1.0]]), target=0, start="logit"
        )
        assert (result.at("a").item(), result.at("b").item()) == expected


def test_padded_channels_of_a_shortcut_take_nothing():
    """Where the skip is zero by construction, the main branch gets all, under every split."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 1, bias=False)
            nn.init.constant_(self.conv.weight, 1.0)
            nn.init.constant_(self.fc.weight, 1.0)

        def forward(self, x):
            x = torch.relu(x)
            joined = self.conv(x) + F.pad(x[:, :, ::2], (0, 0, 0, 1, 0, 1))
            return self.fc(joined.mean((2, 3)))

    x = torch.ones(1, 1, 2, 1)
    # joined: channel 0 is (2, 1), channel 1 is (1, 1); the logit is their sum over 2, 2.5
    for split in ("symmetric", "ratio"):
        result = relprop.LRP(Net().eval(), relprop.paper(split=split, first="image"), keep="all")(
            x, target=0, start="logit"
        )
        assert result.at("conv").flatten().tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])
        assert result.relevance.flatten().tolist() == pytest.approx([0.5 + 0.5 + 0.5, 1.0])
        assert result.ledger.gap < 1e-6
        assert result.ledger.absorbed < 1e-6


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 1, 1), nn.Linear(4, 1), None], ids=["conv", "linear", "mean"])
def test_a_dead_unit_sends_nothing_to_constants(layer):
    """Nothing excites the layer: it shares evenly over its inputs, but for those that are always zero."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            for parameter in () if layer is None else layer.parameters():
                nn.init.constant_(parameter, -1.0)

        def forward(self, x):
            x = torch.relu(x)
            if self.layer is None:
                return torch.cat([-x, torch.zeros_like(x)], 1).mean(1).flatten(1)
            x = torch.cat([x, torch.zeros_like(x)], 1)
            return self.layer(x.flatten(1) if isinstance(self.layer, nn.Linear) else x).flatten(1)

    explain = relprop.LRP(Net().eval(), relprop.paper(first="image"))
    result = explain(torch.ones(1, 2, 1, 1), start=torch.ones(1, 1))
    assert result.relevance.flatten().tolist() == [0.5, 0.5]
    assert result.ledger.absorbed == 0


# ---- what is known of a join


class Form(nn.Module):
    """x -> stem -> h -> (what a test says)."""

    def __init__(self, join, **layers):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.join = join
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.join(self, torch.relu(self.stem(x))).mean((2, 3))


def joins_of(join, **layers):
    graph = capture(Form(join, **layers).eval(), torch.zeros(2, 3, 8, 8))
    found = find_joins(graph)
    names = {index: node.name for index, node in enumerate(graph.nodes)}
    return graph, [
        {names[b]: (s, i) for b, s, i in zip(j.branches, j.skips, j.identities, strict=True)} for j in found.values()
    ]


def conv(k=3, **options):
    return nn.Conv2d(4, 4, k, padding=k // 2, **options)


IDENTITY, PROJECTION, MAIN = (True, True), (True, False), (False, False)


def test_the_fork_itself_is_an_identity_skip_in_either_order():
    for join in (lambda m, h: m.a(h) + h, lambda m, h: h + m.a(h)):
        _, (found,) = joins_of(join, a=conv())
        assert found == {"a": MAIN, "relu": IDENTITY}


def test_a_skip_with_parameters_is_a_projection():
    _, (found,) = joins_of(
        lambda m, h: m.norm(m.down(h)) + m.b(torch.relu(m.a(h))),
        a=conv(),
        b=conv(),
        down=conv(1),
        norm=nn.BatchNorm2d(4),
    )
    assert found == {"b": MAIN, "norm": PROJECTION}


def test_slices_padding_and_pools_are_identities():
    _, (found,) = joins_of(lambda m, h: m.a(h) + F.pad(h[:, 1:3, ::2, ::2], (0, 0, 0, 0, 1, 1)), a=conv(stride=2))
    assert found == {"a": MAIN, "pad": IDENTITY}
    _, (found,) = joins_of(lambda m, h: m.a(h) + F.avg_pool2d(h, 2), a=conv(stride=2))
    assert found == {"a": MAIN, "avg_pool": IDENTITY}


def test_a_learned_scale_makes_a_projection():
    _, (found,) = joins_of(lambda m, h: m.a(h) + h * m.scale, a=conv(), scale=nn.Parameter(torch.ones(4, 1, 1)))
    assert found == {"a": MAIN, "mul": PROJECTION}


def test_branches_of_equal_depth_are_no_skips():
    _, (found,) = joins_of(lambda m, h: m.a(h) + m.b(h), a=conv(), b=conv())
    assert found == {"a": MAIN, "b": MAIN}


def test_a_chain_of_sums_is_one_join():
    _, (found,) = joins_of(lambda m, h: (m.a(h) + h) + (m.b(h) + m.d(h)), a=conv(), b=conv(), d=conv())
    assert found == {"a": MAIN, "relu": IDENTITY, "b": MAIN, "d": MAIN}


def test_a_partial_sum_used_twice_is_a_join_of_its_own():
    def join(m, h):
        partial = m.a(h) + h
        return partial + m.b(partial)

    _, found = joins_of(join, a=conv(), b=conv())
    assert found == [{"a": MAIN, "relu": IDENTITY}, {"add": IDENTITY, "b": MAIN}]


def test_a_partial_sum_that_a_sum_and_something_else_use():
    def join(m, h):
        partial = m.a(h) + h
        total = partial + m.d(h)
        return total + m.b(partial)

    _, found = joins_of(join, a=conv(), b=conv(), d=conv())
    assert found == [{"a": MAIN, "relu": IDENTITY}, {"add": (False, False), "d": (False, False), "b": MAIN}]


def test_sums_with_constants_are_no_joins():
    _, found = joins_of(
        lambda m, h: m.a(h) + m.bias - 1 + torch.ones_like(h), a=conv(), bias=nn.Parameter(torch.ones(4, 1, 1))
    )
    assert found == []


# ---- joins of other architectures


def test_norms_before_and_behind_a_join_leave_the_skip_an_identity():
    _, found = joins_of(lambda m, h: m.n(h + m.a(m.n(h))), a=conv(), n=nn.GroupNorm(1, 4))
    assert found == [{"relu": IDENTITY, "a": MAIN}]
    _, found = joins_of(
        lambda m, h: m.n(m.b(torch.relu(first := m.n(m.a(h) + h))) + first), a=conv(), b=conv(), n=nn.GroupNorm(1, 4)
    )
    assert found == [{"a": MAIN, "relu": IDENTITY}, {"b": MAIN, "n": IDENTITY}]


def test_a_scale_of_the_main_branch_leaves_the_skip_an_identity():
    for scaled in (lambda m, h: h + m.scale * m.a(h), lambda m, h: h + 0.1 * m.a(h)):
        _, (found,) = joins_of(scaled, a=conv(), scale=nn.Parameter(torch.full((4, 1, 1), 0.1)))
        assert found == {"relu": IDENTITY, "mul": MAIN}
    _, (found,) = joins_of(lambda m, h: 0.5 * h + m.a(h), a=conv())
    assert found == {"mul": IDENTITY, "a": MAIN}  # a fixed scale is nothing learned


def test_attention_beside_an_mlp_is_one_join_of_three():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = conv(1)

        def forward(self, h):
            q = self.qkv(h).flatten(2).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).view_as(h)

    _, (found,) = joins_of(
        lambda m, h: h + m.attention(n := m.n(h)) + m.mlp(n),
        attention=Attention(),
        mlp=nn.Sequential(conv(1), nn.GELU(), conv(1)),
        n=nn.GroupNorm(1, 4),
    )
    assert found == {"relu": IDENTITY, "attention.view_as": MAIN, "mlp.2": MAIN}


def test_a_gated_branch_and_a_gate_are_no_skips():
    _, (found,) = joins_of(
        lambda m, h: h + m.a(h) * torch.sigmoid(m.gate(h.mean((2, 3), keepdim=True))), a=conv(), gate=conv(1)
    )
    assert found == {"relu": IDENTITY, "mul": MAIN}
    result = relprop.explain(Form(lambda m, h: h * torch.sigmoid(m.gate(h)), gate=conv(1)).eval(), images())
    assert result.ledger.gap < 1e-6


def test_resolutions_that_are_fused_meet_in_joins_of_several():
    """As in HRNet and feature pyramids: what keeps its resolution has the fewest layers, the others are resampled."""

    def fuse(m, h):
        wide, low = m.a(h), m.b(m.down(h))
        up = F.interpolate(m.up(low), scale_factor=2)
        total = wide + up
        return total + F.interpolate(m.d(low + m.down2(wide)), scale_factor=2)

    _, found = joins_of(fuse, a=conv(), b=conv(), d=conv(), up=conv(1), down=conv(stride=2), down2=conv(stride=2))
    assert [[*row.values()] for row in found] == [[MAIN, MAIN], [PROJECTION, MAIN, MAIN]]
    assert [*found[0]] == ["b", "down2"]
    assert [*found[1]] == ["a", "upsample_nearest", "upsample_nearest@1"]


def test_trees_of_joins_nest():
    """As DLA aggregates: a join of joins, where the inner ones' values are used again."""

    def tree(m, h):
        first = m.a(h) + h
        second = m.b(first) + first
        root = m.root(torch.cat([second, first], 1))
        return root + m.d(h)

    _, found = joins_of(tree, a=conv(), b=conv(), d=conv(1), root=nn.Conv2d(8, 4, 1))
    assert found == [
        {"a": MAIN, "relu": IDENTITY},
        {"b": MAIN, "add": IDENTITY},
        {"root": MAIN, "d": PROJECTION},
    ]


@pytest.mark.parametrize("split", ["ratio", "symmetric"])
def test_joins_of_every_kind_share_and_conserve(split):
    def everything(m, h):
        h = h + m.scale * m.a(m.n(h)) + m.b(h) * torch.sigmoid(m.d(h))
        low = F.avg_pool2d(h, 2)
        return m.n(h + F.interpolate(m.d(low) + low, scale_factor=2) - 0.5 * m.a(h))

    scale = nn.Parameter(torch.full((4, 1, 1), 0.1))
    net = Form(everything, a=conv(), b=conv(), d=conv(1), n=nn.GroupNorm(1, 4), scale=scale).eval().double()
    lrp = relprop.LRP(net, relprop.paper(split=split))
    result = lrp(images(2).double())
    assert result.ledger.gap < 1e-14
    assert result.ledger.absorbed == 0
    alone = lrp(images(2)[1:].double(), target=result.target[1:])
    torch.testing.assert_close(alone.relevance, result.relevance[1:], rtol=1e-12, atol=1e-16)
