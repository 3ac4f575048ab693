"""`LRP(model)(x)`: capture once, run forwards once, walk backwards once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relprop.core.batch import mixing
from relprop.core.capture import Model, require_evaluation_mode, unwrap
from relprop.core.captured import RECORDINGS, captured, first_weight, keys, require_finite, state_of
from relprop.core.chunks import Chunks
from relprop.core.composite import Composite
from relprop.core.cuts import find_cuts, parse_cut
from relprop.core.families import family_of
from relprop.core.graph import Graph
from relprop.core.ledger import Ledger
from relprop.core.prepared import Prepared
from relprop.core.program import run
from relprop.core.propagate import Walk, Way, make_way, propagate, shared_program
from relprop.core.relevance import Relevance
from relprop.core.support import supports
from relprop.core.target import Start, Target, are_classes, begin, read_target
from relprop.errors import CaptureError, InputError, UsageError

if TYPE_CHECKING:
    from relprop.core.compiled import Compiler

Keep = Sequence[str] | str


class LRP(nn.Module):
    """Layer-wise relevance propagation through any residual network.

        lrp = relprop.LRP(model)
        result = lrp(x)                      # of the predicted class
        result = lrp(x, target=labels)       # of a class, or of several: (N, K)

    The model is captured at the first call for each size of input, and its weights are read anew at each call. Where
    `torch.export` cannot read it (TorchScript, Python that branches on values), a run is recorded at each call, which a
    warning says once.
    Nothing is attached to it: weights, buffers, hooks, modes, `requires_grad` and `.grad` stay as they are, also when
    something raises. It is not registered as a submodule, so `lrp.to()` and `lrp.train()` do not reach it.

    Args:
        model: a module in evaluation mode, TorchScript included, that maps (N, C, H, W) to (N, classes), or an exported
            program.
        composite: which rules to use; by default what suits the network (`relprop.core.families`), for convolutional
            networks `relprop.paper()`.
        keep: layers whose relevance the result retains: module paths, step names, or what `Relevance.read` takes; or
            "all".
        ledger: whether to keep the books (about 1 to 3 % of the time).
        strict: whether to raise `ConservationError` unless they balance.
        rtol: the largest leak that `strict` lets pass, relative.
        compile: whether forward run and walk become one graph for `torch.compile`, which takes a minute or more at
            the first calls and saves time at each later one. For classes as targets; where that cannot be, a warning
            says so once, and it runs as without.
        bf16: whether rules take their products of convolutions in bfloat16: faster on processors that know it, and
            less exact. Relevance then leaks by about 1e-3, as the ledger shows; give `strict` an `rtol` to match.
        chunk: how many images are explained at a time; by default all, and fewer when memory is short.
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
        compile: bool = False,
        bf16: bool = False,
        chunk: int | None = None,
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
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk must be 1 or more images at a time, not {chunk}")
        self._chunks = Chunks(chunk)
        self._ways: dict[tuple[Any, ...], Way] = {}
        self._prepared = {layout: Prepared(channels_last=layout, bf16=bf16) for layout in (False, True)}
        self._compiler = _compiler() if compile else None

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
        return self.explain_each(x, (self.composite,), target, start=start)[0]

    def explain_each(
        self, x: Tensor, composites: Sequence[Composite | None], target: Target = None, *, start: Start = "probability"
    ) -> tuple[Relevance, ...]:
        """Explain a batch by several composites, in one forward run: the four of Table 2, say.

            rows = [relprop.paper(split, identity) for split in ("symmetric", "ratio") for identity in (False, True)]
            results = lrp.explain_each(x, rows)

        The composite of this `LRP` takes no part. Arguments and errors are those of a call.
        """

        def explain(x: Tensor, target: Target, start: Start) -> tuple[Relevance, ...]:
            with torch.no_grad(), _exact_arithmetic(x):
                return self._explain(x, target, start, composites)

        if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
            return explain(x, target, start)  # raises, and says why
        return self._chunks.explain(x, target, start, explain)

    def graph(self, x: Tensor) -> Graph:
        """The captured computation for inputs of the shape of `x`."""
        with torch.no_grad(), _exact_arithmetic(x):
            image = self._as_input(x)
            graph = self._graph(image)
            return graph if graph.tape is not None else self._way(graph, image, self.composite).graph

    def _explain(
        self, x: Tensor, target: Target, start: Start, composites: Sequence[Composite | None]
    ) -> tuple[Relevance, ...]:
        image = self._as_input(x)
        graph = self._graph(image)
        if graph.tape is not None and len(image) > 1 and (not graph.any_batch or mixing(graph)):
            return self._one_by_one(graph, image, target, start, composites)
        ways = [self._way(graph, image, composite) for composite in composites]
        prepared = ways[0].prepared
        state = state_of(self.model, graph)
        layers = self._layers(graph)
        prepared.refresh(state.values())
        if prepared.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        found = self._compiled(ways, state, image, target, start, layers)
        if found is not None:
            return found
        trace = run(shared_program(ways), graph, state, image, prepared)
        beginning = begin(target, require_finite(trace.output), start)
        keep = frozenset(layers.values())
        scores = [score for _, score in beginning.columns]
        results = []
        columns = [begun for begun, _ in beginning.columns]
        for way in ways:
            last = [way is ways[-1] and begun is columns[-1] for begun in columns]
            walks = [
                propagate(way, trace, state, begun, keep=keep, book=self.ledger, last=final)
                for begun, final in zip(columns, last, strict=True)
            ]
            results.append(self._result(way, walks, scores, beginning.target, trace.output, layers, beginning.what))
            if self._compiler is not None:
                self._compiler.ran(way)
        return tuple(results)

    def _compiled(
        self,
        ways: list[Way],
        state: Mapping[str, Tensor],
        image: Tensor,
        target: Target,
        start: Start,
        layers: Mapping[tuple[str, str], int],
    ) -> tuple[Relevance, ...] | None:
        """The results by compiled graphs; None where these are not asked for, or cannot be had."""
        if self._compiler is None or not are_classes(target, start):
            return None
        shape = ways[0].graph.nodes[ways[0].graph.output].shape or ()
        if len(shape) != 2 or shape[1] in (None, 1):
            return None
        chosen = None if target is None else read_target(target, image.new_empty(1).expand(len(image), shape[1]))
        columns = chosen[:, None] if chosen is not None and chosen.dim() == 1 else chosen
        results = []
        for way in ways:
            found = self._compiler.explain(
                way, state, image, columns, str(start), frozenset(layers.values()), self.ledger
            )
            if found is None:
                return None
            require_finite(found.logits)
            classes = found.classes[:, 0] if chosen is None or chosen.dim() == 1 else found.classes
            results.append(self._result(way, found.walks, found.scores, classes, found.logits, layers, ""))
        return tuple(results)

    def _result(
        self,
        way: Way,
        walks: list[Walk],
        scores: list[Tensor],
        target: Tensor,
        logits: Tensor,
        layers: Mapping[tuple[str, str], int],
        what: str,
    ) -> Relevance:
        single = target.dim() == 1

        def gather(parts: list[Tensor]) -> Tensor:
            return parts[0].contiguous() if single else torch.stack(parts, 1)

        kept = {key: gather([walk.kept[index] for walk in walks]) for key, index in layers.items()}
        ledger = Ledger.merged([walk.ledger for walk in walks if walk.ledger is not None]) if self.ledger else None
        if self.strict and ledger is not None:
            ledger.require_balance(self.rtol)
        image = gather([walk.image for walk in walks])
        cuts = find_cuts(way.graph) if layers else None
        composite = way.assignment.composite.name
        return Relevance(image, target, gather(scores), logits, ledger, kept, composite, what, cuts)

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
        weight = first_weight(self.model)
        if weight is not None and weight.device != x.device:
            raise InputError(f"x is on {x.device}, the model on {weight.device}; move one of them")
        if not all(bound.isfinite() for bound in x.aminmax()):
            raise InputError("x holds NaN or infinite numbers; relevance of them means nothing")
        if weight is None:
            return x.detach()
        if weight.dtype == torch.float32 and x.dtype == torch.float64:
            raise InputError("x is float64 and the model float32; use x.float(), or model.double()")
        return x.detach().to(_compute_dtype(weight.dtype))

    def _graph(self, image: Tensor) -> Graph:
        """Capture for this size of input, unless that was done before. A recording holds for certain values only."""
        _require_evaluation(self.model)
        known = next((way.graph for way in self._known(image) if way.graph.tape is None), None)
        return known or captured(self.model, image)

    def _known(self, image: Tensor) -> list[Way]:
        """What was made for inputs of this kind."""
        held = keys(self.model, image)
        return [way for (key, *_), way in self._ways.items() if key in held]

    def _way(self, graph: Graph, image: Tensor, composite: Composite | None) -> Way:
        """Plan a graph's run and walk by a composite, unless that was done before."""
        known = [way for way in self._known(image) if way.graph is graph]
        chosen = composite or family_of(graph).composite()
        way = next((way for way in known if way.assignment.composite == chosen), None)
        if way is None:
            places = known[0].supports if known else supports(graph, state_of(self.model, graph))
            prepared = self._prepared[image.dim() == 4 and image.device.type == "cpu"]
            way = make_way(graph, chosen.assign(graph), places, prepared)
            any_batch, this_batch = keys(self.model, image)
            self._ways[any_batch if graph.any_batch else this_batch, id(graph), id(composite)] = way
            recordings = [key for key, made in self._ways.items() if made.graph.tape is not None]
            for key in recordings[:-RECORDINGS]:
                del self._ways[key]
        return way

    def _one_by_one(
        self, graph: Graph, image: Tensor, target: Target, start: Start, composites: Sequence[Composite | None]
    ) -> tuple[Relevance, ...]:
        """Explain images apart where a recording takes them apart, or holds for batches of this size alone.

        Where the images lie in its values is not known then, so their books could not be kept apart.
        """
        assert graph.tape is not None
        results = Chunks(1).explain(
            image, target, start, lambda x, target, start: self._explain(x, target, start, composites)
        )
        theirs, ours = graph.tape.scores.to(image), results[0].logits
        difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
        if not difference <= 1e-3:
            raise CaptureError(
                f"the model's scores for an image depend on the others in its batch (by {difference:.1e} of the "
                "largest score), and its calls on the size of the batch, so relevance of the images cannot be told "
                "apart; give it one image at a time"
            )
        return results

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
        cuts = [parse_cut(name)[0] for name in given]
        return [part.removesuffix("@input") for name in cuts for part in find_cuts(graph).expand(name)]


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


def _compiler() -> Compiler:
    from relprop.core.compiled import Compiler  # loads half a second of compiler that most never need

    return Compiler()


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


def _require_evaluation(model: Model) -> None:
    if isinstance(model, nn.Module):
        require_evaluation_mode(model)
