"""Python that branches on values: a run recorded for each input, and what it must notice."""

from __future__ import annotations

import pytest
import torch
from test_model_untouched import everything
from torch import nn

import relprop
from relprop.errors import CaptureError, UnsupportedOpError
from tiny import Tiny, images

X = images(3)


class Branches(Tiny):
    """One of two heads, by a value; `bright` says which inputs take the second."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.other = nn.Conv2d(4, 4, 1)
        self.eval()

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        if x.mean() > 1:
            h = self.relu(self.other(h)) + h
        return (self.bn2(self.conv2(h)) + h).relu_().mean((2, 3))


class Straight(Branches):
    """What `Branches` computes, by one of its ways."""

    def __init__(self, bright: bool) -> None:
        super().__init__()
        self.bright = bright

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        if self.bright:
            h = self.relu(self.other(h)) + h
        return (self.bn2(self.conv2(h)) + h).relu_().mean((2, 3))


class Loops(Tiny):
    """As many times as a value says."""

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        for _ in range(int(x.abs().amax()) + 1):
            h = self.relu(self.conv2(h)) + h
        return h.mean((2, 3))


class EachForItself(Branches):
    """Every image takes its own way."""

    def features(self, x):
        return torch.cat([super(EachForItself, self).features(one[None]) for one in x])


class Masks(Tiny):
    """Indices, and sizes, that depend on values: the brighter half of the places, then those that are positive."""

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x))).flatten(2)
        if x.sum() > 1e9:
            return h[..., 0]
        h = h + self.drop(h)
        bright = h.sum((0, 1))
        return h[..., bright > bright.median()].mean(-1)


class WritesInPlace(Branches):
    """In-place operations, and writes through views, before and behind the branch."""

    def features(self, x):
        h = self.conv1(x).relu_()
        before = h[:, :2]
        h[:, 1:3] += h[:, :2] * 0.5
        wide = torch.zeros_like(h)
        wide[:, 1:] = h[:, :3]
        if x.mean() <= 1:
            wide.add_(h)
        return self.conv2(wide).add_(wide).relu_()[:, :, ::2].mean((2, 3)) + torch.cat([before, before], 1).mean((2, 3))


class Remembers(Tiny):
    """A weight in a buffer that every run uses, writes to, and uses again."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.linspace(-1, 1, 4 * 4).view(4, 4, 1, 1))

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        h = torch.conv2d(h, self.kernel).relu()
        self.kernel.mul_(-2)
        self.kernel[1, 2] = 0.25
        return torch.conv2d(h, self.kernel).relu().mean((2, 3))


class ForgetsNothing(Remembers):
    """The same without writing."""

    def features(self, x):
        h = self.relu(self.bn1(self.conv1(x)))
        h = torch.conv2d(h, self.kernel).relu()
        kernel = self.kernel * -2
        kernel = torch.cat([kernel[:1], torch.cat([kernel[1:2, :2], torch.full_like(kernel[1:2, :1], 0.25),
                                                   kernel[1:2, 3:]], 1), kernel[2:]])  # fmt: skip
        return torch.conv2d(h, kernel).relu().mean((2, 3))


class WritesPlainly(WritesInPlace):
    """The dark way of the same, as export reads it."""

    def features(self, x):
        h = self.conv1(x).relu_()
        before = h[:, :2]
        h[:, 1:3] += h[:, :2] * 0.5
        wide = torch.zeros_like(h)
        wide[:, 1:] = h[:, :3]
        wide.add_(h)
        return self.conv2(wide).add_(wide).relu_()[:, :, ::2].mean((2, 3)) + torch.cat([before, before], 1).mean((2, 3))


@torch.library.custom_op("relprop_tests::twice", mutates_args=())
def twice(value: torch.Tensor) -> torch.Tensor:
    """An operation that nobody can run without data."""
    return value * 2


def same(ours, theirs, rtol=1e-12):
    assert ours.ledger.gap < rtol
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("bright", [False, True])
def test_a_branch_gives_what_its_way_alone_gives(bright, dtype, rtol):
    x = (X + 2 * bright).to(dtype)
    lrp = relprop.LRP(Branches().to(dtype))
    result = lrp(x)
    same(result, relprop.explain(Straight(bright).to(dtype), x), rtol)
    graph, plain = lrp.graph(x), relprop.LRP(Straight(bright).to(dtype)).graph(x)
    assert [node.name for node in graph] == [node.name for node in plain]
    assert [node.inputs for node in graph] == [node.inputs for node in plain]
    assert graph.by_name["conv2"].source.startswith("test_recorded.py:")
    assert graph.by_name["conv2"].source.endswith(" return (self.bn2(self.conv2(h)) + h).relu_().mean((2, 3))")


def test_another_branch_is_noticed_at_every_call():
    lrp, dark, bright = relprop.LRP(Branches().double()), X.double(), X.double() + 2
    lrp(dark)
    for x, way in ((bright, True), (dark, False), (bright * 1.5, True), (dark * 0.9, False)):
        same(lrp(x), relprop.explain(Straight(way).double(), x))
    assert lrp.graph(dark) is lrp.graph(dark * 0.9)
    assert lrp.graph(dark) is not lrp.graph(bright)


def test_a_branch_that_hardly_changes_the_scores_is_noticed():
    model, straight = Branches().double(), Straight(True).double()
    for net in (model, straight):
        nn.init.constant_(net.other.weight, 1e-9)
        nn.init.zeros_(net.other.bias)
    lrp = relprop.LRP(model)
    lrp(X.double())
    assert "other" not in lrp.graph(X.double()).modules
    same(lrp(X.double() + 2), relprop.explain(straight, X.double() + 2))
    assert "other" in lrp.graph(X.double() + 2).modules


