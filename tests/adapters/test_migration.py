"""Before and after, as docs/howto/migration.md tells it: each snippet of another library runs, and so does ours."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_networks import Residual, images

import relprop

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "migration.md").read_text(encoding="utf-8")
LIBRARIES = {"captum": "captum", "zennit": "zennit", "torchcam": "torchcam", "pytorch-grad-cam": "pytorch_grad_cam"}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def run(code: str, names: dict[str, object]) -> dict[str, object]:
    exec(compile(code, "docs/howto/migration.md", "exec"), names)
    return names


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """What the page takes for granted: a model, a picture, an input."""
    monkeypatch.chdir(tmp_path)
    return run(blocks("python", PAGE.split("\n## ")[0])[0], {"__name__": "page"})


@pytest.mark.parametrize("title", [*LIBRARIES, "Quantus"])
def test_after(title, mine):
    (after,) = blocks("python", section(title))
    run(after, mine)


@pytest.mark.parametrize("title", LIBRARIES)
def test_before(title, mine):
    pytest.importorskip(LIBRARIES[title])
    (before,) = blocks("py", section(title))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(before, mine)
    assert LIBRARIES[title] in before
    if title == "torchcam":
        assert (Path("before") / "manifest.json").is_file()
    if title == "zennit":
        assert mine["relevance"].shape == (1, 3, 64, 64)
    if title == "pytorch-grad-cam":
        assert mine["picture"].shape == (64, 64, 3)


def test_targets_of_pytorch_grad_cam_are_taken_as_they_are():
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x = Residual(), images(2)
    lrp = relprop.LRP(model)
    found = lrp(x, [targets.ClassifierOutputTarget(1), targets.ClassifierOutputTarget(4)])
    assert torch.equal(found.relevance, lrp(x, [1, 4], start="logit").relevance)
    assert found.what == "ClassifierOutputTarget"
    segmenter = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1)
    ).eval()
    mask = np.zeros((8, 8), dtype=np.float32)
    mask[:2, :2] = 1
    found = relprop.explain(segmenter, x, [targets.SemanticSegmentationTarget(2, mask)] * 2)
    torch.testing.assert_close(found.score, segmenter(x)[:, 2, :2, :2].sum((1, 2)).detach())
    ours = relprop.explain(segmenter, x, relprop.targets.Mask(2, mask > 0), start="logit")
    torch.testing.assert_close(found.relevance, 4 * ours.relevance)


def test_adapters_are_found_by_name():
    assert relprop.adapters.zennit.Attributor is not None
    with pytest.raises(AttributeError, match=r"no attribute 'keras'; there are captum, quantus, torchcam, zennit"):
        getattr(relprop.adapters, "keras")  # noqa: B009
