"""`LRP(model)(x)`: capture once, run forwards once, walk backwards once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from relprop.core.capture import Model, capture, require_evaluation_mode, unwrap
from relprop.core.composite import Composite
from relprop.core.cuts import Cuts, find_cuts
from relprop.core.families import family_of
from relprop.core.graph import Graph
from relprop.core.ledger import Ledger
from relprop.core.outputs import scores_in
from relprop.core.prepared import Prepared
from relprop.core.program import make_program, run
from relprop.core.propagate import Walk, Way, make_way, propagate
from relprop.core.relevance import Relevance
from relprop.core.support import supports
from relprop.core.target import Beginning, Start, Target, begin
from relprop.errors import CaptureError, InputError, UsageError

Keep = Sequence[str] | str


class LRP(nn.Module):
    """Layer-wise relevance propagation through any residual network.

        lrp = relprop.LRP(model)
        result = lrp(x)                      # of the predicted class
        result = lrp(x, target=labels)       # of a class, or of several: (N, K)

    The model is captured at the first call for each size of input, and its weights are read anew at each call.
    Nothing is attached to it: weights, buffers, hooks, modes, `requires_grad` and `.grad` stay as they are, also when
    something raises. It is not registered as a submodule, so `lrp.to()` and `lrp.train()` do not reach it.

    Args:
        model: a module in evaluation mode that maps (N, C, H, W) to (N, classes), or an exported program.
        composite: which rules to use; by default what suits the network (`relprop.core.families`), for convolutional
            networks `relprop.paper()`.
        keep: layers whose relevance the result retains: module paths, step names, or what `Relevance.read` takes; or
            "all".
        ledger: whether to keep the books (about 1 to 3 % of the time).
        strict: whether to raise `ConservationError` unless they balance.
        rtol: the largest leak that `strict` lets pass, relative.
    """

    def __init__(
        self,
        model: Model,
        composite: Composite | None = None,
        *,
        keep: Keep = (),
        ledger: bool = True,
        strict: bool = False,
        rtol: float = 1e-5,
    ) -> None:
        super().__init__()
        self.model: Model
        if not isinstance(model, nn.Module | torch.export.ExportedProgram):
            raise UsageError(f"model must be a torch.nn.Module or an ExportedProgram, not {type(model).__name__}")
        # a plain attribute: nn.Module would register it, and share .to() and .train() with it
        object.__setattr__(self, "model", unwrap(model))
        self.composite = composite
        self.keep: Keep = keep if isinstance(keep, str) else tuple(keep)
        self.ledger = ledger or strict
        self.strict = strict
        self.rtol = rtol
        self._ways: dict[tuple[Any, ...], Way] = {}
        self._prepared = {layout: Prepared(channels_last=layout) for layout in (False, True)}

    def forward(self, x: Tensor, target: Target = None, *, start: Start = "probability") -> Relevance:
        """Explain a batch.

        Args:
            x: (N, C, H, W), as the model takes it.
            target: class to explain: None for the predicted one, an int, (N,), or (N, K) for K classes an image,
                which share the forward run and give relevance (N, K, C, H, W).
            start: relevance begins with the class's "probability" (the paper) or its "logit".

        Raises:
            InputError: not a batch of finite numbers that the model takes.
            CaptureError: the model cannot be captured, or does not return (N, classes).
            UnsupportedOpError: steps have no rule; all are named.
            TargetError: no such class.
            ConservationError: with `strict`, the books do not balance.
        """
        with torch.no_grad(), _exact_arithmetic(x):
            return self._explain(x, target, start)

    def graph(self, x: Tensor) -> Graph:
        """The captured computation for inputs of the shape of `x`."""
        with torch.no_grad(), _exact_arithmetic(x):
            return self._way(self._as_input(x)).graph

    def _explain(self, x: Tensor, target: Target, start: Start) -> Relevance:
        image = self._as_input(x)
        way = self._way(image)
        state = self._state(way.graph)
        layers = self._layers(way.graph)
        way.prepared.refresh(state.values())
        if way.prepared.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        trace = run(way.program, way.graph, state, image, way.prepared)
        beginning = begin(target, _require_finite(trace.output), start)
        keep = frozenset(layers.values())
        name = way.assignment.composite.name
        walks = [
            propagate(way, trace, state, relevance, keep=keep, book=self.ledger) for relevance, _ in beginning.columns
        ]
        return self._result(walks, beginning, trace.output, layers, find_cuts(way.graph) if layers else None, name)

    def _result(
        self,
        walks: list[Walk],
        beginning: Beginning,
        logits: Tensor,
        layers: Mapping[tuple[str, str], int],
        cuts: Cuts | None,
        composite: str,
    ) -> Relevance:
        target = beginning.target
        single = target.dim() == 1

        def gather(parts: list[Tensor]) -> Tensor:
            return parts[0].contiguous() if single else torch.stack(parts, 1)

        kept = {key: gather([walk.kept[index] for walk in walks]) for key, index in layers.items()}
        ledger = Ledger.merged([walk.ledger for walk in walks if walk.ledger is not None]) if self.ledger else None
        if self.strict and ledger is not None:
            ledger.require_balance(self.rtol)
        image = gather([walk.image for walk in walks])
        score = gather([score for _, score in beginning.columns])
        return Relevance(image, target, score, logits, ledger, kept, composite, beginning.what, cuts)

    def _as_input(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise InputError(
                f"x must be a torch.Tensor, not {type(x).__name__}; torch.from_numpy(x) makes one of an array"
            )
        if x.dim() < 2 or 0 in x.shape:
            raise InputError(f"x must be a batch (N, C, H, W) with at least one image, not of shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise InputError(
                f"x must hold floating-point numbers, not {x.dtype}; use x.float() after scaling to the model's range"
            )
        weight = _first_weight(self.model)
        if weight is not None and weight.device != x.device:
            raise InputError(f"x is on {x.device}, the model on {weight.device}; move one of them")
        if not all(bound.isfinite() for bound in x.aminmax()):
            raise InputError("x holds NaN or infinite numbers; relevance of them means nothing")
        if weight is None:
            return x.detach()
        if weight.dtype == torch.float32 and x.dtype == torch.float64:
            raise InputError("x is float64 and the model float32; use x.float(), or model.double()")
        return x.detach().to(_compute_dtype(weight.dtype))

    def _way(self, image: Tensor) -> Way:
        """Capture for this size of input, unless that was done before."""
        _require_evaluation(self.model)
        any_batch, this_batch = _keys(self.model, image)
        key = this_batch if this_batch in self._ways else any_batch
        if key not in self._ways:
            graph = _captured(self.model, image)
            assignment = (self.composite or family_of(graph).composite()).assign(graph)
            key = any_batch if graph.any_batch else this_batch
            prepared = self._prepared[image.dim() == 4 and image.device.type == "cpu"]
            self._ways[key] = make_way(graph, assignment, supports(graph, self._state(graph)), prepared)
        return self._ways[key]

    def _state(self, graph: Graph) -> dict[str, Tensor]:
        return _state(self.model, graph)

    def _layers(self, graph: Graph) -> dict[tuple[str, str], int]:
        """The tensors whose relevance is kept, by (name, side)."""
        everything = self.keep == "all"
        names = (
            [*graph.modules, *(n.name for n in graph.steps), "input", "output"] if everything else self._names(graph)
        )
        layers: dict[tuple[str, str], int] = {}
        for name in names:
            found = {}
            for side in ("input", "output"):
                with contextlib.suppress(UsageError):
                    found[name, side] = graph.tensor(name, side)
            if not found and not everything:
                graph.tensor(name)  # raises, and says why
            layers |= found
        return layers

    def _names(self, graph: Graph) -> list[str]:
        """The layers that `keep` stands for, other than "all"."""
        given = [self.keep] if isinstance(self.keep, str) else self.keep
        return [part.removesuffix("@input") for name in given for part in find_cuts(graph).expand(name)]


def explain(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    composite: Composite | None = None,
    keep: Keep = (),
    start: Start = "probability",
) -> Relevance:
    """Which pixels made the model say that: `LRP(model, composite, keep=keep)(x, target, start=start)`.

    The capture is remembered for as long as the model lives; an `LRP` also keeps what is derived from the weights, so
    make one to explain many batches.
    """
    result: Relevance = LRP(model, composite, keep=keep)(x, target, start=start)
    return result


#: graphs of the models that were captured, for as long as the models live
_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Graph]] = WeakKeyDictionary()


def _keys(model: Model, image: Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a capture holds for: these modules, and inputs of this kind in any batch, or in a batch of this size."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    parts = tuple((id(module), type(module)) for module in modules)  # one that is replaced shows
    any_batch = (parts, tuple(image.shape[1:]), image.dtype, image.device)
    return any_batch, (*any_batch, len(image))


def _captured(model: Model, image: Tensor) -> Graph:
    """Capture a model, unless that was done for such inputs and it still computes the same: a change in it shows."""
    known = _GRAPHS.setdefault(model, {}) if isinstance(model, nn.Module) else {}
    any_batch, this_batch = _keys(model, image)
    scores = _own_scores(model, image)
    for key in (this_batch, any_batch):
        if key in known:
            with contextlib.suppress(CaptureError, InputError, RuntimeError, KeyError):
                _require_same_output(model, known[key], image, scores)
                return known[key]
    with _own_dtype(model, image) as example:
        graph = capture(model, example)
    _require_shape(graph, image)
    _require_same_output(model, graph, image, scores)
    known[any_batch if graph.any_batch else this_batch] = graph
    return graph


def _state(model: Model, graph: Graph) -> dict[str, Tensor]:
    """Weights and constants as they are now; half precision is computed with as float32."""
    state = dict(graph.constants)
    if isinstance(model, nn.Module):
        state |= dict(model.named_parameters(remove_duplicate=False))
        state |= dict(model.named_buffers(remove_duplicate=False))
    return {name: _widened(state[name].detach()) for name in graph.states}


@contextlib.contextmanager
def _exact_arithmetic(x: Tensor) -> Iterator[None]:
    """No autocast, and no TF32, whose ten bits would show in the books."""
    device = x.device.type if isinstance(x, Tensor) else "cpu"
    with contextlib.ExitStack() as stack:
        if torch.amp.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        if device == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            allowed = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", allowed)
        yield


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _first_weight(model: Model) -> Tensor | None:
    tensors = model.parameters() if isinstance(model, nn.Module) else model.state_dict.values()
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


@contextlib.contextmanager
def _own_dtype(model: Model, image: Tensor) -> Iterator[Tensor]:
    """The image in the type that the model's own forward takes."""
    weight = _first_weight(model)
    yield image if weight is None else image.to(weight.dtype)


