"""What to explain of an output where it is not the score of one class.

A target says with how much relevance each value of the output begins; the backward pass conserves the sum. Besides the
targets below, any function of the output will do (`of_function`), and one function for each image (a list).

    relprop.explain(model, x, target=Contrast(281, 285))            # why this class rather than that one
    relprop.explain(model, x, target=Value())                       # regression: the number itself
    relprop.explain(model, x, target=Binary())                      # yes or no, from one logit
    relprop.explain(model, x, target=Mask(15, mask))                # a class over some pixels of a segmentation
    relprop.explain(model, x, target=Similarity(embedding))         # how alike x and something else are
    relprop.explain(model, x, target=Channel("layer4.1", 17))       # what excites a channel of an inner layer
    relprop.explain(model, x, target=lambda y: y[:, 3] - y[:, 5])   # a function of the output
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from relprop.core.graph.links import LINKS
from relprop.errors import TargetError, UsageError

Scale = Literal["probability", "logit"]
Function = Callable[[Tensor], Tensor]

# A function is taken to be worth what its gradient hands out if they differ by no more than this, relative.
_TOLERANCE = 1e-3


class OutputTarget(ABC):
    """A part of the output, or a combination of its values.

    Attributes:
        of_scores: of a model that ends in a softmax or sigmoid, whether it reads the scores before that step, and not
            the probabilities that the model returns. Relevance begins before that step either way.
    """

    of_scores: ClassVar[bool] = False

    @abstractmethod
    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """Map the output (N, ...) to the relevance that it begins with, in the same shape.

        Raises:
            TargetError: the output has no such part.
        """

    @abstractmethod
    def __str__(self) -> str:
        """What is explained, for captions and manifests."""


@dataclass(frozen=True)
class Contrast(OutputTarget):
    """One class against another: R_a = y_a and R_b = -y_b, so that relevance sums to the difference.

    Attributes:
        of: class a, for all images or one each.
        against: class b, likewise.
        link: what makes probabilities of the scores: "softmax", or "sigmoid" of a multi-label model. Of a model that
            ends in a sigmoid that is known.
    """

    of: int | Sequence[int]
    against: int | Sequence[int]
    link: str = "softmax"
    of_scores: ClassVar[bool] = True

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, classes) -> (N, classes)."""
        values = values_of(output, start, self.link)
        a, b = (_classes(chosen, output) for chosen in (self.of, self.against))
        if bool((a == b).any()):
            raise TargetError(f"a contrast needs two classes; {self} compares one with itself")
        begin = torch.zeros_like(values).scatter(1, a, values.gather(1, a))
        return begin.scatter(1, b, -values.gather(1, b))

    def __str__(self) -> str:
        return f"class {self.of} against {self.against}"


@dataclass(frozen=True)
class Channel(OutputTarget):
    """What excites a channel of an inner layer: relevance begins there, with the channel's values at all positions.

    It sums to the sum of these values, less what rules absorb below the layer.

    Attributes:
        layer: its name; "NAME@input" for what enters it.
        index: which, along the second axis of what leaves the layer.
    """

    layer: str
    index: int

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, channels, ...) -> the same shape; here `output` is what leaves the layer."""
        count = output.shape[1] if output.dim() > 1 else 0
        if not 0 <= self.index < count:
            raise TargetError(f"there is no channel {self.index} of {self.layer!r}; channels are 0 to {count - 1}")
        begin = torch.zeros_like(output)
        begin[:, self.index] = output[:, self.index]
        return begin

    def __str__(self) -> str:
        return f"channel {self.index} of {self.layer}"


@dataclass(frozen=True)
class Value(OutputTarget):
    """A number that the model predicts (regression), whatever `start` says: relevance sums to it.

    Attributes:
        index: which, of outputs (N, numbers); None for the only one, (N,) or (N, 1).
    """

    index: int | None = None

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N,) or (N, numbers) -> the same shape."""
        numbers = output.numel() // len(output)
        if self.index is None and numbers == 1:
            return output.clone()
        if self.index is None:
            raise TargetError(f"the model returns {numbers} numbers an image; say which to explain: Value(0)")
        column = _classes(self.index, output)
        return torch.zeros_like(output).scatter(1, column, output.gather(1, column))

    def __str__(self) -> str:
        return "the output" if self.index is None else f"output {self.index}"