def test_a_loop_takes_as_many_turns_as_the_input_asks_for():
    lrp = relprop.LRP(Loops().double())
    x = X.double() / X.abs().max()
    turns = {}
    for factor in (0.5, 1.5, 2.5):
        result = lrp(x * factor)
        assert result.ledger.gap < 1e-12
        turns[factor] = sum(node.op == "conv" for node in lrp.graph(x * factor).steps)
    assert turns == {0.5: 2, 1.5: 3, 2.5: 4}


def test_batches_equal_single_images():
    model = Branches().double()
    lrp = relprop.LRP(model)
    whole = lrp(X.double())
    for k in range(3):
        one = X[k : k + 1].double()
        torch.testing.assert_close(lrp(one).relevance, whole.relevance[k : k + 1], rtol=1e-12, atol=1e-15)


def test_images_that_take_different_ways_are_explained_one_by_one():
    x = torch.stack([X[0], X[1] + 2, X[2]]).double()
    lrp = relprop.LRP(EachForItself().double(), keep=["conv1"])
    result = lrp(x, target=[0, 1, 2])
    for k, way in enumerate((False, True, False)):
        alone = relprop.explain(Straight(way).double(), x[k : k + 1], target=[k])
        torch.testing.assert_close(result.relevance[k : k + 1], alone.relevance, rtol=1e-12, atol=1e-15)
    assert result.ledger.gap < 1e-12
    assert result.at("conv1").shape[0] == 3
    torch.testing.assert_close(result.ledger.end, result.ledger.start, rtol=1e-12, atol=0)
    other = next(entry for entry in result.ledger.entries if entry.name == "other")
    assert [bool(part) for part in other.received] == [False, True, False]


def test_images_that_cannot_be_told_apart_are_refused():
    class Together(Tiny):
        def forward(self, x):
            scores = torch.stack([self.fc(self.features(one[None]))[0] for one in x])
            return scores * (1 + float(x[0].mean()))

    with pytest.raises(UnsupportedOpError, match="scores for an image depend on the others in its batch"):
        relprop.explain(Together(), X)


def test_places_that_depend_on_values_hold_for_them_alone():
    model = Masks().double()
    lrp = relprop.LRP(model)
    x = X[:1].double()
    result = lrp(x)
    h = model.relu(model.bn1(model.conv1(x))).flatten(2)
    bright = h.sum((0, 1)) * 2 > (h.sum((0, 1)) * 2).median()
    kept = relprop.LRP(model, keep=["bn1"])(x).at("bn1")[0].flatten(1).sum(0)
    assert result.ledger.gap < 1e-12
    assert not kept[~bright].any()
    torch.testing.assert_close(kept.sum(), result.score[0], rtol=1e-12, atol=0)
    other = X[1:2].double()
    assert lrp(other).ledger.gap < 1e-12


def test_in_place_operations_and_writes_through_views():
    x = X.double()
    same(relprop.explain(WritesInPlace().double(), x), relprop.explain(WritesPlainly().double(), x))


def test_a_buffer_that_a_run_writes_to_counts_as_it_was_and_is_put_back():
    model, x = Remembers().double(), X.double()
    lrp = relprop.LRP(model)
    before = model.kernel.clone()
    for _ in range(2):
        same(lrp(x), relprop.explain(ForgetsNothing().double(), x))
        assert torch.equal(model.kernel, before)


def test_the_model_comes_back_untouched():
    model = Branches()
    before = everything(model)
    relprop.explain(model, X)
    assert everything(model) == before
    assert torch.backends.mha.get_fastpath_enabled()
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_weights_are_read_anew():
    model = Branches().double()
    lrp = relprop.LRP(model)
    lrp(X.double())
    graph = lrp.graph(X.double())
    with torch.no_grad():
        model.conv1.weight.mul_(1.7)
    fresh = Straight(False).double()
    fresh.load_state_dict(model.state_dict())
    same(lrp(X.double()), relprop.explain(fresh, X.double()))
    assert lrp.graph(X.double()) is graph


def test_an_output_that_leaves_torch_is_refused():
    class Leaves(Tiny):
        def forward(self, x):
            return torch.from_numpy(super().forward(x).detach().numpy() * 2)

    with pytest.raises(CaptureError, match="output does not depend on its input"):
        relprop.explain(Leaves(), X)


class _ReadsAnOlderView(nn.Module):
    """A view is taken, its base written to, and the view read; or the same without writing."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        self.conv, self.head, self.writes = nn.Conv2d(3, 4, 3), nn.Linear(2, 3), writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x).relu()
        if self.writes:
            view = h[:, :2]
            h[:, 1:3].mul_(h[:, 2:4])
        else:
            view = torch.cat([h[:, :1], h[:, 1:3] * h[:, 2:4]], 1)[:, :2]
        return self.head(view.mean((2, 3)))


def test_a_view_shows_what_was_written_to_its_base_since() -> None:
    torch.manual_seed(0)
    writes, plain = _ReadsAnOlderView(writes=True).double().eval(), _ReadsAnOlderView(writes=False).double().eval()
    plain.load_state_dict(writes.state_dict())
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    lrp = relprop.LRP(writes)
    expected = relprop.explain(plain, x)
    for result in (lrp(x), lrp(x)):  # a repeated run, too
        assert result.ledger is not None
        assert result.ledger.gap < 1e-14
        torch.testing.assert_close(result.relevance, expected.relevance)