def _require_evaluation(model: Model) -> None:
    if isinstance(model, nn.Module):
        require_evaluation_mode(model)


def _require_shape(graph: Graph, image: Tensor) -> None:
    """Refuse an input that an exported program was not exported for."""
    expected = graph.nodes[0].shape or ()
    fits = len(expected) == image.dim() and all(e in (None, s) for e, s in zip(expected, image.shape, strict=True))
    if not fits:
        wanted = ", ".join("N" if size is None else str(size) for size in expected)
        raise InputError(
            f"the program was exported for inputs of shape ({wanted}); x has {tuple(image.shape)}. Give it such "
            "inputs, or export it again, for any batch with dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )


def _own_scores(model: Model, image: Tensor) -> Tensor | None:
    """What the model itself says; None for an exported program, of which the graph is all there is."""
    if not isinstance(model, nn.Module):
        return None
    try:
        with _own_dtype(model, image) as own:
            output = model(own)
    except Exception as error:  # whatever the user's code raises
        reason = str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
        raise InputError(f"the model cannot take x of shape {tuple(image.shape)}: {reason}") from error
    return _require_finite(scores_in(output))


def _require_same_output(model: Model, graph: Graph, image: Tensor, theirs: Tensor | None) -> None:
    """Refuse a capture that computes something else than the model does."""
    program = make_program(graph, frozenset())
    ours = _require_finite(run(program, graph, _state(model, graph), image, Prepared()).output)
    if theirs is None:
        return
    tolerance = 0.05 if graph.halved else 1e-3
    scale = theirs.abs().max().clamp(min=1e-12)
    difference = float((ours - theirs).abs().max() / scale) if ours.shape == theirs.shape else float("inf")
    if not difference <= tolerance:
        raise CaptureError(
            f"the captured graph and the model differ by {difference:.1e} of the largest score on the same input: the "
            "model is not a fixed function of its input (randomness, or a branch on values), or hooks change it"
        )


def _require_finite(scores: Tensor) -> Tensor:
    if not scores.isfinite().all():
        raise InputError("the model's scores for this input are NaN or infinite; there is nothing to explain")
    return scores
