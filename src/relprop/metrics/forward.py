"""Many forward passes: as large a batch as fits, on the model's own device, in its own mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relprop.core.capture import last_step, require_evaluation_mode
from relprop.core.targets.start import probabilities_of, read_target, require_scores
from relprop.shortage import is_out_of_memory

_VALUES, _VALUES_ELSEWHERE = 1 << 17, 1 << 25  # input values at once: a CPU wants its caches, others want to be filled


@dataclass(frozen=True)
class Forward:
    """How to run a model."""

    amp: bool = False  # compute in bfloat16 where torch's autocast allows it; scores are read in float32 all the same
    # hand pictures over in channels-last memory. None does where it is the faster layout: on processors (1.5 times for
    # ResNet-20, 1.6 for EfficientNet-Lite0), and in bfloat16
    channels_last: bool | None = None
    batch: int | None = None  # pictures at once; None finds out, and any number is halved where memory runs out

    def scores(
        self,
        model: Any,
        pictures: Callable[[int, int], Tensor],
        classes: Tensor,
        like: Tensor,
        *,
        logit: bool = False,
    ) -> Tensor:
        """Score of a class for each of many pictures: its probability, or its logit. (J,) float32.

        Args:
            model: in evaluation mode, returns (N, classes).
            pictures: (start, stop) -> (stop - start, C, H, W), made when needed.
            classes: (J,) int64.
            like: an input (N, C, H, W).
            logit: before the softmax.

        Raises:
            TargetError: a class that the model does not have.
            InputError: the model does not return (N, classes).
        """
        model = callable_model(model)
        end = last_step(model, like[:1])
        last = (self.amp or like.device.type == "cpu") if self.channels_last is None else self.channels_last

        def compute(start: int, stop: int) -> Tensor:
            images = pictures(start, stop)
            output = model(images.contiguous(memory_format=torch.channels_last) if last else images)
            if start == 0:
                read_target(classes, require_scores(output)[:1].expand(len(classes), -1))
            output = output.float()
            values: Tensor = output if logit else probabilities_of(output, end)
            return values.gather(1, classes[start:stop, None])[:, 0]

        with torch.no_grad(), torch.autocast(like.device.type, torch.bfloat16, enabled=self.amp):
            return in_batches(compute, len(classes), self.batch or first_guess(like))


def first_guess(like: Tensor) -> int:
    """A batch size to begin with, for pictures such as these (N, C, H, W)."""
    values = like[0].numel()
    if like.device.type == "cpu":  # measured on ResNets: fastest at 32 pictures of 32 px, at 4 of 224 px
        return 1 << max(2, (_VALUES // values).bit_length() - 1)
    return max(1, min(4096, _VALUES_ELSEWHERE // values))


def in_batches(compute: Callable[[int, int], Tensor], total: int, batch: int) -> Tensor:
    """Concatenate compute(start, stop) over all of `total`, in batches that are halved when memory runs out."""
    parts: list[Tensor] = []
    start = 0
    while start < total:
        stop = min(start + batch, total)
        try:
            parts.append(compute(start, stop))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
        else:
            start = stop
            continue
        batch = (min(batch, stop - start) + 1) // 2  # outside the handler, whose traceback holds on to the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return torch.cat(parts)


def callable_model(model: Any) -> Any:
    """The model as something to call.

    Raises:
        CaptureError: it is in training mode, where batches change the scores and the scores change the model.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if isinstance(model, torch.nn.Module) and not isinstance(model, torch.fx.GraphModule):
        require_evaluation_mode(model)
    return model
