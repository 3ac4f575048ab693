"""The page that compares libraries shows the code that benchmarks/comparison.py ran, and counts its lines."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "measured" / "comparison.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def comparison():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import comparison
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return comparison


def test_the_code_of_the_page_is_the_code_that_ran(comparison):
    shown = dict(re.findall(r"^### (.+?)\n\n```py\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))
    assert shown == {name: textwrap.dedent(comparison.code(name)) for name in comparison.MAKERS}


def test_the_lines_of_the_page_are_those_counted(comparison):
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \|", PAGE, flags=re.MULTILINE)
    assert {name: int(count) for name, count in rows} == {name: comparison.lines(name) for name in comparison.MAKERS}
    assert comparison.lines("relprop LRP") == 3  # import, make, call: by hand


class Small(nn.Module):
    """Names of torchvision's ResNet, and a join."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.conv1(x)
        return self.fc((y + self.layer4(y)).mean((2, 3)))


@pytest.mark.parametrize("name", ["relprop LRP", "relprop lrp-cuts"])
def test_the_gap_is_that_of_the_sum_to_what_the_map_should_sum_to(comparison, name):
    model, x = Small().eval().requires_grad_(False), torch.rand(1, 3, 16, 16)
    y = model(x)[0].double()
    target = y.argmax()[None]
    found = comparison.as_map(comparison.MAKERS[name](model, x, target)())
    claim = comparison.CLAIMS[name](y, y, int(target))
    assert float(claim) == pytest.approx(float(y.softmax(0).max()))
    assert float(found.double().sum()) == pytest.approx(float(claim), rel=1e-5)


def test_a_gradient_claims_no_sum(comparison):
    assert not set(comparison.CLAIMS) & {"gradient", "pytorch-grad-cam Grad-CAM", "torchcam Grad-CAM"}
