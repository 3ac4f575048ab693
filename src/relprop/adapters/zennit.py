"""relprop in zennit's habit: an attributor that is a context, called with the relevance to start from.

    from relprop.adapters.zennit import Attributor      # instead of: from zennit.attribution import Gradient
    with Attributor(model, relprop.epsilon_plus_flat()) as attributor:
        output, relevance = attributor(x, torch.eye(1000)[[281]])

zennit (LGPL) is neither needed nor used. No canonizer is needed either: joins and batch norms are read off the graph.
"""

from __future__ import annotations

from types import TracebackType

from torch import Tensor

from relprop.core.capture import Model
from relprop.core.composites.composite import Composite
from relprop.core.lrp import LRP
from relprop.core.targets.target import Function, Given
from relprop.errors import UsageError

__all__ = ["Attributor"]


class Attributor:
    """Calls give the model's output and the relevance of the input.

    The context is there for the habit: nothing is attached to the model, so there is nothing to remove.

    Args:
        model: in evaluation mode.
        composite: which rules to use; `relprop.paper()` by default.
        attr_output: the relevance to start with where a call names none: a tensor in the output's shape, or a function
            from the output to such a tensor. None is the output itself, as in zennit.
    """

    def __init__(
        self, model: Model, composite: Composite | None = None, attr_output: Tensor | Function | None = None
    ) -> None:
        if composite is not None and not isinstance(composite, Composite):
            raise UsageError(
                f"composite must be one of relprop's, not {type(composite).__name__}: relprop.epsilon_plus_flat() for "
                "EpsilonPlusFlat(), relprop.epsilon_gamma_box(low, high) for EpsilonGammaBox(low, high), and so on"
            )
        self.model = model
        self.composite = composite
        self.attr_output = attr_output
        self._lrp = LRP(model, composite)

    def __enter__(self) -> Attributor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def __call__(self, input: Tensor, attr_output: Tensor | Function | None = None) -> tuple[Tensor, Tensor]:
        """Explain a batch.

        Args:
            input: (N, C, H, W).
            attr_output: as in the constructor; a tensor whose first size is 1 serves all images.

        Returns:
            The model's output, and the relevance in the input's shape.

        Raises:
            TargetError: the relevance to start with does not fit the output.
        """
        chosen = self.attr_output if attr_output is None else attr_output
        result = self._lrp(input, Given((lambda output: output) if chosen is None else chosen))
        return result.logits, result.relevance.to(input.dtype)
