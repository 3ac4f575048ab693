"""The small network that tests of the core share, and its explanation."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny  # here, as it imports torch, which not every file needs

    return Tiny()


@pytest.fixture(scope="module")
def expected(tiny):
    import relprop
    from tiny import images

    return relprop.explain(tiny, images())
