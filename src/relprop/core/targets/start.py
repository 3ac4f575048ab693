"""Which class (or other part of the output) to explain, and how much relevance it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relprop.core.targets.target import (
    Function,
    Given,
    OutputTarget,
    Scale,
    name_of,
    no_such_class,
    of_function,
    of_target,
    one_each,
    values_of,
)
from relprop.errors import CaptureError, InputError, TargetError, UsageError

Classes = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
Start = Scale | Tensor


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """A label of a multi-label model, which says yes or no to each class: σ(y_k), or y_k under start="logit".

    The output has to be (N, classes) logits. Of a model that ends in a sigmoid, or of Hugging Face's with
    `problem_type="multi_label_classification"`, that is known, and the class alone will do as target.

    Attributes:
        index: the class: None for the most probable one, an int, (N,), or (N, K) for K classes an image, which share
            the forward run and give relevance (N, K, C, H, W); (1, K) for the same K of all images.
    """

    index: Classes | None = None


Target = Classes | Sigmoid | OutputTarget | Function | Sequence[OutputTarget | Function] | None


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the backward pass starts with.

    Attributes:
        target: (N,) or (N, K) the classes; -1 where it is not the score of one class.
        columns: relevance of the output, in its shape, and its sum (N,), for each of the K targets (or the one).
        what: words for what is explained where that is not one class, else "".
        link: what makes probabilities of the output, "softmax" or "sigmoid".
    """

    target: Tensor
    columns: tuple[tuple[Tensor, Tensor], ...]
    what: str = ""
    link: str = "softmax"

    def repeated(self, count: int) -> Beginning:
        """The same for `count` maps of each image.

        Raises:
            UsageError: it is already for several targets an image.
        """
        if self.target.dim() != 1:
            raise UsageError(
                "several maps through channels are of one target an image; give one target, or name the channels of one"
            )
        return replace(self, target=self.target[:, None].repeat(1, count), columns=self.columns * count)


def begin(
    target: Target, output: Tensor, start: Start, link: str = "softmax", returned: Tensor | None = None
) -> Beginning:
    """Decide what of the output (N, ...) is explained, and with how much relevance it begins.

    A class begins with its probability (the paper) or its logit, at the class; elsewhere relevance is zero.

    `link` says what makes probabilities of the output: a "softmax" over classes, a "sigmoid" of each, or an "identity"
    where it holds them. Of a model that ends in a softmax or sigmoid, `output` is what comes before that step, and
    `returned` (N, ...) what the model returns, of which numbers and functions of the output are taken.

    Raises:
        TargetError: the output has no such part.
        CaptureError: a class is asked for, and the output is not (N, classes).
        UsageError: `start` is not one of the choices.
    """
    if isinstance(start, Tensor):
        if target is not None:
            raise UsageError("start is relevance of the whole output, so it goes without a target")
        target, start = Given(start), "logit"
    last = output if returned is None else returned
    if isinstance(target, OutputTarget):
        own = getattr(target, "link", link) if link == "softmax" else link
        return _other(of_target(target, output, last, start, link), str(target), own)
    if callable(target):
        return _other(of_function(target, last), name_of(target), link)
    if isinstance(target, Sequence) and any(callable(part) or isinstance(part, OutputTarget) for part in target):
        begun = one_each(target, output, last, start, link)
        return _other(begun, ", ".join(dict.fromkeys(map(name_of, target))), link)
    if isinstance(target, Sigmoid):
        target, link = target.index, "sigmoid"
    _require_classes(output, start, link)
    chosen = read_target(target, output, same_for_all=link == "sigmoid")
    values = values_of(output, start, link)
    columns = []
    for column in torch.split(chosen[:, None] if chosen.dim() == 1 else chosen, 1, 1):
        score = values.gather(1, column)
        columns.append((torch.zeros_like(output).scatter_(1, column, score), score[:, 0]))
    return Beginning(chosen, tuple(columns), link=link)