@dataclass(frozen=True)
class Binary(OutputTarget):
    """Yes or no of a model with one logit y: sigmoid(y) for yes, 1 - sigmoid(y) for no; y or -y under start="logit".

    Attributes:
        yes: which of the two.
        link: "identity" of a model that returns the probability of yes; mostly that is known.
    """

    yes: bool = True
    link: str = "sigmoid"
    of_scores: ClassVar[bool] = True

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N,) or (N, 1) -> the same shape."""
        if output.numel() != len(output):
            raise TargetError(f"Binary explains a model with one output an image; this one has {tuple(output.shape)}")
        if self.link in ("identity", "log"):
            probability = values_of(output, "probability", self.link)
            return probability.clone() if self.yes else 1 - probability
        signed = output if self.yes else -output
        return signed.sigmoid() if read_scale(start) == "probability" else signed.clone()

    def __str__(self) -> str:
        return "yes" if self.yes else "no"


@dataclass(frozen=True, eq=False)
class Mask(OutputTarget):
    """A class over some pixels of a segmentation: relevance sums to its mean probability (or logit) there.

    Attributes:
        index: the class.
        mask: bool (H, W) or (N, H, W); None for the pixels where the class is the prediction.
        link: what makes probabilities of a pixel's scores: "softmax", or "sigmoid" where each class is a yes or no of
            its own. Of a model that ends in a sigmoid that is known.
    """

    index: int
    mask: Any = None
    link: str = "softmax"
    of_scores: ClassVar[bool] = True

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, classes, H, W) -> the same shape."""
        if output.dim() < 3:
            raise TargetError(f"Mask explains outputs (N, classes, H, W); this model returns {tuple(output.shape)}")
        _classes(self.index, output)
        values = values_of(output, start, self.link)[:, self.index]
        chosen = self._pixels(output)
        why = f"class {self.index} is predicted nowhere" if self.mask is None else "the mask is empty"
        begin = torch.zeros_like(output)
        begin[:, self.index] = mean_over(values, chosen, why)
        return begin

    def _pixels(self, output: Tensor) -> Tensor:
        if self.mask is None:
            if self.link != "sigmoid" and output.shape[1] > 1:
                return output.argmax(1) == self.index
            return values_of(output, "probability", self.link)[:, self.index] > 0.5
        mask = torch.as_tensor(self.mask, device=output.device)
        if mask.dtype != torch.bool:
            raise TargetError(f"a mask holds True and False, not {mask.dtype}; compare first: mask > 0")
        shape = (len(output), *output.shape[2:])
        if mask.shape not in (torch.Size(shape), torch.Size(shape[1:])):
            raise TargetError(f"the mask has shape {tuple(mask.shape)}; it must be {shape[1:]} or {shape}")
        return mask.expand(shape)

    def __str__(self) -> str:
        return f"class {self.index} over {'its pixels' if self.mask is None else 'a mask'}"


