"""Models whose output holds probabilities: a second softmax would say something else, silently."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop.core.targets.start import probabilities_of

X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class _Net(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classify, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(3 * self.classify(self.first(x).relu().mean((2, 3))))


def _softmax(z: Tensor) -> Tensor:
    return z.softmax(1)


def _temperatures(z: Tensor) -> Tensor:
    return (z.softmax(1) + (2 * z).softmax(1)) / 2


#: (what the model ends in, its probabilities by its logits, whether the logits are found)
ENDS = {
    "softmax": (_softmax, _softmax, True),
    "squeezed": (lambda z: z[:, :, None, None].softmax(1).squeeze(-1).squeeze(-1), _softmax, False),
    "flattened": (lambda z: z[:, :, None, None].softmax(1).flatten(1), _softmax, False),
    "selected": (lambda z: z[:, None].softmax(-1)[:, 0], _softmax, False),
    "transposed": (lambda z: z.t().softmax(0).t(), _softmax, False),
    "of another type": (lambda z: z.double().softmax(1).float(), _softmax, False),
    "dropout": (lambda z: F.dropout(z.softmax(1), 0.5, training=False), _softmax, False),
    "log": (lambda z: z.softmax(1).log(), _softmax, False),
    "a little more": (lambda z: (z.softmax(1) + 1e-9).log(), _softmax, False),
    "exp": (lambda z: z.log_softmax(1).exp(), _softmax, False),
    "clamped": (lambda z: z.softmax(1).clamp(1e-6, 1), _softmax, False),
    "log of sigmoid": (lambda z: z.sigmoid().log(), torch.sigmoid, False),
    "exp of log_sigmoid": (lambda z: F.logsigmoid(z).exp(), torch.sigmoid, False),
    "sigmoid squeezed": (lambda z: z[..., None].sigmoid().squeeze(-1), torch.sigmoid, False),
    "another order": (lambda z: z.softmax(1)[:, [3, 2, 0, 1]], lambda z: z.softmax(1)[:, [3, 2, 0, 1]], False),
    "twice": (lambda z: z.softmax(1).softmax(1), lambda z: z.softmax(1).softmax(1), False),
    "some classes": (lambda z: z.softmax(1)[:, :3], lambda z: z.softmax(1)[:, :3], False),
    "a mean": (_temperatures, _temperatures, False),
    "by hand": (lambda z: z.exp() / z.exp().sum(1, keepdim=True), _softmax, False),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("target", [None, 2, [0, 1, 2]], ids=["predicted", "one", "one each"])
def test_the_score_is_the_models_own_probability(name, target):
    end, probability, found = ENDS[name]
    logits = _Net()(X).detach()
    expected = probability(logits)
    lrp = relprop.LRP(_Net(end).eval())
    for _ in range(2):
        result = lrp(X, target)
        classes = expected.argmax(1) if target is None else torch.as_tensor(target).expand(3)
        assert torch.equal(result.target, classes)
        torch.testing.assert_close(
            result.score, expected.gather(1, classes[:, None])[:, 0], rtol=1e-4, atol=1e-6, check_dtype=False
        )
        torch.testing.assert_close(result.probability, result.score, rtol=1e-4, atol=1e-6)
        assert result.ledger.gap < 1e-5
    if found:
        torch.testing.assert_close(
            lrp(X, 1, start="logit").score, logits[:, 1], rtol=1e-4, atol=1e-5, check_dtype=False
        )


@pytest.mark.parametrize("name", ENDS)
def test_metrics_read_the_same_probabilities(name):
    end, probability, _ = ENDS[name]
    model = _Net(end).eval()
    output = model(X).detach()
    made = probabilities_of(output, relprop.core.capture.capture(model, X).end)
    torch.testing.assert_close(made, probability(_Net()(X).detach()), rtol=1e-4, atol=1e-6)


def test_a_contrast_and_a_mask_read_the_probabilities_of_a_model_that_ends_in_a_sigmoid():
    p = _Net()(X).detach().sigmoid()
    contrast = relprop.explain(_Net(torch.sigmoid).eval(), X, relprop.targets.Contrast(0, 1))
    torch.testing.assert_close(contrast.score, p[:, 0] - p[:, 1])
    segments = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Sigmoid()).eval()
    everywhere = torch.ones(6, 6, dtype=torch.bool)
    mask = relprop.explain(segments, X, relprop.targets.Mask(1, everywhere))
    torch.testing.assert_close(mask.score, segments(X).detach()[:, 1].mean((1, 2)))


def test_yes_or_no_of_one_number_behind_a_sigmoid():
    model = nn.Sequential(nn.Conv2d(3, 1, 8), nn.Flatten(0), nn.Sigmoid()).eval()
    squeezed = nn.Sequential(nn.Conv2d(3, 1, 8), nn.Flatten(1), nn.Sigmoid(), nn.Flatten(0)).eval()
    squeezed.load_state_dict(model.state_dict())
    for each in (model, squeezed):
        result = relprop.explain(each, X, relprop.targets.Binary())
        torch.testing.assert_close(result.score, model(X).detach())
