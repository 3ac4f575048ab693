"""The small network that tests of the core share, and its explanation; a check that all files start quickly."""

from __future__ import annotations

import sys

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


@pytest.fixture(autouse=True)
def _no_compiler():
    """Or a file would take two seconds more by itself; `test_imports` says the same of what files name."""
    before = "torch._dynamo" in sys.modules
    yield
    assert before or "torch._dynamo" not in sys.modules, "this test loads torch's compiler: move it to tests/compiler"
