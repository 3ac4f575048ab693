"""Record the forward run of the batch that is explained, call by call, as it happens.

Each run of a model comes down to a sequence of ATen calls, which torch's dispatcher hands to a mode on their way. Above
autograd's own decompositions these are the calls that rules know (`conv2d`, `batch_norm`, `linear`, ...). What is
recorded is what is explained: hooks, flags, branches on values, TorchScript and the weights of the moment are in it.

The recorder belongs to the thread that runs it, and attaches nothing to the model. It computes each call as the model
asks for it, but for convolutions, whose weights it may lay out once (`prepared`), and for half precision, which it
computes with as float32. It keeps the values that rules will read, and a copy of those that are overwritten later.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from relprop.core.capture.calls import Call, Facts, facts_of, parts_of, plain
from relprop.core.capture.inputs import Inputs, one_input, parameters_of
from relprop.core.capture.memory import Memory, Tensors, Value
from relprop.core.capture.model import HALF_TYPES, Names, Output, scores_in
from relprop.core.capture.modules import Line, Modules, bottom
from relprop.core.capture.repeat import Former, Repeatable
from relprop.core.capture.scripted import Scopes
from relprop.core.graph.convolution import ConvGeometry, conv_geometry
from relprop.core.graph.graph import Ref, State, ref, state
from relprop.core.graph.ops import IN_BOXES, canonical
from relprop.core.graph.views import write
from relprop.core.weights.packed import packs
from relprop.core.weights.prepared import Prepared
from relprop.errors import CaptureError, InputError, RelpropError
from relprop.shortage import is_out_of_memory

aten = torch.ops.aten

#: which values of a call to keep: (its operation, how many of its inputs depend on the image) -> (inputs, output); None
#: where the operation has no rule
Keeps = Callable[[str, int], tuple[bool, bool] | None]


@dataclass(frozen=True, eq=False)
class Recording:
    """One forward run.

    Attributes:
        calls: in order; each is hashable, so that equal runs are found by comparing them.
        lines: where each call stands in the user's code.
        inputs: as the model was given them.
        output: (N, ...) the scores, and the number of their value.
        values: tensors by the number of their value, or by the name of the weight or constant.
        states: (name, shape, type) of each weight and constant that was used.
        shapes: shape of each value.
        repeatable: for each call, what a run after this one may know of it.
        bases: numbers of the values in whose memory others lie, as a view does.
        repeats: the former run whose calls these are, where they are the very same.
    """

    calls: tuple[Call, ...]
    lines: tuple[Line, ...]
    inputs: Inputs
    output: tuple[Tensor, int]
    values: dict[int | str, Tensor]
    states: tuple[tuple[State, torch.Size, torch.dtype], ...]
    shapes: Mapping[int, torch.Size]
    repeatable: tuple[Repeatable | None, ...] = ()
    bases: frozenset[int] = frozenset()
    repeats: Former | None = None

    def former(self) -> Former:
        """What is left of it for a run that comes after, without its values."""
        return Former(self.calls, self.states, self.output[1], self.repeatable, self.bases)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs of the same calls, on inputs and weights of the same shapes: their graphs are equal too."""
        return self.calls, self.output[1], self.states, self.inputs.kind


def record(
    model: nn.Module,
    inputs: Inputs,
    keeps: Keeps,
    prepared: Prepared,
    names: Names,
    output: Output = None,
    former: Former | None = None,
) -> Recording:
    """Run a model once on a batch, and write down what it calls.

    Args:
        model: a module in evaluation mode.
        inputs: what it is given; not written to.
        keeps: which values rules will read.
        prepared: weights laid out for this run; says in which memory format images are run.
        names: of the model's weights and modules.
        output: which of the tensors that it returns is explained.
        former: a run on inputs of the same kind, with the same `keeps`: each call is compared with its call at the same
            place, and what is known of that call need not be found out again where they are equal.

    Raises:
        InputError: the model cannot take such images; its own words are in the message.
        CaptureError: its output does not depend on the image, or it is in training mode.
    """
    layouts = (True, False) if prepared.channels_last else (False,)
    for layout in layouts:
        own = replace(prepared, channels_last=layout)
        recorder = _Recorder(names, keeps, own, inputs.copied(channels_last=layout), former or Former())
        try:
            return recorder.run(model, output)
        except _OtherLayoutError:
            continue
        except RelpropError:
            raise
        except Exception as error:  # whatever the user's code raises
            if is_out_of_memory(error):
                raise
            if recorder.refused is not None:
                raise recorder.refused from error
            reason = str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
            takes = f"; its arguments are {', '.join(parameters_of(model))}" if isinstance(error, TypeError) else ""
            raise InputError(f"the model cannot take {inputs.described()}: {reason}{takes}") from error
        finally:
            recorder.put_back()
    raise AssertionError("images in row-major order need no other layout")


