"""Training itself, as a sequence of events.

`train` is a generator: it yields an event for every step and a row for every epoch, and whoever reads them draws
progress, or stops. After each epoch a checkpoint holds all there is to know, so that a run which is killed and started
again ends with the same weights, bit for bit on a CPU. Lightning Fabric brings devices, mixed precision and processes.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.errors import DataError, RunError, UsageError, require
from relprop.seeding import generator, mix
from relprop.training import state as states
from relprop.training.checkpoint import save_weights
from relprop.training.pictures import Pictures, hold_out, prepare
from relprop.training.schedules import SCHEDULES, Position, best_epoch, should_stop
from relprop.training.state import Event, Finished, Row, State, Step

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from relprop.data import Dataset
    from relprop.training.recipes import Recipe


@dataclass(frozen=True)
class _Job:
    """What stays the same throughout a run."""

    recipe: Recipe
    seed: int
    pictures: Pictures
    fabric: Any  # lightning_fabric.Fabric, which is not imported before it is needed


def train(
    recipe: Recipe, dataset: Dataset, out: Path, *, seed: int, device: str = "auto", devices: int = 1, workers: int = 0
) -> Iterator[Event]:
    """Train by `recipe` on `dataset`, or go on with what `out` holds of the same run.

    Writes to `out`: a checkpoint and `metrics.jsonl` after each epoch, and at the end `model.safetensors`. Of several
    processes the first alone yields events and writes.

    Args:
        recipe: all that decides the outcome, data and seed apart.
        dataset: `recipe.holdout` of its pictures serve validation alone.
        out: folder of this run and no other.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many; more than one starts as many processes, or joins those that torchrun started.
        workers: processes that decode pictures, where the recipe decodes them each time.

    Raises:
        RunError: `out` holds another run, or the loss is no longer a number.
        DataError: too few pictures.
        ModelError: the network or its first weights cannot be had.
        UsageError: no such device here.
    """
    fabric = _fabric(device, devices, recipe.precision)
    events = _train(_Job(recipe, seed, prepare(dataset, recipe, workers), fabric), dataset, out)
    if fabric.is_global_zero:
        yield from events
    else:
        for _ in events:
            pass


def _fabric(device: str, devices: int, precision: str) -> Any:
    """Make what places tensors, casts and talks to other processes."""
    lightning = require("lightning_fabric", "train")
    strategy = "ddp" if devices > 1 else "auto"
    try:
        fabric = lightning.Fabric(accelerator=device, devices=devices, strategy=strategy, precision=precision)
    except (RuntimeError, ValueError) as error:  # its own errors are subclasses of these
        raise UsageError(f"cannot train on {devices} x {device!r}: {error}") from None
    fabric.launch()
    return fabric


def _train(job: _Job, dataset: Dataset, out: Path) -> Iterator[Event]:
    recipe, fabric = job.recipe, job.fabric
    trained, held = hold_out(job.pictures.labels, recipe.holdout, job.seed, recipe.holdout_by)
    _check_sizes(recipe, len(trained), len(held), fabric.world_size)
    classes = _classes(recipe, dataset)
    who = states.identity(recipe, dataset, job.seed)
    state = states.start(recipe, len(classes), job.seed)
    states.resume(state, out, who)
    module, state.optimizer = fabric.setup(state.model, state.optimizer)
    state.judged.to(fabric.device)
    while len(state.rows) < recipe.epochs and not should_stop(state.losses, recipe.patience):
        began = time.perf_counter()
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            totals = yield from _epoch(job, state, module, trained)
            draw = mix(job.seed, 4, len(state.rows)) if recipe.validate == "augmented" else None
            validation = evaluate(fabric, state.judged, job.pictures, held, recipe, draw)
        row = _row(state, totals, validation, time.perf_counter() - began)
        state.add(row, recipe.keep)
        if fabric.is_global_zero:
            states.write(state, out, who)
        fabric.barrier()
        yield row
    best = recipe.keep == "best"
    if fabric.is_global_zero:
        tensors = state.best if best else state.judged.state_dict()
        save_weights(out / "model.safetensors", tensors, recipe, classes, job.seed)
    fabric.barrier()
    kept = best_epoch(state.losses) if best else len(state.rows) - 1
    yield Finished(tuple(state.rows), kept, out / "model.safetensors")


def _epoch(job: _Job, state: State, module: nn.Module, trained: Tensor) -> Generator[Step, None, Tensor]:
    """Make one pass over the pictures at `trained`; returns the sums of loss, right answers and pictures."""
    recipe, fabric, epoch = job.recipe, job.fabric, len(state.rows)
    schedule = SCHEDULES.build(recipe.schedule)
    batches = _batches(trained, recipe.batch, generator(job.seed, 1, epoch))
    parts = [part for batch in batches for part in _share(batch, recipe.accumulate, fabric)]
    drawn = job.pictures.draw(parts, mix(job.seed, 2, epoch))
    totals = torch.zeros(3, dtype=torch.float64)
    module.train()
    for step in range(len(batches)):
        at = Position(epoch + step / len(batches), recipe.epochs, state.losses)
        rate = max(recipe.floor, recipe.lr * schedule(at))
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        sums = torch.zeros(3, dtype=torch.float64)
        for part in range(recipe.accumulate):
            with fabric.no_backward_sync(module, enabled=part < recipe.accumulate - 1):
                sums += _backward(job, module, next(drawn), mix(job.seed, 3, epoch, step, part, fabric.global_rank))
        sums = _over_all(fabric, sums)
        if not math.isfinite(sums[0].item()):
            raise RunError(
                f"the loss is {sums[0].item()} at step {step} of epoch {epoch}, at learning rate {rate:.2g}: training "
                "diverged. Set a smaller lr, or a longer warm-up; the checkpoint of the epoch before is kept"
            )
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.average is not None:
            state.average.update_parameters(state.model)
        totals += sums
        yield Step(epoch, step, len(batches), int(sums[2]), (sums[0] / sums[2]).item())
    return totals


def _backward(job: _Job, module: nn.Module, batch: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """Add the gradient of one part of a batch; returns its sums of loss, right answers and pictures."""
    recipe, fabric = job.recipe, job.fabric
    x, y = (tensor.to(fabric.device) for tensor in batch)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(seed)  # for dropout and the like
        logits = module(normalize(x, recipe))
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        fabric.backward(loss / recipe.accumulate)
    return torch.tensor([loss.item() * len(y), (logits.argmax(1) == y).sum().item(), len(y)], dtype=torch.float64)


def evaluate(
    fabric: Any, model: nn.Module, pictures: Pictures, indices: Tensor, recipe: Recipe, seed: int | None = None
) -> tuple[float, float] | None:
    """Return mean cross entropy and accuracy on the pictures at `indices`, or None where there are none.

    With a `seed` they are changed at random like those of training; else they are centred.
    """
    if not len(indices):
        return None
    batches = torch.split(indices, recipe.batch)[fabric.global_rank :: fabric.world_size]
    sums = torch.zeros(3, dtype=torch.float64)
    training = model.training
    model.eval()
    with torch.inference_mode(), fabric.autocast():
        for x, y in pictures.draw(batches, seed):
            logits = model(normalize(x.to(fabric.device), recipe)).float().cpu()
            loss = F.cross_entropy(logits, y, reduction="sum").item()
            sums += torch.tensor([loss, (logits.argmax(1) == y).sum().item(), len(y)], dtype=torch.float64)
    model.train(training)
    loss_sum, right, count = _over_all(fabric, sums).tolist()
    return loss_sum / count, right / count


def normalize(x: Tensor, recipe: Recipe) -> Tensor:
    """(x / 255 - mean) / std for each colour: uint8 (N, 3, H, W) to float32, in the recipe's memory layout."""
    mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return ((x.float() / 255 - mean) / std).contiguous(memory_format=layout)


