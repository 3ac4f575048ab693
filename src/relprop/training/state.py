"""What happens while a network is trained, as values, and where a run stands: all that a checkpoint must hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim import swa_utils

from relprop.errors import RunError
from relprop.files import write_bytes
from relprop.training import checkpoint
from relprop.training.networks import build_network
from relprop.training.schedules import best_epoch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from relprop.data import Dataset
    from relprop.training.recipes import Recipe


@dataclass(frozen=True)
class Step:
    """An optimizer step: number `step` of `steps` in this epoch, on `pictures` pictures; `loss` is their mean."""

    epoch: int
    step: int
    steps: int
    pictures: int
    loss: float


@dataclass(frozen=True)
class Row:
    """An epoch, as a line of the metrics file. Losses are mean cross entropies, accuracies in [0, 1]."""

    epoch: int  # from 0
    lr: float  # learning rate of its last step
    train_loss: float  # over the epoch, while the weights changed
    train_accuracy: float  # likewise
    val_loss: float | None  # on the pictures held out, after the epoch; None where none are
    val_accuracy: float | None  # likewise
    seconds: float  # it took, validation included
    pictures_per_second: float  # training pictures over these seconds


@dataclass(frozen=True)
class Finished:
    """The run is complete: its rows, the epoch (from 0) whose weights were kept, and the file that holds them."""

    rows: tuple[Row, ...]
    kept: int
    weights: Path


Event = Step | Row | Finished


@dataclass
class State:
    """The one mutable thing in training."""

    model: nn.Module  # the weights that the optimizer changes
    optimizer: torch.optim.Optimizer  # with its momenta
    average: swa_utils.AveragedModel | None  # moving average of the weights, where the recipe wants one
    rows: list[Row] = field(default_factory=list)  # one for each epoch that is done
    # weights of the best epoch so far, where the recipe keeps the best
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def judged(self) -> nn.Module:
        """The weights that are evaluated and kept: the average, where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def losses(self) -> tuple[float, ...]:
        """Validation loss of each epoch that is done."""
        return tuple(row.val_loss for row in self.rows if row.val_loss is not None)

    def add(self, row: Row, keep: str) -> None:
        """Note an epoch; with `keep` "best", remember its weights if it is the best so far."""
        self.rows.append(row)
        if keep == "best" and best_epoch(self.losses) == len(self.rows) - 1:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.judged.state_dict().items()}


def start(recipe: Recipe, num_classes: int, seed: int) -> State:
    """Build the network, its optimizer and its moving average, before the first step."""
    model = build_network(recipe, num_classes, seed)
    if recipe.channels_last:
        model = cast("Any", model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )
    average = None
    if recipe.ema:
        average = swa_utils.AveragedModel(model, avg_fn=_decay(recipe.ema), use_buffers=True)
    return State(model, optimizer, average)


def _decay(ema: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Make a moving average with decay min(ema, (1 + n) / (10 + n)) at step n, so that it soon forgets the start."""

    def average(old: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        if not old.is_floating_point():
            return new  # batch norm's counter
        decay = min(ema, (1 + int(n)) / (10 + int(n)))
        return old.lerp(new, 1 - decay)

    return average


def identity(recipe: Recipe, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Return what makes a run this run and no other: recipe, seed, and the names and labels of the pictures."""
    text = json.dumps([[sample.id, sample.label] for sample in dataset.samples])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return {"recipe": recipe.to_json(), "seed": seed, "data": f"{len(dataset)} pictures, digest {digest}"}


def write(state: State, out: Path, who: dict[str, Any]) -> None:
    """Write a checkpoint and the metrics file."""
    tensors, plain = checkpoint.pack_optimizer(state.optimizer)
    averaged = {} if state.average is None else state.average.state_dict()
    for prefix, members in (("model", state.model.state_dict()), ("average", averaged), ("best", state.best)):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in members.items()}
    rows = [dataclasses.asdict(row) for row in state.rows]
    checkpoint.save_checkpoint(out, len(rows), tensors, {**who, "optimizer": plain, "rows": rows})
    write_bytes(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def resume(state: State, out: Path, who: dict[str, Any]) -> None:
    """Bring a fresh state to where the checkpoint under `out` stands, if there is one.

    Raises:
        RunError: the checkpoint is damaged, or of another run.
    """
    found = checkpoint.load_checkpoint(out)
    if found is None:
        return
    tensors, facts = found
    try:
        changed = _differences(facts, who)
        if not changed:
            _take_over(state, tensors, facts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint under {out} does not fit what it says of itself ({type(error).__name__}: {error}); choose "
            "another folder, or clear it (--fresh)"
        ) from None
    if changed:
        raise RunError(f"{out} holds another run: {'; '.join(changed)}. Choose another folder, or clear it (--fresh)")


def _take_over(state: State, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    state.model.load_state_dict(checkpoint.below(tensors, "model"))
    if state.average is not None:
        state.average.load_state_dict(checkpoint.below(tensors, "average"))
    checkpoint.unpack_optimizer(state.optimizer, tensors, facts["optimizer"])
    state.best = checkpoint.below(tensors, "best")
    if any(type(value) not in (int, float, type(None)) for row in facts["rows"] for value in row.values()):
        raise TypeError("its rows hold other things than numbers")
    state.rows = [Row(**row) for row in facts["rows"]]


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    old, new = ({**who["recipe"], "seed": who["seed"], "data": who["data"]} for who in (there, here))
    return [
        f"its {name} is {old.get(name)!r}, not {new.get(name)!r}"
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name)
    ]
