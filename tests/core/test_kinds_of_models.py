"""Half precision, autocast, inference mode, wrappers, and inputs that are no images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relprop
from core_balance import assert_same
from tiny import Tiny, images


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(kind, expected):
    model = Tiny().to(kind)
    for x in (images(), images().to(kind)):
        result = relprop.explain(model, x)
        assert_same(result, expected, rtol=0.1)
        assert (result.score.dtype, result.logits.dtype) == (torch.float32, torch.float32)


def test_autocast_around_the_call_changes_nothing(tiny, expected):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = relprop.explain(tiny, images())
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(result.relevance, expected.relevance)


def test_autocast_within_the_model_gives_float32(expected):
    class Mixed(Tiny):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    result = relprop.explain(Mixed(), images())
    assert_same(result, expected)
    assert result.logits.dtype == torch.float32


def test_inference_mode(tiny, expected):
    with torch.inference_mode():
        assert torch.equal(relprop.explain(tiny, images()).relevance, expected.relevance)
        made_inside = Tiny()
        x = images()
    lrp = relprop.LRP(made_inside)
    assert_same(lrp(x), expected)
    with torch.inference_mode():
        assert_same(lrp(images()), expected)


def test_gradients_switched_on_or_off(tiny, expected):
    for switch in (torch.no_grad, torch.enable_grad):
        with switch():
            assert torch.equal(relprop.explain(tiny, images()).relevance, expected.relevance)


def test_wrappers_are_taken_off(tiny, expected):
    assert relprop.LRP(nn.DataParallel(tiny)).model is tiny
    assert_same(relprop.explain(nn.DataParallel(tiny), images()), expected)


@pytest.mark.parametrize(
    ("first", "pool", "shape", "map_shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), (2, 3, 9), (2, 9)),
        (nn.Conv3d(3, 4, 2), nn.AdaptiveAvgPool3d(1), (2, 3, 4, 5, 3), (2, 4, 5, 3)),
        (nn.Linear(3, 4), nn.Identity(), (2, 3), (2,)),
    ],
)
def test_inputs_of_other_dimensions(first, pool, shape, map_shape):
    model = nn.Sequential(first, nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3)).eval()
    result = relprop.explain(model, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert result.ledger.gap < 1e-6
    assert result.relevance.shape == shape
    assert result.heatmap.shape == map_shape
    total = result.heatmap.reshape(2, -1).sum(1)
    torch.testing.assert_close(total, result.score, rtol=1e-5, atol=0)


def test_memory_formats_of_the_image_do_not_matter(tiny, expected):
    x = images().contiguous(memory_format=torch.channels_last)
    assert_same(relprop.explain(tiny, x), expected)
    assert_same(relprop.explain(tiny, images().transpose(2, 3).contiguous().transpose(2, 3)), expected)


@pytest.mark.slow
def test_memory_does_not_grow_over_500_calls(tiny):
    import gc
    import tracemalloc

    lrp, x = relprop.LRP(tiny), images(1)

    def alive() -> int:
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    for _ in range(20):
        lrp(x)
    gc.collect()
    tensors = alive()
    tracemalloc.start()
    for _ in range(100):
        lrp(x)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(400):
        lrp(x)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert alive() <= tensors
    assert grown < 100_000  # bytes of Python objects, 250 a call; an entry of the ledger alone takes more