@dataclass(frozen=True, eq=False)
class Similarity(OutputTarget):
    """How alike the embedding a of an input is to another, b, which is a constant: their cosine, whatever `start` says.

        R_k = a_k b_k / (|a| |b|)

    Relevance begins with what each feature adds to the cosine, of either sign, and so sums to it.

    Attributes:
        embedding: b, (D,) for all inputs, or (N, D).
    """

    embedding: Tensor

    def __post_init__(self) -> None:
        """(D,) is (1, D), so that a batch of D inputs is not taken for it."""
        if isinstance(self.embedding, Tensor) and self.embedding.dim() == 1:
            object.__setattr__(self, "embedding", self.embedding[None])

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, D) -> (N, D); or (N, parts, D), of which the embedding is the sum over its parts."""
        other = self.embedding
        shapes = ((1, output.shape[-1]), (len(output), output.shape[-1]))
        if output.dim() not in (2, 3) or not isinstance(other, Tensor) or tuple(other.shape) not in shapes:
            found = tuple(other.shape) if isinstance(other, Tensor) else type(other).__name__
            raise TargetError(
                f"Similarity compares embeddings (N, D); this model returns {tuple(output.shape)}, and it was given "
                f"{found}: take the output of the same model for the other input"
            )
        other = other.detach().to(output)
        own = output if output.dim() == 2 else output.sum(1)
        lengths = own.norm(dim=-1) * other.norm(dim=-1)
        if not bool((lengths > 0).all()):
            raise TargetError("an embedding is zero everywhere, so it is like nothing: its cosine is not defined")
        if output.dim() == 3:
            other, lengths = other[:, None], lengths[:, None]
        begin: Tensor = output * other / lengths[..., None]
        return begin

    def __str__(self) -> str:
        return "similarity"


@dataclass(frozen=True, eq=False)
class Given(OutputTarget):
    """Relevance that the caller decides on, whatever `start` says.

    Attributes:
        given: relevance in the output's shape, or with 1 in place of N for all images; or a function from the output
            to it.
    """

    given: Tensor | Function

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        """(N, ...) -> the same shape."""
        given: Any = self.given.detach() if isinstance(self.given, Tensor) else self.given(output)
        fits = isinstance(given, Tensor) and given.shape in (output.shape, (1, *output.shape[1:]))
        if not fits or given.is_complex():
            found = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            raise TargetError(
                f"the relevance to start with is {found}; it must be a tensor in the output's shape, "
                f"{tuple(output.shape)}"
            )
        begin: Tensor = given.to(output, copy=True).expand(output.shape)
        if not bool(begin.isfinite().all()):
            raise TargetError("the relevance to start with holds NaN or infinite numbers")
        return begin

    def __str__(self) -> str:
        return "the relevance given"


def mean_over(values: Tensor, chosen: Tensor, why: str) -> Tensor:
    """What each of the chosen pixels adds to the mean of `values` over them, (N, ...) both; zero elsewhere.

    Raises:
        TargetError: none is chosen in an image; says `why`.
    """
    counts = chosen.flatten(1).sum(1)
    if not bool((counts > 0).all()):
        raise TargetError(f"{why} in image {int((counts == 0).nonzero()[0])}: there is nothing to explain")
    return values * chosen / counts.view(-1, *[1] * (chosen.dim() - 1))


def of_function(function: Function, output: Tensor) -> Tensor:
    """Relevance of the output for a function f of it: what each value contributes to f.

        R_k = y_k ∂f/∂y_k

    For sums, differences, means, maxima and picks this adds up to f(y) (Euler). A function may also return relevance
    itself, in the output's shape.

    Args:
        function: (N, ...) -> (N,), or (N, ...) -> (N, ...).
        output: (N, ...).

    Raises:
        TargetError: it returns something else, or a value that its gradient does not add up to (a softmax, an offset).
    """
    name = name_of(function)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = output.clone().requires_grad_()  # still of the model's graph, where there is one
        value = function(leaf)
        if not isinstance(value, Tensor) or value.shape not in (output.shape, output.shape[:1]):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TargetError(
                f"the target {name} returned {found} for an output of shape {tuple(output.shape)}; it must return one "
                f"value an image, ({len(output)},), or relevance in the output's shape"
            )
        if value.shape == output.shape and output.dim() > 1:
            return (value if output.requires_grad else value.detach()).to(output.dtype)
        if not value.requires_grad:
            raise TargetError(f"the target {name} does not depend on the output, or cannot be differentiated")
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=output.requires_grad)
    begin = output * slope
    parts, value = begin.detach().reshape(len(begin), -1), value.detach()
    shared, scale = parts.sum(1), torch.maximum(parts.abs().sum(1), value.abs())
    if not bool(((shared - value).abs() <= _TOLERANCE * scale).all()):
        raise TargetError(
            f"the target {name} is {float(value[0]):.4g} where its gradient shares out {float(shared[0]):.4g}: an "
            "offset, a softmax or a product has no exact share for each value of the output. Explain a class with "
            "start='probability', or let the function return relevance in the output's shape"
        )
    return begin


def of_target(target: OutputTarget, output: Tensor, returned: Tensor, start: Scale, link: str) -> Tensor:
    """Relevance of the output for a target: of the scores (N, ...), or of what the model returned in their place."""
    if not target.of_scores:
        return target.relevance(returned, start)
    if link != "softmax" and hasattr(target, "link"):
        target = replace(target, link=link)  # type: ignore[type-var]
    return target.relevance(output, start)


def one_each(targets: Sequence[Any], output: Tensor, returned: Tensor, start: Scale, link: str) -> Tensor:
    """Relevance of the output for a target of its own for each image, functions of one image's output among them."""
    if len(targets) != len(output):
        raise TargetError(f"there are {len(targets)} targets for {len(output)} image(s); give one for each")

    def of_one(function: Function) -> Function:
        return lambda batch: torch.as_tensor(function(batch[0])).reshape(1, -1).sum(1)

    parts = []
    for image, target in enumerate(targets):
        row = slice(image, image + 1)
        if isinstance(target, OutputTarget):
            parts.append(of_target(target, output[row], returned[row], start, link))
        else:
            parts.append(of_function(_named(of_one(target), target), returned[row]))
    return torch.cat(parts)


