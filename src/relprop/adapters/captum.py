"""relprop as an attribution method of captum.

    from relprop.adapters.captum import LRP             # instead of: from captum.attr import LRP
    attributions, delta = LRP(model).attribute(x, target=281, return_convergence_delta=True)

It is a `captum.attr.Attribution`, so `NoiseTunnel`, `captum.metrics` and captum's visualisation take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from relprop.core import lrp as core_lrp
from relprop.core.capture import Model
from relprop.core.composites.composite import Composite
from relprop.core.targets.start import begin
from relprop.core.targets.target import OutputTarget, Scale, values_of
from relprop.errors import TargetError, require

require("captum", "eval")

from captum.attr import Attribution  # noqa: E402  (after the check, which says how to install it)
from captum.log import log_usage  # noqa: E402

__all__ = ["LRP"]


class LRP(Attribution):  # type: ignore[misc]  # captum's classes have no types where it is not installed
    """Layer-wise relevance propagation with captum's interface, through residual joins and without touching the model.

    As in captum's own LRP the relevance of an input sums to the score of the target, its logit; `start="probability"`
    makes that the class's probability, as in the paper.

    Args:
        model: a module in evaluation mode whose first arguments are the inputs.
        composite: which rules to use; `relprop.paper()` by default.
        start: "logit" (captum's habit) or "probability".
    """

    def __init__(self, model: Model, composite: Composite | None = None, *, start: Scale = "logit") -> None:
        super().__init__(model)
        self.model = model
        self.composite = composite
        self.start = start
        self._lrp = core_lrp.LRP(model, composite, ledger=False)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are shares of the score, not slopes."""
        return True

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # NoiseTunnel calls what this wraps
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Relevance of every input value, in the input's shape and sign.

        Args:
            inputs: (N, C, H, W), or a tuple of such tensors, the model's first arguments.
            target: a class, (N,) classes, an index tuple for outputs of more dimensions (one, or a list of N), or
                anything that `relprop.explain` takes; None where the model returns one value an image.
            additional_forward_args: what the model takes behind them; it gets no relevance.
            return_convergence_delta: whether to return the score less the sum of the relevance, (N,), too.

        Returns:
            Relevance, or a tuple of it where `inputs` is a tuple.

        Raises:
            TargetError: no target for a model of several outputs, or one that does not exist.
        """
        extra = () if additional_forward_args is None else additional_forward_args
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        fixed = dict(enumerate(extra if isinstance(extra, tuple) else (extra,), len(given)))
        one = len(given) == 1
        chosen = target if isinstance(target, OutputTarget) else _Chosen(target)
        result: Any = self._lrp(given[0] if one else given, chosen, start=self.start, fixed=fixed)
        parts = (result.relevance,) if one else result.relevance
        found = tuple(part.to(tensor.dtype) for part, tensor in zip(parts, given, strict=True))
        formatted = found if isinstance(inputs, tuple) else found[0]
        if not return_convergence_delta:
            return formatted
        return formatted, self.compute_convergence_delta(found, result.score)

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can say how far the sum is off: it can."""
        return True

    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], output: Tensor) -> Tensor:
        """(N,) the score less the sum of the relevance: 0 to rounding where the composite absorbs nothing."""
        parts = attributions if isinstance(attributions, tuple) else (attributions,)
        total = sum(part.double().flatten(1).sum(1) for part in parts)
        return (output.flatten().double() - total).to(output.dtype)

    def attribute_future(self) -> None:
        """Not there, as in captum's own LRP."""
        raise NotImplementedError("attribute_future is not implemented for LRP")


@dataclass(frozen=True)
class _Chosen(OutputTarget):
    """captum's ways of naming a part of the output, beside ours."""

    target: Any
    link: str = "softmax"
    of_scores: ClassVar[bool] = True

    def relevance(self, output: Tensor, start: Scale) -> Tensor:
        target = self.target
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)  # one class for all images
        if target is None:
            return self._only(output, start)
        positions = [target] if isinstance(target, tuple) else target
        if isinstance(positions, list) and positions and all(isinstance(position, tuple) for position in positions):
            return self._at(output, positions if len(positions) == len(output) else positions * len(output), start)
        columns = begin(target, output, start, self.link).columns
        if len(columns) != 1:
            raise TargetError("captum's attribute explains one class an image; relprop.explain takes (N, K)")
        return columns[0][0]

    def _only(self, output: Tensor, start: Scale) -> Tensor:
        if output.numel() != len(output):
            raise TargetError(
                f"target is None, and the model returns {output.numel() // len(output)} values an image: name a class, "
                "as for captum's own methods"
            )
        return values_of(output, start, self.link) if self.link == "sigmoid" else output.clone()

    def _at(self, output: Tensor, positions: list[tuple[int, ...]], start: Scale) -> Tensor:
        values = values_of(output, start, self.link)
        relevance = torch.zeros_like(output)
        for image, position in enumerate(positions):
            if len(position) != output.dim() - 1 or not all(
                0 <= i < n for i, n in zip(position, output.shape[1:], strict=True)
            ):
                raise TargetError(f"{position} is no position in an output of shape {tuple(output.shape[1:])}")
            relevance[image, *position] = values[image, *position]
        return relevance

    def __str__(self) -> str:
        return f"target {self.target}"
