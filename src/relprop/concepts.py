"""What the channels of a layer stand for: the pictures of a data set that excite each most, or are most relevant.

    references = find_references(loaded, dataset, "layer4.1", Path("concepts"))
    references.most("relevance", channel=17)    # samples, most relevant first

A channel's activation in a picture is the sum of its values over positions, and its relevance is that of
`Relevance.channels` for the class that the model predicts, with whose probability relevance starts.
Source: activation and relevance maximisation, Achtibat et al. 2023 (arXiv 2206.03208).

    RUN/manifest.json              what the numbers depend on; written first
    RUN/shards/00012.safetensors   activation and relevance (n, C), predicted (n,) of the twelfth batch of samples

A shard appears whole or not at all, and depends on the manifest and its number alone, so that a run may be killed at
any moment: the same call goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import relprop
from relprop.core.composites.presets import COMPOSITES
from relprop.core.lrp import LRP
from relprop.data import balanced
from relprop.documents import read_object
from relprop.errors import RunError, UsageError
from relprop.files import write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relprop.core.result.relevance import Relevance
    from relprop.data import Dataset, Sample
    from relprop.models import LoadedModel

By = Literal["relevance", "activation"]
_MANIFEST, _SHARDS = "manifest.json", "shards"


@dataclass(frozen=True, eq=False)
class References:
    """Activation and relevance of every channel of a layer in every sample.

    Attributes:
        layer: its name.
        samples: S of them.
        relevance: (S, C) for the predicted class.
        activation: (S, C).
        predicted: (S,) the class that the model predicts.
    """

    layer: str
    samples: tuple[Sample, ...]
    relevance: Tensor
    activation: Tensor
    predicted: Tensor

    def most(self, by: By, channel: int, count: int = 8) -> list[tuple[Sample, float]]:
        """The samples with most relevance or activation of a channel, and how much; of equal ones the first.

        Raises:
            UsageError: there is no such channel, or nothing of that name.
        """
        if by not in ("relevance", "activation"):
            raise UsageError(f"reference images are chosen by relevance or activation, not by {by!r}")
        values = self.relevance if by == "relevance" else self.activation
        if not 0 <= channel < values.shape[1]:
            raise UsageError(f"{self.layer!r} has no channel {channel}; channels are 0 to {values.shape[1] - 1}")
        ranked, indices = values[:, channel].sort(descending=True, stable=True)
        return [
            (self.samples[at], value)
            for at, value in zip(indices[:count].tolist(), ranked[:count].tolist(), strict=True)
        ]

    def of_class(self, index: int) -> tuple[Tensor, Sample]:
        """Mean relevance (C,) of the channels where a class is predicted, and the sample with most relevance of it.

        Raises:
            UsageError: the model predicts it for no sample.
        """
        where = (self.predicted == index).nonzero()[:, 0]
        if not len(where):
            raise UsageError(f"the model predicts class {index} for none of the {len(self.samples)} samples")
        rows = self.relevance[where].double()
        return rows.mean(0), self.samples[int(where[rows.sum(1).argmax()])]


@dataclass(frozen=True, eq=False)
class _Run:
    """A run folder, and what its numbers depend on."""

    root: Path
    samples: tuple[Sample, ...]
    batch: int

    @cached_property
    def chunks(self) -> list[tuple[Sample, ...]]:
        return [self.samples[at : at + self.batch] for at in range(0, len(self.samples), self.batch)]

    def shard(self, number: int) -> Path:
        return self.root / _SHARDS / f"{number:05d}.safetensors"

    def read(self, number: int) -> dict[str, Tensor] | None:
        """What a shard holds; None where it is not there, or is not what it must be."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            found = load(self.shard(number).read_bytes())
        except (OSError, ValueError, SafetensorError):
            return None
        whole = {"relevance", "activation", "predicted"} == found.keys()
        return found if whole and all(len(value) == len(self.chunks[number]) for value in found.values()) else None

    def begin(self, document: dict[str, Any]) -> None:
        """Write the manifest, or refuse a folder that holds another run."""
        path = self.root / _MANIFEST
        if not path.exists():
            if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
                raise RunError(f"{self.root} is there and is no run of relprop concepts; choose an empty or a new one")
            write_json(path, document)
            return
        known = read_object(path, RunError)
        differs = [
            f"{key} was {known.get(key)}, is {value}" for key, value in document.items() if known.get(key) != value
        ]
        if differs:
            raise RunError(f"{self.root} holds another run ({'; '.join(differs)}); choose another folder")


