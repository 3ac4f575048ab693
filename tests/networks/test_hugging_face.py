"""A classifier of Hugging Face, whose scores are in an object."""

from __future__ import annotations

import pytest
import torch

import relprop


@pytest.mark.slow  # importing it takes longer than all else; an output like its own is in `test_output_targets`
def test_a_model_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    model = transformers.ResNetForImageClassification(config).eval()
    result = relprop.LRP(model, strict=True)(torch.randn(2, 3, 32, 32), [1, 2])
    assert result.relevance.shape == (2, 3, 32, 32)
    assert result.heatmap.sum((1, 2)).tolist() == pytest.approx(result.score.tolist(), rel=1e-5)
