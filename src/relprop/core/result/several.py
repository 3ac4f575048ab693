"""Relevance of several inputs, which together sum to the score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.core.backward.ledger import Ledger
from relprop.core.result.relevance import Relevance
from relprop.core.result.stored import Stored, write_result
from relprop.errors import InputError, UsageError, require


@dataclass(frozen=True, eq=False)
class Relevances:
    """Relevance of each of several inputs.

        result = relprop.explain(model, (image, depth))
        result.relevance            # a tuple, as they were given; of a dict a dict
        result["depth"]             # a `Relevance` of one input, by its name or number

    Attributes:
        whole: relevance (N, total) of all inputs, one after the other; score, logits, ledger and kept layers are those
            of the one backward pass.
        names: of the inputs, in order.
        shapes: (C, H, W) of each.
        form: how they were given: "tuple" or "dict".
    """

    whole: Relevance
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    form: str = "tuple"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Relevance]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, which: int | str) -> Relevance:
        """Relevance of one input; its sum is that input's part of the score."""
        index = self.names.index(which) if which in self.names else which
        if not isinstance(index, int) or not -len(self) <= index < len(self):
            raise UsageError(f"there is no input {which!r}; there are {', '.join(self.names)}")
        return replace(self.whole, relevance=self._parts()[index])

    def _parts(self) -> list[Tensor]:
        columns = torch.split(self.whole.relevance, [shape.numel() for shape in self.shapes], -1)
        return [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(columns, self.shapes, strict=True)]

    def _formed(self, parts: list[Tensor]) -> Any:
        return dict(zip(self.names, parts, strict=True)) if self.form == "dict" else tuple(parts)

    @property
    def relevance(self) -> Any:
        """(N, ...) or (N, K, ...) of each input, in its shape: a tuple, or a dict where inputs were given by name."""
        return self._formed(self._parts())

    @property
    def heatmap(self) -> Any:
        """The same, summed over channels."""
        return self._formed([part.heatmap for part in self])

    @property
    def target(self) -> Tensor:
        """(N,) or (N, K), as `Relevance.target`."""
        return self.whole.target

    @property
    def score(self) -> Tensor:
        """(N,) or (N, K) what relevance of all inputs together sums to, less what is absorbed."""
        return self.whole.score

    @property
    def logits(self) -> Tensor:
        """What the model said, as `Relevance.logits`."""
        return self.whole.logits

    @property
    def ledger(self) -> Ledger | None:
        """Of the backward pass to all inputs."""
        return self.whole.ledger

    @property
    def what(self) -> str:
        """What was explained, as `Relevance.what`."""
        return self.whole.what

    @property
    def composite(self) -> str:
        """Name of the composite."""
        return self.whole.composite

    @property
    def probability(self) -> Tensor:
        """(N,) or (N, K), as `Relevance.probability`."""
        return self.whole.probability

    @property
    def totals(self) -> Tensor:
        """(N, inputs) or (N, K, inputs): how much of the score each input got, in float64."""
        sums = [part.double().flatten(self.target.dim()).sum(-1) for part in self._parts()]
        return torch.stack(sums, -1)

    def at(self, layer: str, side: str = "output") -> Tensor:
        """Relevance of a layer that was kept, as `Relevance.at`; "inputs.depth" is an input."""
        return self.whole.at(layer, side)

    def cpu(self) -> Relevances:
        """A copy in the computer's main memory, ledger apart."""
        return replace(self, whole=self.whole.cpu())

    def __repr__(self) -> str:
        pairs = zip(self.names, self.shapes, strict=True)
        shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in pairs)
        return f"Relevances of {shapes}: {self.whole!r}"

    def _repr_png_(self) -> bytes | None:
        picture: bytes | None = require("relprop.viz.notebook", "all").png(self)
        return picture

    def save(self, directory: str | Path) -> Path:
        """Write it into a directory, as `Relevance.save`; `Relevances.load` reads it."""
        inputs = {"names": list(self.names), "shapes": [list(shape) for shape in self.shapes], "form": self.form}
        return write_result(directory, self.whole.tensors(), {**self.whole.manifest(), "inputs": inputs})

    @classmethod
    def load(cls, directory: str | Path) -> Relevances:
        """Read what `save` wrote.

        Raises:
            InputError: there is no saved result of several inputs, or its parts do not fit one another.
        """
        stored = Stored(directory)
        if "inputs" not in stored.manifest:
            raise InputError(f"{directory} holds relevance of one input; read it with relprop.Relevance.load")
        whole = Relevance.of_stored(stored)
        inputs = stored.get("inputs", dict)
        names, shapes, form = (inputs.get(key) for key in ("names", "shapes", "form"))
        sizes = [size for shape in shapes if isinstance(shape, list) for size in shape] if _lists(names, shapes) else []
        if not _lists(names, shapes) or form not in ("tuple", "dict") or not all(type(size) is int for size in sizes):
            stored.refuse("its inputs have no names and shapes")
        found = tuple(map(torch.Size, shapes))
        total = whole.relevance.shape[-1]
        if len(names) != len(found) or sum(shape.numel() for shape in found) != total or min(sizes, default=1) < 1:
            stored.refuse(f"its inputs {shapes} do not make up the {total} numbers of a row of its relevance")
        return cls(whole, tuple(map(str, names)), found, form)


def _lists(*given: Any) -> bool:
    return all(isinstance(one, list) for one in given)
