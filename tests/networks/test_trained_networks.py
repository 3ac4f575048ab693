"""Trained networks of others on pictures: every layer conserves."""

from __future__ import annotations

import pytest
import torch

from core_balance import explain_balanced

models = pytest.importorskip("relprop.models")


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", pytest.param("resnet56-4bfd9763.th", marks=pytest.mark.slow)])
def test_trained_cifar_networks(shared, name):
    depth = name[6:8]
    loaded = models.load_model(str(shared / "models" / name), arch=f"cifar-resnet{depth}")
    x = torch.stack([loaded.preprocess(picture) for picture in cifar_pictures(shared, 4)])
    result = explain_balanced(loaded.model, x, 1e-5)
    assert (result.score > 0.5).all()  # a trained network is sure of itself
    explain_balanced(loaded.model, x, 1e-5, split="symmetric", identity=False)
    explain_balanced(loaded.model.double(), x.double(), 1e-12)


def cifar_pictures(shared, count):
    import io

    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    from PIL import Image

    table = next(
        parquet.ParquetFile(shared / "data" / "cifar10" / "test.parquet").iter_batches(batch_size=count)
    ).to_pylist()
    pictures = [next(v for v in row.values() if isinstance(v, dict | bytes)) for row in table]
    return [Image.open(io.BytesIO(p["bytes"] if isinstance(p, dict) else p)).convert("RGB") for p in pictures]
