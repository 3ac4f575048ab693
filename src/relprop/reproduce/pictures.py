"""Pictures for the figures: which ones, and what the network says of them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from relprop.data import Dataset, Sample, balanced
from relprop.errors import DataError, MissingDependencyError, RelpropError, UsageError
from relprop.metrics.forward import callable_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from relprop.models import LoadedModel
    from relprop.reproduce.setting import Setting


@dataclass(frozen=True)
class Shown:
    """A picture of a figure."""

    name: str  # of its class
    seen: Any  # the part of it that the network sees, PIL
    x: Tensor  # the network's input (1, C, H, W)
    label: int  # its class
    probability: float  # what the network gives that class


def show(sample: Sample, dataset: Dataset, loaded: LoadedModel, device: str) -> Shown:
    """Read a sample, and ask the network for the probability of its class.

    Raises:
        DataError: it cannot be read, or the network does not know its class.
    """
    picture = dataset.load(sample)
    x = loaded.preprocess(picture)[None].to(device)
    with torch.no_grad():
        scores = callable_model(loaded.model)(x)
    if sample.label >= scores.shape[1]:
        raise DataError(
            f"sample {sample.id} has label {sample.label}, and the model knows {scores.shape[1]} classes; take "
            "pictures of the classes that it was trained on"
        )
    probability = float(scores.softmax(1)[0, sample.label])
    name = class_name(sample.label, dataset, loaded)
    return Shown(name, loaded.preprocess.crop(picture), x, sample.label, probability)


def class_name(label: int, dataset: Dataset, loaded: LoadedModel) -> str:
    """Name of a class as it is read aloud: "Brandt Cormorant" for CUB's "023.Brandt_Cormorant"."""
    names = dataset.classes if dataset.classes is not None and label < len(dataset.classes) else None
    raw = loaded.class_name(label) if names is None else names[label]
    return re.sub(r"^\d+\.", "", raw).replace("_", " ").split(",")[0].strip()


def with_files(dataset: Dataset, loaded: LoadedModel, names: Sequence[str]) -> Dataset:
    """Add the pictures among `names` that are files called by a class, such as the release's `qual/original/bee.png`.

    A file that is called by no class of this data set is left out: it may belong to another.
    """
    known = dataset.classes or loaded.classes or ()
    labels = {class_name(label, dataset, loaded).lower(): label for label in reversed(range(len(known)))}
    files = {name: Path(name) for name in names if Path(name).is_file() and _plain(Path(name).stem) in labels}
    if not files:
        return dataset
    added = tuple(Sample(name, labels[_plain(path.stem)]) for name, path in files.items())
    read = dataset.read
    return replace(
        dataset,
        samples=(*dataset.samples, *added),
        read=lambda sample: files[sample.id] if sample.id in files else read(sample),
    )


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


def choose(dataset: Dataset, loaded: LoadedModel, setting: Setting, wanted: Sequence[str] = ()) -> tuple[Sample, ...]:
    """Choose the pictures of a figure.

    `--images` names them; else they are of the classes `wanted`, those of the paper, if the data set has all of these,
    one each; else equally many of each class, by seed.

    Raises:
        UsageError: `--images` names neither a sample nor a class.
        DataError: fewer pictures than asked for.
    """
    seed = setting.seeds[0]
    by_class: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        by_class.setdefault(class_name(sample.label, dataset, loaded).lower(), []).append(sample)
    known = all(name.lower() in by_class for name in wanted)
    names = setting.images or (tuple(wanted) if known else ())
    if names:
        return tuple(_find(name, dataset, by_class, seed) for name in names)
    return balanced(dataset.samples, setting.samples, seed)


def _find(name: str, dataset: Dataset, by_class: dict[str, list[Sample]], seed: int) -> Sample:
    by_id = {sample.id: sample for sample in dataset.samples}
    by_file: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        for short in {Path(sample.id).name, Path(sample.id).stem}:
            by_file.setdefault(short, []).append(sample)
    if name in by_id or len(by_file.get(name, ())) == 1:
        return by_id.get(name) or by_file[name][0]
    members = by_class.get(_plain(name))
    if members is not None:
        return balanced(members, 1, seed)[0]
    near = difflib.get_close_matches(name.lower(), [*by_class, *by_id], n=3)
    hint = f"; near it: {', '.join(near)}" if near else f"; classes are {', '.join(list(by_class)[:5])}, ..."
    raise UsageError(
        f"--images: {dataset.name} has no sample and no class {name!r}, and no file called by a class is there{hint}"
    )


def explained(
    explainer: Callable[[Any, Tensor, Tensor], Tensor],
    post: Callable[[Tensor], Tensor],
    loaded: LoadedModel,
    shown: Sequence[Shown],
) -> list[Tensor | str]:
    """One map (H, W) of each picture for its label; where there can be none, the reason."""
    found: list[Tensor | str] = []
    for one in shown:
        try:
            heatmap = explainer(loaded.model, one.x, torch.tensor([one.label], device=one.x.device))
            finite = bool(heatmap.isfinite().all())
            found.append(post(heatmap)[0].cpu() if finite else "the map is not finite")
        except MissingDependencyError:
            raise
        except RelpropError as error:
            found.append(str(error))
    return found
