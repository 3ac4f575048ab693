"""What is added up, put or reduced at an index, products of many factors, reductions of all, and values by order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn, tensor

import relprop
from relprop.errors import UnsupportedOpError
from tiny import Does

X = tensor([[3.0, -2.0, 1.0, -4.0]], dtype=torch.float64)
ZEROS = torch.zeros(1, 4, dtype=torch.float64)
INDEX = tensor([0, 0, 0, 1])

#: (what is computed, target, relevance by hand): y_0 = 3 - 2 + 1 = 2, of which 3 and 1 speak for it
BY_HAND = {
    "index_add": (lambda h: ZEROS.index_add(1, INDEX, h), 0, [1.5, 0, 0.5, 0]),
    "nothing positive": (lambda h: ZEROS.index_add(1, INDEX, h), 1, [0, 0, 0, -4]),
    "a negative factor": (lambda h: ZEROS.index_add(1, INDEX, h, alpha=-1), 0, [0, -2, 0, 0]),
    "to the image": (lambda h: h.index_add(1, INDEX[:2], h[:, 2:]), 0, [0, 0, 0, 0]),
    "scatter_add": (lambda h: ZEROS.scatter_add(1, INDEX[None], h), 0, [1.5, 0, 0.5, 0]),
    "scatter_reduce": (lambda h: ZEROS.scatter_reduce(1, INDEX[None], h, "sum"), 0, [1.5, 0, 0.5, 0]),
    "amax": (lambda h: ZEROS.scatter_reduce(1, INDEX[None], h, "amax", include_self=False), 0, [3, 0, 0, 0]),
    "index_put": (
        lambda h: ZEROS[0].index_put((INDEX,), h[0], accumulate=True)[None],
        0,
        [1.5, 0, 0.5, 0],
    ),
    "in place": (lambda h: torch.zeros_like(h).index_add_(1, INDEX, h), 0, [1.5, 0, 0.5, 0]),
    "scatter": (lambda h: h.scatter(1, tensor([[0, 1]]), h[:, 2:]), 0, [0, 0, 1, 0]),
    "scatter, the rest": (lambda h: h.scatter(1, tensor([[0]]), h[:, 2:3]), 1, [0, -2, 0, 0]),
    "index_copy": (lambda h: h.index_copy(1, tensor([2]), h[:, :1]), 2, [3, 0, 0, 0]),
    "masked_scatter": (lambda h: h.masked_scatter(h > 2, h[:, 2:]), 0, [0, 0, 1, 0]),
    "median": (lambda h: torch.cat([h.median(1, keepdim=True)[0], h], 1), 0, [0, -2, 0, 0]),
    "kthvalue": (lambda h: torch.cat([h.kthvalue(3, 1, True)[0], h], 1), 0, [0, 0, 1, 0]),
    "prod": (lambda h: torch.cat([h.prod(1, keepdim=True), h], 1), 0, [6, 6, 6, 6]),
    "cumprod": (lambda h: h.cumprod(1), 1, [-3, -3, 0, 0]),
    "sign": (lambda h: h.sign() * h.abs(), 0, [3, 0, 0, 0]),
    "addcmul in place": (lambda h: h.clone().addcmul_(h.sigmoid(), h, value=2), 1, None),
    "addmm": (lambda h: torch.addmm(ZEROS, h, torch.ones(4, 4).double(), alpha=-1), 0, [0, 2 / 3, 0, 4 / 3]),
    "addmm, to the image": (lambda h: torch.addmm(h, h * 0.5, torch.eye(4).double()), 0, [4.5, 0, 0, 0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_relevance_by_hand(name):
    function, target, expected = BY_HAND[name]
    result = relprop.explain(Does(function), X, target=target, start="logit", composite=relprop.paper(first="image"))
    if expected is None:  # what y itself is, at its own position
        expected = [float(value) if k == target else 0 for k, value in enumerate(result.logits[0])]
    torch.testing.assert_close(result.relevance, tensor([expected], dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert result.ledger.gap < 1e-12


def test_a_product_of_two_weights_below_zero_is_positive():
    """y = Σ_i h_i a_i b_i with h = (3, -2, 1, -4), a = (-1, 1, 1, 1), b = (-1, -1, 1, 1): 3, 2, 1 and -4."""
    a, b = tensor([[-1.0, 1, 1, 1], [-1, -1, 1, 1]]).double()
    model = Does(lambda h: torch.cat([torch.einsum("ni,i,i->n", h, a, b)[:, None], h], 1))
    result = relprop.explain(model, X, target=0, start="logit")
    expected = tensor([[3.0, 2.0, 1.0, 0.0]]).double() / 6 * 2
    torch.testing.assert_close(result.relevance, expected, rtol=1e-12, atol=1e-12)


def test_what_a_number_replaces_gets_nothing():
    result = relprop.explain(Does(lambda h: h.scatter(1, tensor([[0]]), 1.5)), X, target=0, start="logit")
    assert not result.relevance.any()
    assert result.ledger.absorbed == 1


def test_a_reduction_by_products_has_no_rule():
    model = Does(lambda h: ZEROS.scatter_reduce(1, INDEX[None], h, "prod"))
    with pytest.raises(UnsupportedOpError, match="no rule for 'scatter_reduce'"):
        relprop.explain(model, X)


class Experts(nn.Module):
    """A mixture of experts: each image goes through its two best, and what they return is added up by row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.router, self.head = nn.Linear(8, 4), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(4))
        self.eval().double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        weights, chosen = self.router(h).softmax(1).topk(2, 1)
        mixed = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == number)
            mixed.index_add_(0, rows, expert(h[rows]) * weights[rows, rank, None])
        return self.head(mixed + h)


