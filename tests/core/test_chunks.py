"""Large batches in parts, several targets and several composites: the same numbers as one by one."""

from __future__ import annotations

import pytest
import torch

import relprop
from relprop.core import lrp as engine
from relprop.core import targets
from relprop.core.result.batches import Chunks
from relprop.errors import UsageError
from tiny import Tiny, images


def assert_equal(found, expected):
    for name in ("relevance", "target", "score", "logits", "heatmap"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.ledger.gaps.shape, expected.ledger.gaps.shape)
    torch.testing.assert_close(found.ledger.start, expected.ledger.start, rtol=1e-5, atol=1e-7)
    assert found.ledger.gap < 1e-6


@pytest.fixture
def small_memory(monkeypatch):
    """Runs of more than two images run out of memory; the sizes tried are listed."""
    tried = []
    run = engine.record

    def limited(model, image, *given):
        tried.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return run(model, image, *given)

    monkeypatch.setattr(engine, "record", limited)
    return tried


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_that_is_remembered(small_memory, monkeypatch):
    model, x = Tiny(), images(7)
    lrp = relprop.LRP(model, keep=["conv2"])
    found = lrp(x)
    assert small_memory == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    small_memory.clear()
    lrp(images(2))
    assert small_memory == [1, 1]
    monkeypatch.undo()
    expected = relprop.LRP(model, keep=["conv2"])(x)
    assert_equal(found, expected)
    torch.testing.assert_close(found.at("conv2"), expected.at("conv2"))


def test_one_image_that_does_not_fit_raises_and_says_so(monkeypatch):
    def never(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    lrp = relprop.LRP(Tiny())
    lrp(images())
    monkeypatch.setattr(engine, "record", never)
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        lrp(images(4))
    assert caught.value.__notes__ == ["relprop: memory is too short to explain even one image of this size"]


def test_other_errors_are_no_reason_to_halve(monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    lrp = relprop.LRP(Tiny())
    monkeypatch.setattr(engine, "record", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        lrp(images(4))
    assert lrp._chunks.size is None


@pytest.mark.parametrize(
    "target",
    [
        None,
        2,
        torch.tensor([0, 1, 2, 3, 4]),
        [4, 3, 2, 1, 0],
        [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]],
        targets.Contrast(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 2, 3, 4, 0])),
        lambda output: output[:, 1],
    ],
    ids=["predicted", "one", "tensor", "list", "several", "contrast", "function"],
)
def test_chunks_get_their_own_targets(target):
    model, x = Tiny(), images(5)
    found = relprop.LRP(model, chunk=2)(x, target)
    assert_equal(found, relprop.LRP(model)(x, target))


def test_a_start_of_the_callers_own_is_cut_too():
    model, x = Tiny(), images(5)
    start = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    assert_equal(relprop.LRP(model, chunk=2)(x, start=start), relprop.LRP(model)(x, start=start))


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(UsageError, match="chunk must be 1 or more"):
        relprop.LRP(Tiny(), chunk=size)


def test_chunks_without_a_limit_are_the_batch_itself():
    seen = []
    Chunks().explain(torch.zeros(9, 1), None, "logit", lambda x, *_: seen.append(len(x)) or ("result",))
    assert seen == [9]


def test_several_targets_share_one_forward_run(monkeypatch):
    model, x, columns = Tiny(), images(2), [[0, 3, 1], [2, 2, 4]]
    lrp = relprop.LRP(model)
    lrp(x)
    runs = []
    run = engine.record
    monkeypatch.setattr(engine, "record", lambda *given: runs.append(1) or run(*given))
    found = lrp(x, columns)
    assert len(runs) == 1
    assert found.heatmap.shape == (2, 3, 8, 8)
    for k in range(3):
        alone = lrp(x, [row[k] for row in columns])
        torch.testing.assert_close(found.heatmap[:, k], alone.heatmap, rtol=0, atol=0)
        torch.testing.assert_close(found.ledger.start.view(2, 3)[:, k], alone.ledger.start, rtol=0, atol=0)


def test_several_composites_share_one_forward_run(monkeypatch):
    model, x = Tiny(), images(3)
    rows = [relprop.paper(split, identity) for split in ("symmetric", "ratio") for identity in (False, True)]
    composites = [*rows, relprop.epsilon()]
    lrp = relprop.LRP(model)
    lrp.explain_each(x, composites)
    runs = []
    run = engine.record
    monkeypatch.setattr(engine, "record", lambda *given: runs.append(1) or run(*given))
    results = lrp.explain_each(x, composites, 1, start="logit")
    assert len(runs) == 1
    monkeypatch.undo()
    for composite, found in zip(composites, results, strict=True):
        expected = relprop.explain(model, x, 1, composite=composite, start="logit")
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=0, atol=0)
        assert found.composite == composite.name


def test_bfloat16_loses_what_the_ledger_shows():
    model, x = Tiny(), images(4)
    exact, narrow = relprop.LRP(model)(x), relprop.LRP(model, bf16=True)(x)
    assert torch.equal(narrow.logits, exact.logits)  # only the rules' products are narrow
    assert exact.ledger.gap < 1e-6 < 1e-5 < narrow.ledger.gap < 1e-2
    worst = (narrow.relevance - exact.relevance).abs().max() / exact.relevance.abs().max()
    assert 1e-5 < worst < 0.02
    with pytest.raises(relprop.errors.ConservationError, match="relevance leaks"):
        relprop.LRP(model, bf16=True, strict=True)(x)
    relprop.LRP(model, bf16=True, strict=True, rtol=1e-2)(x)