def find_references(
    loaded: LoadedModel,
    dataset: Dataset,
    layer: str,
    root: Path,
    *,
    composite: str = "paper",
    samples: int | None = None,
    seed: int = 0,
    batch: int = 16,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda images: None,
) -> References:
    """Explain every sample of a data set, and keep what each channel of a layer had of it.

    Args:
        loaded: the model.
        dataset: labelled pictures; the labels take no part.
        layer: its name.
        root: run folder, made if absent; of a run that was broken off, what is missing is computed.
        composite: spec of the rules.
        samples: how many of the data set, equally many of each class; None for all.
        seed: of their choice.
        batch: samples explained, and stored, together.
        device: where the model is.
        progress: called with how many samples are done, a batch at a time.

    Raises:
        RunError: the folder holds another run, or something else.
        UsageError: there is no such layer, or it has no channels.
        DataError: a picture cannot be read.
    """
    run = _Run(root, balanced(dataset.samples, samples, seed), batch)
    lrp = LRP(loaded.model, COMPOSITES.build(composite), keep=[layer], ledger=False)
    if not (root / _MANIFEST).exists():  # a layer that there is not must not begin a run
        _measure(lrp, layer, loaded.preprocess(dataset.load(run.samples[0]))[None].to(device))
    run.begin(_document(loaded, run, layer, composite))
    found = []
    for number, chunk in enumerate(run.chunks):
        known = run.read(number)
        if known is None:
            x = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in chunk]).to(device)
            known = _measure(lrp, layer, x)
            from safetensors.torch import save

            write_bytes(run.shard(number), save(known))
        found.append(known)
        progress(len(chunk))
    columns = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    return References(layer, run.samples, **columns)


def _measure(lrp: LRP, layer: str, x: Tensor) -> dict[str, Tensor]:
    """Relevance and activation (n, C) of the channels, and the predicted class (n,), of a batch."""
    result = lrp(x)
    activation = lrp.activation(x, layer)
    summed = activation.flatten(2).sum(2) if activation.dim() > 2 else activation
    found = {"relevance": channels_of(result, layer), "activation": summed, "predicted": result.target}
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def channels_of(result: Relevance, layer: str) -> Tensor:
    """(N, C) relevance of the channels of a layer, "NAME@input" included."""
    name = layer.removesuffix("@input")
    return result.channels(name, "output" if name == layer else "input")


def _document(loaded: LoadedModel, run: _Run, layer: str, composite: str) -> dict[str, Any]:
    """All that the numbers of a run depend on."""
    from relprop.evaluation.setup import digest, version, weights_digest

    return {
        "kind": "concepts",
        "model": loaded.name,
        "weights": weights_digest(loaded.model),
        "preprocess": repr(loaded.preprocess),
        "layer": layer,
        "composite": composite,
        "samples": digest(sample.id.encode() for sample in run.samples),
        "batch": run.batch,
        "versions": {name: version(name) for name in ("relprop", "torch", "torchvision", "pillow")},
    }


@dataclass(frozen=True, eq=False)
class Concept:
    """One channel, as an explanation shows it.

    Attributes:
        channel: its number.
        relevance: what it has of the score.
        share: of the relevance of all channels.
        heatmap: (H, W) what of the map goes through it.
        references: samples of the data set, first those with most, and how much they have.
    """

    channel: int
    relevance: float
    share: float
    heatmap: Tensor
    references: tuple[tuple[Sample, float], ...]


def concepts_of(
    lrp: relprop.LRP,
    x: Tensor,
    target: int | None,
    references: References,
    *,
    channels: Sequence[int] | None = None,
    count: int = 10,
    by: By = "relevance",
    shown: int = 8,
) -> tuple[Relevance, tuple[Concept, ...]]:
    """The most relevant channels of a layer for one picture.

    Args:
        lrp: of the model; it keeps the layer of `references`.
        x: (1, C, H, W).
        target: the class; None for the predicted one.
        references: of the layer.
        channels: those to show; by default the `count` most relevant ones.
        count: how many.
        by: what reference images are chosen by.
        shown: how many of them.

    Returns:
        The whole explanation, and the channels, each with its conditional map.
    """
    layer = references.layer
    whole: Relevance = lrp(x, None if target is None else [target])
    relevance = channels_of(whole, layer)[0]
    chosen = (
        list(channels) if channels is not None else relevance.argsort(descending=True, stable=True)[:count].tolist()
    )
    parts: Relevance = lrp(x, whole.target, through=[{layer: [channel]} for channel in chosen])
    total = float(relevance.double().sum())
    found = tuple(
        Concept(
            channel,
            float(relevance[channel]),
            float(relevance[channel]) / total if total else 0.0,
            parts.heatmap[0, at].detach().cpu(),
            tuple(references.most(by, channel, shown)),
        )
        for at, channel in enumerate(chosen)
    )
    return whole, found
