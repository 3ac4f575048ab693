"""Data sets: labelled pictures with stable names, read one at a time."""

from relprop.data import cifar10, cub, folder, imagenet, parquet  # noqa: F401  (each registers its kind)
from relprop.data.dataset import DATASETS, Dataset, Opener, Part, Sample, balanced, open_dataset

__all__ = ["DATASETS", "Dataset", "Opener", "Part", "Sample", "balanced", "open_dataset"]