def test_a_mixture_of_experts_explains_each_image_of_a_batch_as_alone():
    """Also where an expert is given no image at all."""
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    lrp = relprop.LRP(Experts())
    together = lrp(x)
    assert together.ledger.gap < 1e-12
    torch.testing.assert_close(together.relevance.sum((1, 2, 3)), together.score, rtol=1e-12, atol=0)
    for n in range(3):
        torch.testing.assert_close(together.relevance[n], lrp(x[n : n + 1]).relevance[0], rtol=1e-9, atol=1e-14)


def test_images_whose_masks_differ_share_by_themselves():
    """Where values are set to zero, another mask in each image, a mean without a positive member knows of it."""
    model = Does(lambda h: torch.cat([_without_negative(h).mean(1, keepdim=True), h], 1))
    x = torch.cat([X, -X, X - 10])
    together = relprop.explain(model, x, target=0)
    for n in range(3):
        alone = relprop.explain(model, x[n : n + 1], target=0)
        torch.testing.assert_close(together.relevance[n : n + 1], alone.relevance, rtol=1e-12, atol=1e-14)


def _without_negative(h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0.0
    return h


@pytest.mark.parametrize(("rank", "pool"), [(1, nn.MaxPool1d(2)), (3, nn.MaxPool3d(2))])
def test_released_takes_max_pooling_of_one_and_three_dimensions_for_averages(rank, pool):
    """y = 2 max over one window: as an average of eight values or two, whose sum absorbs about nothing."""
    layer = (nn.Conv1d, nn.Conv3d)[rank // 2](1, 2, 1, bias=False)
    nn.init.ones_(layer.weight)
    model = nn.Sequential(layer, pool, nn.Flatten()).eval().double()
    x = torch.arange(1, 2**rank + 1).double().view(1, 1, *[2] * rank)
    result = relprop.explain(model, x, target=0, start="logit", composite=relprop.released())
    expected = x / x.sum() * x.max()
    torch.testing.assert_close(result.relevance, expected, rtol=1e-4, atol=0)


def test_reductions_of_everything_reach_the_whole_of_an_image():
    """`im.mean()` is of all channels, the first dimension of a single image among them: shares by hand."""
    image = tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
    for reduce, expected in (
        (lambda im: im.mean(), [[1 / 6, 2 / 6], [3 / 6, 0]]),
        (lambda im: im.sum(), [[1 / 6, 2 / 6], [3 / 6, 0]]),
        (lambda im: im.max(), [[0, 0], [1, 0]]),
        (lambda im: im.min(), [[0, 0], [0, 1]]),
    ):
        model = Does(lambda x, reduce=reduce: torch.stack([torch.stack([reduce(im), im[0, 0]]) for im in x]))
        batch = torch.stack([image, image])
        result = relprop.explain(model, batch, target=0, start="logit")
        assert result.ledger.gap < 1e-12
        whole = float(reduce(image))
        torch.testing.assert_close(result.relevance, tensor([expected, expected]).double() * whole, rtol=1e-6, atol=0)


def test_a_transformer_encoder_with_padding_packs_nothing():
    """Without gradients torch runs it on nested tensors, in which nothing can be followed."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder, head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 4)
    padding = torch.arange(5)[None] > 2
    model = Does(lambda x: head(encoder(x, src_key_padding_mask=padding.expand(len(x), 5))[:, :3].mean(1)))
    model.encoder, model.head = encoder, head
    x = torch.randn(2, 5, 8).double()
    result = relprop.explain(model.double().eval(), x)
    assert result.ledger.gap < 1e-12
    torch.testing.assert_close(result.logits, model(x).detach(), rtol=1e-9, atol=1e-12)
    assert not result.relevance[:, 3:].any()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_members_under_vmap_are_explained_as_in_a_loop():
    """Pooling under `vmap` gives dimensions of one other strides, in float32 and batches."""
    torch.manual_seed(0)
    members = nn.ModuleList(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        for _ in range(2)
    ).eval()

    class Ensemble(nn.Module):
        def __init__(self, vectorised: bool) -> None:
            super().__init__()
            self.members, self.vectorised = members, vectorised

        def forward(self, x: Tensor) -> Tensor:
            if not self.vectorised:
                return torch.stack([member(x) for member in self.members]).mean(0)
            weights, buffers = torch.func.stack_module_state([*self.members])
            one = lambda w, b: torch.func.functional_call(self.members[0], (w, b), (x,))  # noqa: E731
            return torch.vmap(one)(weights, buffers).mean(0)

    x = torch.rand(2, 3, 6, 6)
    ours, theirs = (relprop.explain(Ensemble(vectorised).eval(), x) for vectorised in (True, False))
    torch.testing.assert_close(ours.relevance, theirs.relevance, rtol=1e-4, atol=1e-7)
    assert ours.ledger.gap < 1e-5