def name_of(target: Any) -> str:
    """What a target is called in captions and messages."""
    if isinstance(target, OutputTarget):
        return str(target)
    return str(getattr(target, "__name__", type(target).__name__))


def _named(function: Function, after: Any) -> Function:
    function.__name__ = name_of(after)
    return function


def read_scale(start: object) -> Scale:
    """Check what relevance starts as.

    Raises:
        UsageError: neither "probability" nor "logit".
    """
    if start not in ("probability", "logit"):
        raise UsageError(f"start must be 'probability' or 'logit', not {start!r}")
    return start


def values_of(output: Tensor, start: Scale, link: str) -> Tensor:
    """Probabilities of scores (N, classes, ...), or under "logit" the scores themselves.

    Raises:
        UsageError: `link` is none of "softmax", "sigmoid", "identity" (of probabilities) and "log" (of logarithms).
    """
    if link not in LINKS:
        raise UsageError(f"link must be 'softmax' or 'sigmoid', not {link!r}")
    return output if read_scale(start) == "logit" else LINKS[link](output, 1)


def _classes(chosen: int | Sequence[int], output: Tensor) -> Tensor:
    """(N, 1) the class for each image, of outputs (N, classes, ...)."""
    if output.dim() < 2:
        raise TargetError(f"the model returns one value an image, {tuple(output.shape)}: it has no classes")
    classes = torch.as_tensor(chosen, device=output.device)
    if classes.dtype.is_floating_point or classes.dtype == torch.bool:
        raise TargetError(f"classes are whole numbers, not {classes.dtype}")
    if classes.dim() > 1 or (classes.dim() == 1 and len(classes) != len(output)):
        raise TargetError(
            f"classes have shape {tuple(classes.shape)} for {len(output)} image(s); give one, or one each"
        )
    outside = classes[(classes < 0) | (classes >= output.shape[1])]
    if outside.numel():
        raise no_such_class(int(outside.flatten()[0]), output.shape[1])
    return classes.long().expand(len(output))[:, None]


def no_such_class(index: int, classes: int) -> TargetError:
    """The error that names a class which a model does not have."""
    return TargetError(f"class {index} does not exist: the model has {classes} classes, 0 to {classes - 1}")