def _other(relevance: Tensor, what: str, link: str) -> Beginning:
    no_class = torch.full((len(relevance),), -1, device=relevance.device)
    return Beginning(no_class, ((relevance, relevance.reshape(len(relevance), -1).sum(1)),), what, link)


def _require_classes(output: Tensor, start: Start, link: str) -> None:
    """Refuse to read a class off an output that has none."""
    if output.dim() != 2:
        raise CaptureError(
            f"the model returns {tuple(output.shape)}; relprop explains an (N, classes) tensor of scores unless a "
            "target says what of it: relprop.targets.Value() for one number, Mask(class, mask) for a segmentation, or "
            "a function of the output; or wrap the model so that it returns scores"
        )
    if output.shape[1] == 1 and start == "probability" and link == "softmax":
        raise TargetError(
            "the model has one output, whose softmax is 1 whatever it says; explain it with relprop.targets.Binary() "
            "if it is the logit of yes or no, with relprop.targets.Value() if it is a number, or from its logit: "
            "start='logit'"
        )


def read_target(target: object, logits: Tensor, *, same_for_all: bool = False) -> Tensor:
    """The class to explain for each image, (N,) or (N, K) int64.

    Args:
        target: None for the predicted class, one class for all, or (N,) or (N, K) classes.
        logits: (N, classes).
        same_for_all: whether (1, K) classes are those of all images.

    Raises:
        TargetError: of another shape or type, or no class of this model.
    """
    count, classes = logits.shape
    if target is None:
        return logits.argmax(1)
    try:
        chosen = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        named = isinstance(target, str) or (isinstance(target, Sequence) and any(isinstance(t, str) for t in target))
        hint = "; a model knows no names: load_model(...).class_index(name) finds the index of one" if named else ""
        raise TargetError(
            f"target must be the index of a class, a list of them or an integer tensor, not {target!r}{hint}"
        ) from None
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise TargetError(f"target must hold whole class numbers, not {chosen.dtype}")
    if chosen.dim() == 0:
        chosen = chosen.expand(count)
    if same_for_all and chosen.dim() == 2 and len(chosen) == 1:
        chosen = chosen.expand(count, -1)
    if chosen.dim() > 2 or len(chosen) != count:
        raise TargetError(
            f"target has shape {tuple(chosen.shape)} for {count} image(s); give one class, ({count},), or ({count}, K)"
        )
    if chosen.numel() == 0:
        raise TargetError("target names no class at all")
    outside = chosen[(chosen < 0) | (chosen >= classes)]
    if outside.numel():
        raise no_such_class(int(outside[0]), classes)
    return chosen.long()


def require_scores(output: object) -> Tensor:
    """Return what a model returned, if that is scores (N, classes).

    Raises:
        InputError: it is anything else.
    """
    if isinstance(output, Tensor) and output.dim() == 2:
        return output
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InputError(f"the model must return scores (N, classes), not {found}: wrap it so that it does")


def link_of(link: str, output: Tensor) -> str:
    """What makes probabilities of an output, given `Graph.link`.

    An "identity" does of numbers from 0 to 1, of their logarithms the exponential ("log"), and of "shares" the identity
    where they sum to one; else a softmax.
    """
    if link not in ("identity", "shares"):
        return link
    low, high = (float(bound) for bound in output.detach().aminmax())
    within = low >= -_ROUNDING and high <= 1 + _ROUNDING
    if link == "shares" and within:
        within = output.dim() > 1 and bool(((output.sum(1) - 1).abs() <= _ROUNDING).all())
    return "identity" if within else "log" if link == "identity" and high <= _ROUNDING else "softmax"


#: probabilities that are added up may exceed 1 by rounding
_ROUNDING = 1e-5


def probabilities_of(output: Tensor, end: str) -> Tensor:
    """The probabilities in what a model returns, (N, classes), by its last step (`Graph.end`)."""
    if end in ("identity", "shares"):
        return values_of(output, "probability", link_of(end, output))
    if end in ("softmax", "_safe_softmax", "sigmoid"):
        return output
    return output.exp() if end in ("log_softmax", "log_sigmoid") else output.softmax(1)