class _Seen(TorchDispatchMode):
    """Collects the operations that return numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.funcs: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call."""
        result = func(*args, **(kwargs or {}))
        if any(map(_carries, _parts(result))):
            self.funcs.append(func)
        return result


class _OtherLayoutError(Exception):
    """The model writes through a view that images in the channels-last format do not have."""


class _Recorder(TorchDispatchMode):
    """Writes down each call of a run on its way to where it is computed."""

    refused: RelpropError | None = None
    relaid: bool = False

    def __init__(self, names: Names, keeps: Keeps, prepared: Prepared, inputs: Inputs, former: Former) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names, self._keeps, self._prepared, self._inputs = names, keeps, prepared, inputs
        self._device = inputs.device.type
        self._tensors = Tensors()
        self._calls: list[Call] = []
        self._lines: list[Line] = []
        self._repeatable: list[Repeatable | None] = []
        self._former = former
        self._expected = former.repeatable
        self._made: dict[int, weakref.ref[Tensor]] = {}
        self._unnoted: list[tuple[Repeatable, weakref.ref[Tensor]]] = []
        self._kept_since: list[int | str] = []
        self._held: list[Tensor] = []
        self._bases: set[int] = set()
        self._values: dict[int | str, Tensor] = {}
        self._states: dict[str, tuple[State, torch.Size, torch.dtype]] = {}
        self._shapes: dict[int, torch.Size] = {0: inputs.shape}
        self._constants = 0
        self._read_again = False
        self._before: list[tuple[Tensor, Tensor]] = []
        self._within: tuple[Scopes, Line] | None = None
        self._eager: Any = None
        self._modules = Modules(names, None)
        self._take(inputs)

    def _take(self, inputs: Inputs) -> None:
        """Take note of the inputs: one is the source of the graph itself, several are parts of it."""
        if not inputs.several:
            self._made[0] = self._tensors.add(inputs.tensors[0], ref(0)).tensor
            return
        for name, (start, end), tensor in zip(inputs.names, inputs.bounds, inputs.tensors, strict=True):
            new, path = self._next(tensor.shape), f"inputs.{name}"
            args = (ref(0), start, end, tuple(tensor.shape[1:]))
            self._write_down(one_input, args, {}, (new.index,), True, (), ((path, path),), None)
            self._made[new.index] = self._tensors.add(tensor, new).tensor

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper that would see to it costs as much as writing a call down, and loads the compiler."""
        return False

    def run(self, model: nn.Module, output: Output) -> Recording:
        """Run the model, and return what was recorded."""
        self._modules = Modules(self._names, bottom())
        if self._prepared.differentiable:
            self._eager = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        with torch.set_grad_enabled(self._prepared.differentiable), self._above_autograd(), self:
            scores = scores_in(self._inputs.call(model), output)
        if self.refused is not None:  # and the user's code caught it
            raise self.refused
        if self.relaid:
            raise _OtherLayoutError
        number = self._number_of(scores)
        if number is None:
            raise CaptureError("the model's output does not depend on its input")
        last = scores.float() if scores.dtype in HALF_TYPES else scores
        last = last if self._prepared.differentiable else last.detach()
        calls, states, repeatable = tuple(self._calls), (*self._states.values(),), tuple(self._repeatable)
        former, bases = self._former, self._former.bases.union(self._bases)
        same = self._expected and len(calls) == len(former.calls) and (number, states) == (former.output, former.states)
        return Recording(
            calls, tuple(self._lines), self._inputs, (last, number), self._values, states, self._shapes, repeatable,
            bases, former if same else None,
        )  # fmt: skip

    def _number_of(self, scores: Tensor) -> int | None:
        """The number of the value that is explained; None where it does not depend on the image."""
        if self._unnoted and self._unnoted[-1][1]() is scores:
            return self._unnoted[-1][0].number
        self._catch_up()
        leaf = self._known(scores).leaf
        return leaf.index if isinstance(leaf, Ref) else None

    @contextlib.contextmanager
    def _above_autograd(self) -> Iterator[None]:
        """Here calls arrive as code makes them, and not as what autograd makes of them."""
        views = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
            if self._eager is not None:
                stack.enter_context(torch._C._ExcludeDispatchKeyGuard(views))
            yield

    def put_back(self) -> None:
        """Give buffers and weights that the run wrote to the numbers that they had, and let go of its frames.

        A frame holds the values of its variables, and this recorder among them, so neither would be freed at once.
        """
        self._modules.leave()
        with torch.no_grad():
            for tensor, before in reversed(self._before):
                self._copy_kept(self._tensors.memory_of(tensor))
                tensor.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call, and write it down if it depends on the image."""
        try:
            if self._eager is None:
                place = len(self._calls)
                known = self._expected[place] if place < len(self._expected) else None
                if known is not None and known.func is func:
                    result = self._again(known, args, kwargs or {})
                    if result is not None:
                        return result
                return self._dispatch(func, args, kwargs or {})
            with torch._C._ForceDispatchKeyGuard(*self._eager):  # as the call was without this mode: autograd sees it
                return self._dispatch(func, args, kwargs or {})
        except RelpropError as error:
            self.refused = error  # the user's code may catch it
            raise

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._unnoted:
            self._catch_up()
        facts = facts_of(func)
        if facts.fused is not None:
            return self._fused(facts.fused, func, args, kwargs)
        if func is aten.equal.default:  # traced sizes arrive as numbers, which it does not take
            return torch.equal(*map(torch.as_tensor, args))
        if func is aten.item.default and not isinstance(args[0], Tensor):  # likewise, before TorchScript has warmed up
            return args[0]
        if facts.indexes:
            func, args, kwargs = plain(func, args, kwargs)
            facts = facts_of(func)
        tensors = _tensors((*args, *kwargs.values()) if kwargs else args)
        values = [self._known(tensor) for tensor in tensors]
        if facts.op in IN_BOXES and isinstance(values[1].leaf, Ref):
            boxes = tensors[1].clone()  # what they are from here on, whatever becomes of the tensor
            values[1], tensors[1] = Value(boxes, self._new_constant(boxes, False), None, None, False), boxes
        inputs = sum(type(value.leaf) is Ref for value in values)
        written = [_argument(place, args, kwargs) for place in facts.writes]
        if not inputs or facts.constant:
            return self._constant(func, args, kwargs, values, [t for t in written if isinstance(t, Tensor)])
        return self._dependent(func, facts, args, kwargs, tensors, values, inputs, written)

    def _again(self, known: Repeatable, args: Any, kwargs: Any) -> Tensor | None:
        """Compute a call that equals the one at its place in the former run in all that is written down; else None.

        What is known of that call holds then, and need not be found out again. What each tensor stands for is noted
        later, and only where a call comes that is not as before (`_catch_up`).
        """
        unlike = self._within is not None or self._before or not known.agrees(args, kwargs)
        if unlike or torch.is_autocast_enabled(self._device):
            return None
        tensors = args[0] if known.listed else args
        for (leaf, shape, dtype), tensor in zip(known.leaves, tensors, strict=False):
            if shape is None:
                met = self._made.get(leaf.index)  # type: ignore[union-attr]
                if met is None or met() is not tensor:
                    return None
            elif self._names.of_tensor(tensor) is not leaf or tensor.shape != shape or tensor.dtype is not dtype:
                return None
        line = self._modules.look(sys._getframe(2))
        if self._modules.scopes != known.call.scopes:
            return None
        try:
            result = self._computed_again(known, args, kwargs)
        except RuntimeError:
            if not known.views:
                raise
            return None  # it has no such view: `_viewed`
        if result is args[0] and not known.writes:
            return None  # it was another tensor, as of `contiguous`
        number = known.number
        self._shapes[number] = result.shape
        if known.writes:
            del self._made[known.leaves[0][0].index]  # type: ignore[union-attr]
        met = self._made[number] = weakref.ref(result)
        if known.made:
            self._values[number] = result
            self._kept_since.append(number)
        if number in self._former.bases:
            self._held.append(result)
        self._calls.append(known.call)
        self._lines.append(line)
        self._repeatable.append(known)
        self._unnoted.append((known, met))
        return result

    def _computed_again(self, known: Repeatable, args: Any, kwargs: Any) -> Tensor:
        """The result of a call that is as it was; what rules read of its arguments, and what it overwrites, is kept."""
        values, tensors = self._values, args[0] if known.listed else args
        for stated in known.states:
            self._states.setdefault(stated[0].name, stated)
        for place, key in known.kept:
            if key not in values:
                values[key] = tensors[place]
                self._kept_since.append(key)
        for key in known.overwritten:
            values[key] = values[key].clone()
        if known.convolution is None:
            result: Tensor = known.func(*args, **kwargs) if kwargs else known.func(*args)
            return result
        name, geometry = known.convolution
        bias = args[2] if len(args) > 2 else None
        return self._prepared.forward(name, geometry, args[0], args[1], bias, exact=True)

    def _catch_up(self) -> None:
        """Note what the results of repeated calls stand for, those that something still holds."""
        for known, met in self._unnoted:
            tensor, new = met(), ref(known.number)
            if tensor is None:
                continue
            value = self._tensors.find(tensor)
            if value is None:
                memory = self._tensors.memory_of(tensor)
                self._tensors.add(tensor, new, memory=memory, views=() if memory is None else known.views)
                continue
            value.leaf = new
            if known.writes:
                assert value.memory is not None
                value.memory.version += 1
                value.memory.base.seen = value.seen = value.memory.version
        for key in self._kept_since:
            memory = self._tensors.memory_of(self._values[key])
            if memory is not None:
                memory.kept.append(key)
        self._unnoted.clear()
        self._kept_since.clear()

    def _fused(self, parts: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """A call by those that it is made of, all of the module and line that it comes from."""
        outer, self._within = self._within, self._within or self._modules.around(func._schema.name, None)
        self._refuse(func, facts_of(func), args, self._within[0])
        try:
            with self._above_autograd(), self:
                return parts(*args, **kwargs)
        finally:
            self._within = outer

    def _constant(self, func: Any, args: Any, kwargs: Any, values: list[Value], written: list[Tensor]) -> Any:
        """A call that does not depend on the image: its value is a constant of this run."""
        for tensor in written:
            self._before_write(tensor)
        if _half_type(args, kwargs):  # a weight under autocast
            args, kwargs = self._widened(args, None), {n: self._widened(v, None) for n, v in kwargs.items()}
        result = func(*args, **kwargs)
        learned = any(value.learned for value in values)
        for tensor in written:
            value = self._known(tensor)
            memory = self._tensors.memory_under(value, tensor)
            memory.version += 1
            memory.base.leaf, value.leaf, memory.base.seen, value.seen = None, None, memory.version, memory.version
            value.learned = memory.base.learned = learned
        for place, part in enumerate(_parts(result)):
            if isinstance(part, Tensor) and self._tensors.find(part) is None:
                self._note(part, None, func, args, kwargs, place, learned=learned)
        return result

    def _dependent(
        self,
        func: Any,
        facts: Facts,
        args: Any,
        kwargs: Any,
        tensors: list[Tensor],
        values: list[Value],
        inputs: int,
        written: list[Any],
    ) -> Any:
        """A call on the image: computed, written down, and its values kept where a rule will read them."""
        keeps = self._keeps(facts.op, inputs)
        if keeps is None and not written and self._parts_have_rules(func, args, kwargs):
            return self._fused(parts_of(func), func, args, kwargs)
        read, made = keeps or (False, False)
        weight = None
        for tensor, value in zip(tensors, values, strict=True):
            leaf = value.leaf
            if isinstance(leaf, Ref):
                continue
            if leaf is None:
                value.leaf = self._new_constant(tensor, value.learned)
            else:
                weight = weight or (leaf.name if leaf.kept else None)
                if leaf.name not in self._states:
                    self._states[leaf.name] = (leaf, tensor.shape, tensor.dtype)
        leaves = iter(values)
        named = _named(args, leaves)
        keywords = {name: _named(value, leaves) for name, value in kwargs.items()} if kwargs else kwargs
        scopes, line = self._within or self._modules.around(func._schema.name, weight)
        self._refuse(func, facts, args, scopes)
        for tensor, value in zip(tensors, values, strict=True):
            leaf = value.leaf
            if type(leaf) is Ref:
                self._made[leaf.index] = value.tensor
            if read or type(leaf) is not Ref:
                self._keep(value, tensor)
        overwritten = [key for tensor in written for key in self._before_write(tensor)]
        if facts.writes:
            keywords = {name: value for name, value in keywords.items() if name not in facts.writes}
        halved = any(tensor.dtype in HALF_TYPES for tensor in tensors) or (facts.typed and _half_type(args, kwargs))
        geometry = None if facts.writes or kwargs else self._geometry(func, facts, args, named)
        result = self._computed(func, args, kwargs, named, geometry, halved=halved)
        results: list[int | None] = []
        writes: list[tuple[Value, Ref]] = []
        for place, part in enumerate(_parts(result)):
            if not isinstance(part, Tensor):
                results.append(None)
                continue
            new = self._next(part.shape) if _carries(part) else None
            results.append(None if new is None else new.index)
            if written and any(part is tensor for tensor in written):
                if new is not None:
                    writes.append((self._known(part), new))
                continue
            if any(part is tensor for tensor in tensors):  # handed on as it is: `contiguous`, dropout in evaluation
                self._becomes(self._known(part), new)
                continue
            noted = self._note(part, new, func, args, kwargs, place)
            if new is not None:
                self._made[new.index] = noted.tensor
            if made and new is not None:
                self._keep(noted, part)
        single = isinstance(result, Tensor)
        sizes = () if single else tuple(tuple(p.shape) for p in _parts(result) if isinstance(p, Tensor))
        if any(number is not None for number in results):
            self._write_down(facts.functional, named, keywords, tuple(results), single, sizes, scopes, line)
            simple = single and not halved and self._within is None and facts.writes in ((), (0,))
            if simple and not facts.indexes and facts.op not in IN_BOXES and self._modules.scopes is not None:
                packed = geometry if geometry is not None and packs(geometry, args[0], args[1]) else None
                self._repeatable[-1] = self._as_repeatable(
                    func, args, kwargs, values, result, (read, made), tuple(overwritten), packed
                )
        for value, new in writes:
            self._written(value, new, scopes, line)
            if made:
                self._keep(value, value.tensor())  # type: ignore[arg-type]
        return result

    def _parts_have_rules(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether relevance could go through an operation, and torch has more than a primitive of its own for it."""
        parts = parts_of(func)
        if parts is None:
            return False
        with _Seen() as seen:
            result = parts(*args, **kwargs)
        primitives = (canonical(made.name()) for made in seen.funcs if made.namespace == "prims")
        return any(map(_carries, _parts(result))) and all(self._keeps(op, 1) is not None for op in primitives)

    def _write_down(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        results: tuple[int | None, ...],
        single: bool,
        sizes: tuple[tuple[int, ...], ...],
        scopes: Scopes,
        line: Line,
    ) -> None:
        call = Call(func, args, tuple(kwargs.items()), results, single, sizes, scopes)
        place = len(self._calls)
        if self._expected and (place == len(self._expected) or call != self._former.calls[place]):
            self._expected = ()  # this run takes another way
        self._calls.append(call)
        self._lines.append(line)
        self._repeatable.append(None)

    def _computed(
        self, func: Any, args: Any, kwargs: Any, named: Any, geometry: ConvGeometry | None, *, halved: bool = False
    ) -> Any:
        """The result of a call; half precision is computed with as float32, also under the model's own autocast."""
        if torch.is_autocast_enabled(self._device):
            with torch.autocast(self._device, enabled=False):
                return self._computed(func, args, kwargs, named, geometry, halved=halved)
        if halved:
            args, kwargs = self._widened(args, named), {n: self._widened(v, None) for n, v in kwargs.items()}
        if geometry is not None and packs(geometry, args[0], args[1]):
            bias = args[2] if len(args) > 2 else None
            return self._prepared.forward(named[1].name, geometry, args[0], args[1], bias, exact=True)
        if func is aten.view.default or func is aten._unsafe_view.default:
            return self._viewed(func, args)
        return func(*args, **kwargs)

    def _geometry(self, func: Any, facts: Facts, args: Any, named: Any) -> ConvGeometry | None:
        """Of a convolution whose weight is the model's own, and may be laid out once."""
        own = facts.op == "conv" and self._prepared.channels_last and isinstance(named[1], State) and named[1].kept
        return conv_geometry(func, (*args[:3], *named[3:])) if own else None

    def _as_repeatable(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        values: list[Value],
        result: Tensor,
        keeps: tuple[bool, bool],
        overwritten: tuple[int | str, ...],
        geometry: ConvGeometry | None,
    ) -> Repeatable | None:
        """What another run may know of the last call; None where it holds for this run alone."""
        call, (read, made), listed = self._calls[-1], keeps, type(args[0]) is list
        first = next((k for k, argument in enumerate(args) if not isinstance(argument, Tensor)), len(args))
        tensors = args[0] if listed else args[:first]
        rest, named = args[1 if listed else first :], call.args[0] if listed else call.args[:first]
        leaves: list[Any] = [
            (leaf, None, None) if isinstance(leaf, Ref) else (leaf, tensor.shape, tensor.dtype)
            for leaf, tensor in zip(named, tensors, strict=True)
        ]
        states = [stated for stated in leaves if isinstance(stated[0], State)]
        kept = [
            (place, leaf.index if isinstance(leaf, Ref) else leaf.name)
            for place, (leaf, *_) in enumerate(leaves)
            if read or not isinstance(leaf, Ref)
        ]
        writes = func is not call.func
        value = self._tensors.find(result)
        same = any(result is tensor for tensor in tensors)
        if len(leaves) != len(values) or value is None or value.views is None or same is not writes:
            return None
        if writes and not (result is args[0] and value.memory is not None and value.memory.base is value):
            return None
        if not all(leaf.kept and not writes for leaf, *_ in states) or call.results[0] is None:
            return None
        convolution = None if geometry is None else (call.args[1].name, geometry)
        views = () if writes else value.views
        return Repeatable(
            func, call, call.results[0], listed, tuple(leaves), len(args), rest, kwargs, tuple(kept), tuple(states),
            made, writes, overwritten, views, convolution,
        )  # fmt: skip

    def _viewed(self, func: Any, args: Any) -> Tensor:
        """A view, or a copy where the memory format that we chose for images has no such view."""
        try:
            viewed: Tensor = func(*args)
        except RuntimeError:
            if all(tensor.is_contiguous() for tensor in self._inputs.tensors):
                raise
            viewed = args[0].reshape(args[1])
            self._expected = ()  # a write to it is to be noticed
            for tensor, value in ((args[0], self._known(args[0])), (viewed, self._tensors.add(viewed, None))):
                self._tensors.memory_under(value, tensor).relaid = True
        return viewed

    def _refuse(self, func: Any, facts: Facts, args: Any, scopes: Any) -> None:
        """Refuse what is random, mixes the images of a batch, or has its weights out of sight."""
        where = scopes[-1][1] if scopes and scopes[-1][1] else "the model"
        if facts.functional is None:
            raise CaptureError(
                f"{func} at {where} writes to a value that depends on the image, and has no form without writing"
            )
        if facts.mode is not None and len(args) > facts.mode and args[facts.mode] is True:
            raise CaptureError(
                f"{facts.op} at {where} runs as in training mode, with random numbers or the statistics of the batch; "
                "call model.eval() first, or replace it where it does so in evaluation mode too"
            )
        if facts.quantized:
            raise CaptureError(
                f"{where} is quantized ({func}): its weights are packed integers, which rules cannot read. Explain the "
                "network that it was made from"
            )

    def _known(self, tensor: Tensor) -> Value:
        """What a tensor stands for now."""
        value = self._tensors.find(tensor)
        if value is None:
            return self._met(tensor)
        memory = value.memory
        if memory is not None and value.seen != memory.version:
            self._bring_up_to_date(value, memory)
        return value

    def _met(self, tensor: Tensor) -> Value:
        """A tensor that no call returned: a weight, a constant of the code, or another handle of a known one."""
        name = self._names.of_tensor(tensor)
        if name is None and not self._read_again and isinstance(tensor, nn.Parameter | nn.Buffer):
            self._names.read()
            self._read_again = True
            name = self._names.of_tensor(tensor)
        if name is not None:
            return self._tensors.add_weight(tensor, name)
        memory = self._tensors.memory_of(tensor)
        if memory is None:
            return self._tensors.add(tensor, None, learned=self._names.frozen)
        shaped = (tensor.shape, tensor.stride(), tensor.storage_offset())
        twin = next((value for value in memory.values if value.geometry == shaped), None)
        if twin is None:
            if isinstance(memory.base.leaf, Ref):
                raise CaptureError(
                    "the model makes a view of a value without PyTorch's dispatcher, so what it shows is not known"
                )
            return self._tensors.add(tensor, None, learned=memory.base.learned, memory=memory, views=None)
        if twin.seen != memory.version:
            self._bring_up_to_date(twin, memory)
        return self._tensors.add(tensor, twin.leaf, learned=twin.learned, memory=memory, views=twin.views)

    def _bring_up_to_date(self, value: Value, memory: Memory) -> None:
        """What a view stands for after its memory was written to: the same view of the new base."""
        base = memory.base
        value.seen = memory.version
        if not isinstance(base.leaf, Ref):
            value.leaf = None
            return
        if value.views is None:
            raise CaptureError("the model writes to memory that tensors share in a way that is not known")
        leaf: Ref = base.leaf
        for func, args, (place, *keywords) in value.views:
            leaf = self._view_again(leaf, func, args, place, dict(keywords))
        value.leaf = leaf

    def _view_again(self, leaf: Ref, func: Any, args: Any, place: int, kwargs: dict[str, Any]) -> Ref:
        shaped = torch.empty(self._shapes[leaf.index], device="meta")
        parts = [part for part in _parts(func(shaped, *args, **kwargs)) if isinstance(part, Tensor)]
        single = len(parts) == 1
        new = self._next(parts[0 if single else place].shape)
        results = tuple(new.index if k == place or single else None for k in range(len(parts)))
        sizes = () if single else tuple(tuple(part.shape) for part in parts)
        self._write_down(func, (leaf, *args), kwargs, results, single, sizes, (), None)
        return new

    def _note(
        self, tensor: Tensor, leaf: Ref | None, func: Any, args: Any, kwargs: Any, place: int, *, learned: bool = False
    ) -> Value:
        """Take note of a result: a view of an argument, or memory of its own."""
        source = args[0] if args and isinstance(args[0], Tensor) else None
        known = None if source is None else self._tensors.find(source)
        if known is not None and known.memory is None and source is not None:
            self._tensors.memory_under(known, source)  # a weight, of which this may be a view
        memory = self._tensors.memory_of(tensor)
        if memory is None:
            return self._tensors.add(tensor, leaf, learned=learned)
        if memory.number is not None:
            self._bases.add(memory.number)
        if known is None or known.memory is not memory or known.views is None:
            return self._tensors.add(tensor, leaf, learned=learned, memory=memory, views=None)
        keywords = tuple((name, _hashable(value)) for name, value in kwargs.items())
        views = (*known.views, (func, tuple(map(_hashable, args[1:])), (place, *keywords)))
        return self._tensors.add(tensor, leaf, learned=learned, memory=memory, views=views)

    def _before_write(self, tensor: Tensor) -> list[int | str]:
        """Keep what a write would change, recorded values, whose keys it returns, and the model's own buffers."""
        value = self._known(tensor)
        memory = self._tensors.memory_under(value, tensor)
        if memory.relaid:
            self.relaid = True  # the user's code may catch what is raised
            raise _OtherLayoutError
        if isinstance(value.leaf, State) and self._values.get(value.leaf.name) is tensor:
            memory.kept.append(value.leaf.name)  # a weight, whose memory was not needed before
        copied = self._copy_kept(memory)
        if isinstance(memory.base.leaf, State) and memory.base.leaf.kept and not memory.version:
            owner = memory.base.tensor()
            if owner is not None:
                self._before.append((owner, owner.detach().clone()))
        return copied

    def _copy_kept(self, memory: Memory | None) -> list[int | str]:
        """Copy the recorded values that lie in memory which is about to be written to; returns their keys."""
        if memory is None:
            return []
        kept, memory.kept = memory.kept, []
        for key in kept:
            self._values[key] = self._values[key].clone()
        return kept

    def _becomes(self, value: Value, new: Ref | None) -> None:
        """Give a tensor another value than it had."""
        if isinstance(value.leaf, Ref):
            self._made.pop(value.leaf.index, None)
        value.leaf = new
        if new is not None:
            self._made[new.index] = value.tensor

    def _written(self, value: Value, new: Ref, scopes: Any, line: Line) -> None:
        """Give a tensor that was written to, and the base of its memory, their new values."""
        memory = value.memory
        assert memory is not None, "what is written to lies in memory that is known"
        base = memory.base
        if value is not base:
            if value.views is None:
                raise CaptureError("the model writes to memory that tensors share in a way that is not known")
            old = base.leaf if isinstance(base.leaf, Ref) else self._constant_before(value)
            made = self._next(base.geometry[0])
            self._write_down(write, (old, new, value.views), {}, (made.index,), True, (), scopes, line)
            self._becomes(base, made)
        self._becomes(value, new)
        memory.version += 1
        base.seen = value.seen = memory.version

    def _constant_before(self, value: Value) -> State:
        """The constant that a base was before a view of it was written to; there, its numbers do not count any more."""
        tensor = value.tensor()
        assert tensor is not None
        assert value.memory is not None
        whole = value.memory.base
        base = tensor.detach().as_strided(*whole.geometry).clone()
        name = self._new_constant(base, whole.learned)
        self._values[name.name] = base
        return name

    def _new_constant(self, tensor: Tensor, learned: bool) -> State:
        name = state(f"constant_{self._constants}", learned=learned, kept=False)
        self._constants += 1
        self._states[name.name] = (name, tensor.shape, tensor.dtype)
        return name

    def _keep(self, value: Value, tensor: Tensor) -> None:
        """Hold a value for the backward pass."""
        leaf = value.leaf
        assert leaf is not None
        key = leaf.index if isinstance(leaf, Ref) else leaf.name
        if key not in self._values:
            self._values[key] = self._wide(tensor, leaf)
            if value.memory is not None:
                value.memory.kept.append(key)

    def _wide(self, tensor: Tensor, leaf: Ref | State) -> Tensor:
        """A tensor in half precision as float32; that of a weight is kept for as long as the weight is the same."""
        if tensor.dtype not in HALF_TYPES:
            return tensor
        if isinstance(leaf, State) and leaf.kept:
            return self._prepared.get(leaf.name, "float32", (tensor,), tensor.float)
        return tensor.float()

    def _widened(self, argument: Any, named: Any) -> Any:
        if isinstance(argument, Tensor):
            return self._wide(argument, named if isinstance(named, State) else ref(0)) if named else argument
        if isinstance(argument, list | tuple):
            parts = named if isinstance(named, tuple) else (None,) * len(argument)
            return type(argument)(self._widened(a, n) for a, n in zip(argument, parts, strict=False))
        return torch.float32 if isinstance(argument, torch.dtype) and argument in HALF_TYPES else argument

    def _next(self, shape: torch.Size) -> Ref:
        new = ref(len(self._shapes))
        self._shapes[new.index] = shape
        return new


def _named(argument: Any, values: Iterator[Value]) -> Any:
    """An argument with tensors by what they stand for, hashable; `values` are those of its tensors, in order."""
    kind = type(argument)
    if kind is int or kind is bool or kind is float:
        return argument
    if isinstance(argument, Tensor):
        return next(values).leaf
    if isinstance(argument, list | tuple):
        return tuple([_named(part, values) for part in argument])
    return torch.float32 if isinstance(argument, torch.dtype) and argument in HALF_TYPES else argument


def _tensors(arguments: Any) -> list[Tensor]:
    """The tensors in arguments, nested lists included, in order."""
    found: list[Tensor] = []
    for part in arguments:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, list | tuple):
            found += _tensors(part)
    return found


def _carries(result: Any) -> bool:
    """Whether relevance could go through what a call returned."""
    return isinstance(result, Tensor) and (result.is_floating_point() or result.is_complex())


def _parts(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def _argument(place: int | str, args: Any, kwargs: Any) -> Any:
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def _half_type(args: Any, kwargs: Any) -> bool:
    return any(isinstance(a, torch.dtype) and a in HALF_TYPES for a in (*args, *kwargs.values()))


def _hashable(argument: Any) -> Any:
    return tuple(map(_hashable, argument)) if isinstance(argument, list | tuple) else argument
