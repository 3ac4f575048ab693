"""Compiled graphs explain as eager runs do; where there is none, one warning says so."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch._dynamo  # which torch would import within a test, where its objects are looked at for garbage
from torch import nn

import relprop
from relprop.core.backward import compiled
from relprop.core.composites.presets import COMPOSITES
from relprop.errors import TargetError
from tiny import Tiny, images


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made and run as they are, without a compiler; that `torch.compile` takes them is a test of its own."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


def small():
    """Few layers, whose graph is made in a quarter of the time that the one of `Tiny` takes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


def assert_same(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.score, expected.score, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.logits, expected.logits, rtol=tolerance, atol=10 * tolerance)
    assert torch.equal(found.target, expected.target)
    assert found.target.shape == expected.target.shape
    for ours, theirs in zip(found.ledger.entries, expected.ledger.entries, strict=True):
        assert (ours.name, ours.rule, ours.conserves) == (theirs.name, theirs.rule, theirs.conserves)
        torch.testing.assert_close(ours.received, theirs.received, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.sent, theirs.sent, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.magnitude, theirs.magnitude, rtol=1e-5, atol=1e-6)
    assert found.ledger.gap < 1e-6


def graphs(lrp):
    """How many graphs were compiled for each kind of run."""
    return [len(made) for made in lrp._compiler._made.values()]


@pytest.mark.usefixtures("traced")
def test_a_residual_network_is_explained_by_its_graph_as_it_is_eagerly():
    model = Tiny()
    eager, lrp = relprop.LRP(model), relprop.LRP(model, compile=True)
    for _ in range(3):
        assert_same(lrp(images(3)), eager(images(3)))
    assert graphs(lrp) == [1]


@pytest.mark.usefixtures("traced")
def test_each_size_of_batch_has_a_graph_after_its_first_run():
    model = small()
    eager, lrp = relprop.LRP(model), relprop.LRP(model, compile=True)
    assert_same(lrp(images(3)), eager(images(3)))
    assert graphs(lrp) == []  # the first run prepares the weights
    for count in (3, 1, 3, 1, 3):
        assert_same(lrp(images(count)), eager(images(count)))
    assert graphs(lrp) == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "composite",
    [
        relprop.paper("symmetric", identity=False),
        relprop.paper(first="image", batch_norm="fold"),
        relprop.gamma(),
        COMPOSITES.build("two-sided:classifier=contrast"),
    ],
    ids=["symmetric", "image", "gamma", "two-sided"],
)
def test_composites_targets_and_kept_layers(composite, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    model, x = Tiny(), images(4)
    with torch.no_grad():
        model.conv2.weight[0] = -model.conv2.weight[0].abs()  # a channel that nothing excites
    eager = relprop.LRP(model, composite, keep=["conv2"])
    lrp = relprop.LRP(model, composite, keep=["conv2"], compile=True)
    lrp(x)
    for target, start in ((None, "probability"), (3, "logit"), ([[0, 1], [2, 3], [4, 4], [1, 0]], "probability")):
        found, expected = lrp(x, target, start=start), eager(x, target, start=start)
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.at("conv2"), expected.at("conv2"), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.ledger.end, expected.ledger.end, rtol=1e-4, atol=1e-6)
        # the mean-subtracted rule divides by a difference, which amplifies rounding where it is small; so do eager runs
        assert found.ledger.gap < (2 * expected.ledger.gap + 1e-6 if composite.name == "two-sided" else 1e-6)
    assert graphs(lrp) == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_changed_weights_are_prepared_anew_and_graphs_stay():
    model, x = Tiny(), images(2)
    eager, lrp = relprop.LRP(model), relprop.LRP(model, compile=True)
    lrp(x)
    before = lrp(x).relevance
    with torch.no_grad():
        model.conv1.weight.mul_(-1.5)
        model.bn2.weight.add_(0.5)
    for _ in range(2):  # eagerly, and by the graph
        assert_same(lrp(x), eager(x))
        assert not torch.allclose(lrp(x).relevance, before)
    assert graphs(lrp) == [1]


@pytest.mark.usefixtures("traced")
def test_starts_of_both_signs_run_eagerly_and_errors_stay_errors():
    model, x = small(), images(2)
    lrp = relprop.LRP(model, compile=True)
    for _ in range(2):
        lrp(x, relprop.targets.Contrast(0, 1))
    assert graphs(lrp) == []
    lrp(x)
    with pytest.raises(TargetError, match="class 5 does not exist"):
        lrp(x, 5)


def test_a_rule_that_branches_on_values_runs_eagerly_after_one_warning(recwarn, traced):
    @relprop.rule(name="branches")
    def branches(step, relevance):
        return relevance * (1 if relevance.sum() > 0 else -1)

    composite = relprop.paper().override(rules={"relu": branches})
    lrp, eager = relprop.LRP(small(), composite, compile=True), relprop.LRP(small(), composite)
    lrp(images())
    with pytest.warns(RuntimeWarning, match=r"cannot compile this explanation, so it runs eagerly.*g\+\+"):
        assert_same(lrp(images()), eager(images()))
    assert_same(lrp(images()), eager(images()))  # warnings are errors here: there is no second one
    assert not recwarn.list


def test_a_compiler_that_fails_runs_eagerly_after_one_warning(monkeypatch):
    def fail(*_):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda graph, **options: fail)  # as it does, when the graph first runs
    lrp = relprop.LRP(small(), compile=True)
    expected = lrp(images())
    with pytest.warns(RuntimeWarning, match="No working C"):
        assert_same(lrp(images()), expected)
    assert_same(lrp(images()), expected)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs the C++ compiler g++, which is absent")
@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_compiled_in_earnest():
    model, x = Tiny(), images(3)
    lrp, eager = relprop.LRP(model, compile=True), relprop.LRP(model)
    lrp(x)
    found = lrp(x)
    if lrp._compiler._failed:
        pytest.skip("torch.compile does not work here; the warning says why")
    assert_same(found, eager(x))
    assert_same(lrp(images(5)), eager(images(5)))
    assert graphs(lrp) == [1]
