"""The small network that tests of the core share, and its explanation."""

from __future__ import annotations

import pytest

import relprop
from tiny import Tiny, images


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


@pytest.fixture(scope="module")
def expected(tiny):
    return relprop.explain(tiny, images())
