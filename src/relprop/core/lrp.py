"""`LRP(model)(x)`: capture once, run forwards once, pass relevance back once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from relprop.core.backward.ledger import Ledger
from relprop.core.backward.plan import Kind, Kinds, Plan
from relprop.core.backward.propagate import BackwardPass, propagate
from relprop.core.backward.through import Through, gates_of, tensor_of
from relprop.core.capture import Model, Recording, record, require_evaluation_mode, unwrap
from relprop.core.capture.inputs import Fixed, Given, Inputs
from relprop.core.capture.model import Names, Output, first_weight, says_multi_label
from relprop.core.capture.program import ProgramModule
from relprop.core.capture.recorder import Keeps
from relprop.core.composites.composite import Composite, location_of
from relprop.core.graph.graph import Graph
from relprop.core.graph.separators import find_separators
from relprop.core.result.batches import Chunks
from relprop.core.result.combine import parse_layer
from relprop.core.result.relevance import Relevance
from relprop.core.result.several import Relevances
from relprop.core.targets.detection import Detection
from relprop.core.targets.start import Beginning, Start, Target, begin, link_of
from relprop.core.targets.target import Channel
from relprop.core.weights.prepared import Prepared
from relprop.errors import CaptureError, InputError, UnsupportedOpError, UsageError
from relprop.shortage import give_back

if TYPE_CHECKING:
    from relprop.core.backward.compiled import Compiler

Keep = Sequence[str] | str
Several = tuple[Tensor, ...] | Mapping[str, Tensor]


class How(TypedDict, total=False):
    """What every explanation takes by name: see `LRP.forward`."""

    start: Start
    fixed: Fixed
    through: Through | None


class Options(How, total=False):
    """What `explain` takes by name: see `LRP`, too."""

    composite: Composite | None
    output: Output
    keep: Keep


class LRP(nn.Module):
    """Layer-wise relevance propagation through any residual network.

        lrp = relprop.LRP(model)
        result = lrp(x)                      # of the predicted class
        result = lrp(x, target=labels)       # of a class, or of several: (N, K)

    Each call runs the model once on the batch, records that run, and explains it: hooks, flags, branches on values and
    weights are those of the moment. What follows from the calls alone, and what is derived from weights, is kept for
    the next call. An `LRP` can be used from several threads, copied, pickled, and sent to another process.
    Nothing is attached to the model: weights, buffers, hooks, modes, `requires_grad` and `.grad` stay as they are, also
    when something raises. It is not registered as a submodule, so `lrp.to()` and `lrp.train()` do not reach it.

    Args:
        model: a module in evaluation mode, TorchScript included, that maps (N, C, H, W) to (N, classes), or an exported
            program.
        composite: which rules to use; by default what suits the network, for convolutional networks `relprop.paper()`
            (`relprop.core.composites.presets.family_of`).
        output: which of the tensors that the model returns is explained: its name or position, or a function that takes
            it out of what is returned. By default the one tensor, the first of a tuple, or "logits" or "out" in a dict.
        keep: layers whose relevance the result retains: module paths, step names, or what `Relevance.combine` takes; or
            "all".
        ledger: whether to keep a ledger (about 1 to 3 % of the time).
        strict: whether to raise `ConservationError` unless they balance.
        rtol: the largest leak that `strict` lets pass, relative.
        compile: whether the backward pass becomes one graph for `torch.compile`, which takes a minute or more at
            the first calls and saves time at each later one. For classes as targets; where that cannot be, a warning
            says so once, and it runs as without.
        bf16: whether rules take their products of convolutions in bfloat16: faster on processors that know it, and
            less exact. Relevance then leaks by about 1e-3, as the ledger shows; give `strict` an `rtol` to match.
        chunk: how many images are explained at a time; by default all, and fewer when memory is short.
        differentiable: whether relevance, score and logits can be differentiated, with respect to weights and to `x`,
            so that a loss on explanations trains the model. Such a call takes the time and memory of autograd, keeps
            nothing for the next, and leaves the ledger out of the graph. Under `torch.no_grad()` it is as any other.
    """

    def __init__(
        self,
        model: Model,
        composite: Composite | None = None,
        *,
        output: Output = None,
        keep: Keep = (),
        ledger: bool = True,
        strict: bool = False,
        rtol: float = 1e-5,
        compile: bool = False,
        bf16: bool = False,
        chunk: int | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        self.model: Model
        if not isinstance(model, nn.Module | ExportedProgram):
            raise UsageError(f"model must be a torch.nn.Module or an ExportedProgram, not {type(model).__name__}")
        # a plain attribute: nn.Module would register it, and share .to() and .train() with it
        object.__setattr__(self, "model", unwrap(model))
        self.composite = composite
        self.output = output
        self.keep: Keep = keep if isinstance(keep, str) else tuple(keep)
        self.ledger = ledger or strict
        self.strict = strict
        self.rtol = rtol
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk must be 1 or more images at a time, not {chunk}")
        self._chunks = Chunks(chunk)
        self.bf16, self.compile_, self.differentiable = bf16, compile, differentiable
        if differentiable and (compile or bf16):
            name = "compile" if compile else "bf16"
            raise UsageError(
                f"differentiable=True needs autograd and exact numbers; {name}=True does without: leave it out"
            )
        self._forget()

    def _forget(self) -> None:
        """Begin without what former calls have left: all of it can be made again."""
        runs: nn.Module = ProgramModule(self.model) if isinstance(self.model, ExportedProgram) else self.model
        object.__setattr__(self, "_runs", runs)  # as `model`
        self._names: Names | None = None
        self._kinds = Kinds()
        self._prepared = Prepared(bf16=self.bf16, differentiable=self.differentiable)
        self._compiler: Compiler | None = None
        if self.compile_:
            from relprop.core.backward.compiled import Compiler  # loads half a second of compiler that most never need

            self._compiler = Compiler()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy, or another process, needs: the options and the model."""
        made_again = ("_runs", "_names", "_kinds", "_prepared", "_compiler")
        return {name: value for name, value in self.__dict__.items() if name not in made_again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over options and model."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget()

    @overload
    def forward(self, x: Tensor, target: Target = ..., **how: Unpack[How]) -> Relevance: ...

    @overload
    def forward(self, x: Several, target: Target = ..., **how: Unpack[How]) -> Relevances: ...

    def forward(
        self,
        x: Given,
        target: Target = None,
        *,
        start: Start = "probability",
        fixed: Fixed = None,
        through: Through | None = None,
    ) -> Any:
        """Explain a batch.

        Args:
            x: (N, C, H, W), as the model takes it; or several inputs of N rows each, as a tuple in the order of the
                model's arguments or as a dict by their names, for one relevance each.
            target: class to explain: None for the predicted one, an int, (N,), or (N, K) for K classes an image,
                which share the forward run and give relevance (N, K, C, H, W); `targets.Sigmoid` of these for a
                multi-label model, or another of `relprop.targets`.
            start: relevance begins with the class's "probability" (the paper) or its "logit".
            fixed: further arguments of the model, which are constants, by name or position: they get no relevance.
            through: channels of layers, as in {"layer4.1": [17, 301]}: relevance goes through these alone, and what
                goes through others ends there, which the ledger says. Channels are the second axis of what leaves the
                layer ("NAME@input": of what enters it). A list of K of these gives K maps, (N, K, C, H, W), which share
                the forward run.

        Raises:
            UsageError: no such layer or channel.
            InputError: not a batch of finite numbers that the model takes.
            CaptureError: the model cannot be captured, or does not return (N, classes).
            UnsupportedOpError: steps have no rule; all are named.
            TargetError: no such class.
            ConservationError: with `strict`, relevance leaks.
        """
        return self.explain_each(x, (self.composite,), target, start=start, fixed=fixed, through=through)[0]

    if TYPE_CHECKING:
        __call__ = forward
    else:

        def __call__(self, *given: Any, **how: Any) -> Any:
            """As `forward`: hooks for all modules are for those of the model, and do not reach this one."""
            return self.forward(*given, **how)

    @overload
    def explain_each(
        self, x: Tensor, composites: Sequence[Composite | None], target: Target = ..., **how: Unpack[How]
    ) -> tuple[Relevance, ...]: ...

    @overload
    def explain_each(
        self, x: Several, composites: Sequence[Composite | None], target: Target = ..., **how: Unpack[How]
    ) -> tuple[Relevances, ...]: ...

    def explain_each(
        self,
        x: Given,
        composites: Sequence[Composite | None],
        target: Target = None,
        *,
        start: Start = "probability",
        fixed: Fixed = None,
        through: Through | None = None,
    ) -> tuple[Any, ...]:
        """Explain a batch by several composites, in one forward run: the four of Table 2, say.

            rows = [relprop.paper(split, identity) for split in ("symmetric", "ratio") for identity in (False, True)]
            results = lrp.explain_each(x, rows)

        The composite of this `LRP` takes no part. Arguments and errors are those of a call.
        """

        def explain(inputs: Inputs, target: Target, start: Start) -> tuple[Relevance, ...]:
            with torch.set_grad_enabled(self._records_gradients), _exact_arithmetic(inputs.device):
                return self._explain(inputs, target, start, composites, through)

        inputs = self._inputs(x, fixed)
        results = self._chunks.explain(inputs, target, start, explain)
        if self._prepared.store.grown and inputs.device.type == "cpu":
            self._prepared.store.grown = False
            give_back()
        if not inputs.several:
            return results
        shapes = tuple(tensor.shape[1:] for tensor in inputs.tensors)
        return tuple(Relevances(result, inputs.names, shapes, inputs.form) for result in results)

    @property
    def _records_gradients(self) -> bool:
        return self.differentiable and torch.is_grad_enabled()

    def activation(self, x: Given, layer: str, *, fixed: Fixed = None) -> Tensor:
        """What leaves a layer in the forward run, in its shape ("NAME@input": what enters it).

        Raises:
            UsageError: there is no such layer, or more than one tensor leaves it.
        """
        inputs = self._inputs(x, fixed)
        with torch.no_grad(), _exact_arithmetic(inputs.device):
            kind, recording, _ = self._record(inputs, _keep_everything, self.output)
            index = tensor_of(kind.graph, layer)
            return kind.trace(recording, frozenset([index])).values[index].clone()

    def graph(self, x: Given, *, fixed: Fixed = None) -> Graph:
        """The computation that the model makes of `x`."""
        inputs = self._inputs(x, fixed)
        with torch.no_grad(), _exact_arithmetic(inputs.device):
            return self._record(inputs, self._kinds.keeps((self.composite,)), self.output)[0].graph

    def _inputs(self, x: Given, fixed: Fixed) -> Inputs:
        """What the model is given, checked."""
        self._names_of_weights().require_numbers()
        inputs = Inputs.of(self._runs, x, fixed, first_weight(self.model))
        return inputs if self._records_gradients else inputs.detached()

    def _names_of_weights(self) -> Names:
        """The names of the model's weights and modules as they are now."""
        model: Any = self._runs
        if self._names is None:
            self._names = Names(model)
        else:
            self._names.read()
        return self._names

    def _record(self, inputs: Inputs, kept: Keeps, output: Output) -> tuple[Kind, Recording, Prepared]:
        """Run the model on a batch: what kind of run it was, what was recorded, and the weights prepared for it."""
        model: Any = self._runs
        require_evaluation_mode(model)
        names = self._names or self._names_of_weights()
        prepared = self._prepared.for_run(inputs.tensors)
        key = inputs.kind, kept, prepared.channels_last, names
        recording = record(model, inputs, kept, prepared, names, output, self._kinds.former(key))
        return self._kinds.of(recording, key), recording, prepared

    def _explain(
        self,
        inputs: Inputs,
        target: Target,
        start: Start,
        composites: Sequence[Composite | None],
        through: Through | None,
    ) -> tuple[Relevance, ...]:
        kept = _keep_everything if isinstance(target, Channel) else self._kinds.keeps(composites)
        output = target.pick if isinstance(target, Detection) else self.output
        kind, recording, prepared = self._record(inputs, kept, output)
        if kind.mixing:
            alone = Chunks(1).explain(
                inputs, target, start, lambda one, target, start: self._explain(one, target, start, composites, through)
            )
            _require_apart(kind, kind.trace(recording, frozenset()).output, alone[0].logits)
            return alone
        plans = [kind.plan(composite) for composite in composites]
        layers = self._layers(kind.graph)
        gates = gates_of(through, kind.graph, kind.places) if through is not None else ({},)
        begins_at = tensor_of(kind.graph, target.layer) if isinstance(target, Channel) else kind.graph.output
        at_output = begins_at == kind.graph.output
        reads = frozenset(() if at_output else (begins_at,)).union(*(plan.reads for plan in plans))
        trace = kind.trace(recording, reads)
        returned = recording.output[0] if kind.graph.end and at_output else None
        del recording  # the trace alone holds the values, and gives them up as they are used
        explained = trace.output if at_output else trace.values[begins_at]
        if not explained.isfinite().all():
            raise InputError("the model's scores for this input are NaN or infinite; there is nothing to explain")
        link = "sigmoid" if says_multi_label(self.model) else link_of(kind.graph.link, explained)
        beginning = begin(target, explained, start, link, returned)
        if len(beginning.columns[0][0]) != inputs.shape[0]:
            raise CaptureError(
                f"the model returns {tuple(explained.shape)} for {inputs.shape[0]} image(s); relprop explains one row "
                "of scores for each: wrap the model so that it returns these"
            )
        if through is not None and not isinstance(through, Mapping):
            beginning = beginning.repeated(len(gates))
        keep = frozenset(layers.values())
        results = []
        for plan in plans:
            passes = []
            for at, (begun, _) in enumerate(beginning.columns):
                last = plan is plans[-1] and at == len(beginning.columns) - 1
                own = gates[at % len(gates)]
                options: Any = {"keep": keep, "ledger": self.ledger, "last": last}
                if self._compiler is not None and at_output and not own:
                    passes.append(self._compiler.propagate(plan, trace, prepared, begun, **options))
                else:
                    passes.append(propagate(plan, trace, prepared, begun, **options, gates=own, begins_at=begins_at))
            results.append(self._result(plan, passes, beginning, trace.output, layers))
        return tuple(results)

    def _result(
        self,
        plan: Plan,
        passes: list[BackwardPass],
        beginning: Beginning,
        logits: Tensor,
        layers: Mapping[tuple[str, str], int],
    ) -> Relevance:
        """The passes of all targets as one result, in which (N, K, ...) stands for K targets an image."""

        def gather(parts: Iterable[Tensor]) -> Tensor:
            each = [*parts]
            return each[0].contiguous() if beginning.target.dim() == 1 else torch.stack(each, 1)

        ledger = Ledger.stack([one.ledger for one in passes if one.ledger is not None]) if self.ledger else None
        if self.strict and ledger is not None:
            ledger.require_balance(self.rtol)
        return Relevance(
            gather(one.image for one in passes),
            beginning.target,
            gather(score for _, score in beginning.columns),
            logits,
            ledger,
            kept={key: gather(one.kept[index] for one in passes) for key, index in layers.items()},
            composite=plan.assignment.name,
            what=beginning.what,
            separators=find_separators(plan.graph) if layers else None,
            link=beginning.link,
        )

    def _layers(self, graph: Graph) -> dict[tuple[str, str], int]:
        """The tensors whose relevance is kept, by (name, side)."""
        everything = self.keep == "all"
        layers: dict[tuple[str, str], int] = {}
        for name in self._kept_names(graph):
            found = graph.sides(name)
            if not found and not everything:
                graph.tensor(name)  # raises, and says why
            layers |= {(name, side): index for side, index in found.items()}
        return layers

    def _kept_names(self, graph: Graph) -> list[str]:
        """The layers that `keep` stands for."""
        if self.keep == "all":
            return [*graph.modules, *(node.name for node in graph.steps), "input", "output"]
        given = [self.keep] if isinstance(self.keep, str) else self.keep
        separators = [parse_layer(name)[0] for name in given]
        return [part.removesuffix("@input") for name in separators for part in find_separators(graph).expand(name)]


@overload
def explain(model: Model, x: Tensor, target: Target = ..., **options: Unpack[Options]) -> Relevance: ...


@overload
def explain(model: Model, x: Several, target: Target = ..., **options: Unpack[Options]) -> Relevances: ...


def explain(
    model: Model,
    x: Given,
    target: Target = None,
    *,
    composite: Composite | None = None,
    output: Output = None,
    keep: Keep = (),
    start: Start = "probability",
    fixed: Fixed = None,
    through: Through | None = None,
) -> Any:
    """Which pixels made the model say that.

    The same as `LRP(model, composite, output=output, keep=keep)(x, target, start=start, fixed=fixed, through=through)`.
    An `LRP` keeps what is derived from the weights, so make one to explain many batches.
    """
    return LRP(model, composite, output=output, keep=keep)(x, target, start=start, fixed=fixed, through=through)


def _keep_everything(op: str, inputs: int) -> tuple[bool, bool]:
    """A channel of any layer may be asked for, and a recorder knows operations and not names."""
    return True, True


def _require_apart(kind: Kind, together: Tensor, alone: Tensor) -> None:
    """Refuse a model that takes the images of a batch apart, unless it computes of each what it does when it is alone.

    Raises:
        UnsupportedOpError: relevance of the images cannot be told apart.
    """
    difference = float((alone.detach() - together.detach()).abs().max() / together.abs().max().clamp(min=1e-12))
    if not difference <= 1e-3:
        raise UnsupportedOpError(
            f"the images of a batch do not stay apart at {', '.join(map(location_of, kind.mixing[:5]))}: the model's "
            f"scores for an image depend on the others in its batch (by {difference:.1e} of the largest score), so "
            "relevance of the images cannot be told apart; give it one image at a time"
        )


class _FullPrecision:
    """No TF32 on GPUs, whose ten bits would show in the ledger, for as long as any thread explains.

    The switches are the process's own; the first thread to come in sets them, and the last to go puts them back.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._lock = threading.Lock()
        self._before = (False, False)

    def __enter__(self) -> None:
        """Switch it off."""
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        """Switch it back."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = self._before


_FULL_PRECISION = _FullPrecision()


@contextlib.contextmanager
def _exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No autocast, and on GPUs no TF32."""
    with contextlib.ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(_FULL_PRECISION)
        yield
