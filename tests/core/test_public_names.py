"""The public names of the package."""

from __future__ import annotations

import pytest

import relprop
from relprop.core.composites.presets import COMPOSITES


def test_every_registered_composite_is_public():
    for name in COMPOSITES:
        assert getattr(relprop, name.replace("-", "_")) is COMPOSITES.get(name)
        assert name.replace("-", "_") in relprop.__all__


def test_every_public_name_is_there():
    promised = {
        "LRP", "explain", "Relevance", "Ledger", "Composite", "rule", "quantize", "paper", "released", "original",
        "epsilon", "gamma", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat",
    }  # fmt: skip
    assert promised <= set(relprop.__all__)
    for name in relprop.__all__:
        value = getattr(relprop, name)
        assert value.__doc__, f"{name} has no docstring"
        assert value.__module__.startswith("relprop.")
    assert relprop.__version__[0].isdigit()
    assert promised <= set(dir(relprop))
    with pytest.raises(AttributeError, match="no attribute 'explane'"):
        getattr(relprop, "explane")  # noqa: B009 - spelled out
