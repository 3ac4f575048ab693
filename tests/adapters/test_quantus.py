"""Quantus' own metrics on the adapter, over ten images."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from adapter_networks import Residual, images

import relprop
from relprop.adapters.quantus import explain_func
from relprop.errors import UsageError

MODEL = Residual()
X = images(10)
Y = MODEL(X).argmax(1)


def test_it_gives_relevance_as_it_is():
    found = explain_func(model=MODEL, inputs=X.numpy(), targets=Y.numpy())
    result = relprop.explain(MODEL, X, Y)
    assert (found.shape, found.dtype) == ((10, 1, 8, 8), np.float32)
    assert np.array_equal(found[:, 0], result.numpy())
    kept = explain_func(MODEL, X.double().numpy(), Y, channels="keep", composite="paper:split=symmetric", start="logit")
    expected = relprop.explain(MODEL, X, Y, composite=relprop.paper(split="symmetric"), start="logit")
    assert np.array_equal(kept, expected.numpy("relevance"))
    with pytest.raises(UsageError, match="no composite is named 'papper'"):
        explain_func(MODEL, X, Y, composite="papper")


@pytest.fixture(scope="module")
def quantus():
    pytest.importorskip("quantus")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus

        yield quantus


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("Sparseness", {}),
        ("Complexity", {}),
        ("PixelFlipping", {"features_in_step": 16}),
        ("FaithfulnessCorrelation", {"nr_runs": 5, "subset_size": 8, "return_aggregate": False}),
        ("MaxSensitivity", {"nr_samples": 2}),
        ("RandomLogit", {"num_classes": 5}),
        ("MPRT", {"skip_layers": True}),
    ],
)
def test_metrics_of_quantus_run_on_ten_images(quantus, metric, options):
    kind = getattr(quantus, metric)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        measure = kind(**options, disable_warnings=True, display_progressbar=False)
        found = measure(
            model=MODEL,
            x_batch=X.numpy(),
            y_batch=Y.numpy(),
            explain_func=explain_func,
            explain_func_kwargs={"start": "logit"},
            device="cpu",
        )
    values = [v for layer in found.values() for v in layer] if isinstance(found, dict) else found
    assert len(values) >= 10
    assert np.isfinite(np.asarray(values, dtype=float)).all()
    torch.testing.assert_close(MODEL(X), Residual()(X))


def test_sparseness_by_hand(quantus):
    """Quantus' Gini index of our maps equals the formula of Hurley and Rickard on the absolute values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure = quantus.Sparseness(disable_warnings=True, display_progressbar=False)
        found = measure(model=MODEL, x_batch=X.numpy(), y_batch=Y.numpy(), explain_func=explain_func)
    maps = np.sort(np.abs(relprop.explain(MODEL, X, Y).numpy().reshape(10, -1).astype(float)), axis=1)
    rank = np.arange(1, 65)
    expected = ((2 * rank - 64 - 1) * maps).sum(1) / (64 * maps.sum(1))
    assert found == pytest.approx(expected.tolist(), rel=1e-3)