def _batches(indices: Tensor, size: int, draw: torch.Generator) -> list[Tensor]:
    """Shuffle and split into batches; what does not fill the last one waits for another epoch."""
    order = indices[torch.randperm(len(indices), generator=draw)]
    return [batch for batch in torch.split(order, size) if len(batch) == size]


def _share(batch: Tensor, accumulate: int, fabric: Any) -> Sequence[Tensor]:
    """Return this process's share of a batch, in `accumulate` equal parts."""
    return batch.view(accumulate, fabric.world_size, -1)[:, fabric.global_rank].unbind()


def _over_all(fabric: Any, sums: Tensor) -> Tensor:
    """Add up over all processes."""
    if fabric.world_size == 1:
        return sums
    added: Tensor = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum").cpu()
    return added


def _classes(recipe: Recipe, dataset: Dataset) -> Sequence[str]:
    """Names of the classes: the data's, else the recipe's, else numbers."""
    labels = 1 + max(sample.label for sample in dataset.samples)
    names = dataset.classes or recipe.classes or tuple(map(str, range(labels)))
    if labels > len(names):
        raise DataError(f"{dataset.name} has labels up to {labels - 1}, but there are {len(names)} names of classes")
    return names


def _check_sizes(recipe: Recipe, trained: int, held: int, world: int) -> None:
    if trained < recipe.batch:
        raise DataError(f"{trained} pictures are left to train on, fewer than a batch of {recipe.batch}; set batch=...")
    if recipe.holdout and not held:
        raise DataError(
            f"holdout={recipe.holdout} of so few pictures a class rounds to none; set a larger share, or holdout=0, "
            "patience=none, keep=last and another schedule than plateau"
        )
    if recipe.batch % (recipe.accumulate * world):
        raise DataError(
            f"a batch of {recipe.batch} cannot be shared equally by {world} devices in {recipe.accumulate} parts each; "
            f"set batch to a multiple of {world * recipe.accumulate}"
        )


def _row(state: State, totals: Tensor, validation: tuple[float, float] | None, seconds: float) -> Row:
    loss, right, count = totals.tolist()
    lr = float(state.optimizer.param_groups[0]["lr"])
    val_loss, val_accuracy = validation or (None, None)
    return Row(len(state.rows), lr, loss / count, right / count, val_loss, val_accuracy, seconds, count / seconds)
