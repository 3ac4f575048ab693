"""A check that all files of the core's tests start quickly."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _no_compiler():
    """Or a file would take two seconds more by itself; `test_imports` says the same of what files name."""
    before = "torch._dynamo" in sys.modules
    yield
    assert before or "torch._dynamo" not in sys.modules, "this test loads torch's compiler: move it to tests/compiler"
