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
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from relprop.core.capture.calls import Facts, facts_of, plain
from relprop.core.capture.former import Former
from relprop.core.capture.inputs import Inputs, one_input, parameters_of
from relprop.core.capture.memory import MAY_COPY, OtherLayoutError, Tensors, Value
from relprop.core.capture.model import HALF_TYPES, Names, Output, scores_in
from relprop.core.capture.modules import Line, Modules, bottom
from relprop.core.capture.parts import Mode, NoFastPath, carries, parts_of, results_of, scaled_sum
from relprop.core.capture.recording import Draft, Recording
from relprop.core.capture.repeat import Repeats, repeatable
from relprop.core.capture.scripted import Scopes
from relprop.core.graph.convolution import ConvGeometry, conv_geometry
from relprop.core.graph.graph import Ref, State, ref
from relprop.core.graph.ops import IN_BOXES
from relprop.core.weights.packed import packs
from relprop.core.weights.prepared import Prepared
from relprop.errors import CaptureError, InputError, RelpropError
from relprop.shortage import is_out_of_memory

aten = torch.ops.aten

#: which values of a call to keep: (its operation, how many of its inputs depend on the image) -> (inputs, output); None
#: where the operation has no rule
Keeps = Callable[[str, int], tuple[bool, bool] | None]


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
    former = former or Former()
    layouts = (True, False) if prepared.channels_last and not former.row_major else (False,)
    for layout in layouts:
        own = replace(prepared, channels_last=layout)
        recorder = _Recorder(names, keeps, own, inputs.copied(channels_last=layout), former)
        try:
            return recorder.run(model, output)
        except OtherLayoutError:
            continue
        except RelpropError:
            raise
        except Exception as error:  # whatever the user's code raises
            if is_out_of_memory(error):
                raise
            if layout:  # it may ask for the memory format that it was given
                continue
            if recorder.refused is not None:
                raise recorder.refused from error
            reason = str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
            takes = f"; its arguments are {', '.join(parameters_of(model))}" if isinstance(error, TypeError) else ""
            raise InputError(f"the model cannot take {inputs.described()}: {reason}{takes}") from error
        finally:
            recorder.put_back()
    raise AssertionError("images in row-major order need no other layout")


class _Recorder(Mode):
    """Writes down each call of a run on its way to where it is computed."""

    refused: RelpropError | None = None

    def __init__(self, names: Names, keeps: Keeps, prepared: Prepared, inputs: Inputs, former: Former) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names, self._keeps, self._prepared, self._inputs = names, keeps, prepared, inputs
        self._device = inputs.device.type
        self._draft = Draft(inputs.shape, former)
        self._tensors = Tensors(names, self._draft, channels_last=prepared.channels_last)
        self._repeats = Repeats(self._draft, self._tensors, names, prepared)
        self._within: tuple[Scopes, Line] | None = None
        self._eager: Any = None
        self._modules = Modules(names, None)
        self._take(inputs)

    def _take(self, inputs: Inputs) -> None:
        """Take note of the inputs: one is the source of the graph itself, several are parts of it."""
        made = self._tensors.made
        if not inputs.several:
            made[0] = self._tensors.add(inputs.tensors[0], ref(0)).tensor
            return
        for name, (start, end), tensor in zip(inputs.names, inputs.bounds, inputs.tensors, strict=True):
            new, path = self._draft.next(tensor.shape), f"inputs.{name}"
            args = (ref(0), start, end, tuple(tensor.shape[1:]))
            self._draft.write_down(one_input, args, (new.index,), scopes=((path, path),))
            made[new.index] = self._tensors.add(tensor, new).tensor

    def run(self, model: nn.Module, output: Output) -> Recording:
        """Run the model, and return what was recorded."""
        self._modules = Modules(self._names, bottom())
        if self._prepared.differentiable:
            self._eager = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        whole = NoFastPath() if self._names.nests else contextlib.nullcontext()
        with torch.set_grad_enabled(self._prepared.differentiable), self._above_autograd(), self, whole:
            scores = scores_in(self._inputs.call(model), output)
        if self.refused is not None:  # and the user's code caught it
            raise self.refused
        if self._tensors.relaid:  # likewise
            raise OtherLayoutError
        number = self._repeats.number_of(scores)
        if number is None:
            raise CaptureError("the model's output does not depend on its input")
        self._draft.row_major = not self._prepared.channels_last
        last = scores.float() if scores.dtype in HALF_TYPES else scores
        last = last if self._prepared.differentiable else last.detach().clone()  # it may be the model's own buffer
        return self._draft.finish(self._inputs, last, number)

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
        self._tensors.put_back()
        self.refused = None  # its traceback holds this recorder, too

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a call, and write it down if it depends on the image."""
        try:
            if self._eager is None:
                draft = self._draft
                place, expected = len(draft.calls), draft.expected
                known = expected[place] if place < len(expected) else None
                if known is not None and known.func is func and self._is_plain:
                    result = self._repeats.again(known, args, kwargs or {}, self._modules)
                    if result is not None:
                        return result
                return self._dispatch(func, args, kwargs or {})
            with torch._C._ForceDispatchKeyGuard(*self._eager):  # as the call was without this mode: autograd sees it
                return self._dispatch(func, args, kwargs or {})
        except RelpropError as error:
            self.refused = error  # the user's code may catch it
            raise

    @property
    def _is_plain(self) -> bool:
        """Whether a call is computed as it comes."""
        return not (self._within or self._tensors.before or torch.is_autocast_enabled(self._device))

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._repeats.catch_up()
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
        if func is aten.fill_.Tensor:  # perhaps with a number of the run
            return self._dispatch(aten.copy_.default, args, kwargs)
        tensors = _tensors((*args, *kwargs.values()) if kwargs else args)
        values = [self._tensors.known(tensor) for tensor in tensors]
        if facts.op in IN_BOXES and isinstance(values[1].leaf, Ref):
            boxes = tensors[1].clone()  # what they are from here on, whatever becomes of the tensor
            values[1], tensors[1] = Value(boxes, self._draft.constant(boxes, False), None, None, False), boxes
        given = [_argument(place, args, kwargs) for place in facts.writes]
        written = [tensor for tensor in given if isinstance(tensor, Tensor)]
        inputs = sum(type(value.leaf) is Ref for value in values)
        overwrites = func is aten.copy_.default and type(values[1].leaf) is not Ref
        if not inputs or facts.constant or overwrites:
            return self._constant(func, args, kwargs, values, written)
        if func is aten.addmm.default and (kwargs or type(values[0].leaf) is Ref):
            return self._fused(scaled_sum, func, args, kwargs)
        keeps = self._keeps(facts.op, inputs)
        whole: Any = facts.functional
        if facts.writes == (0,) and whole is not None:
            fused = facts_of(whole).fused or (keeps is None and parts_of(whole, args, kwargs))
            if fused:  # `x.lerp_(y, w)` is `x.copy_(x.lerp(y, w))`
                return self._fused(lambda x, *rest, **by: x.copy_(whole(x, *rest, **by)), func, args, kwargs)
        if keeps is None and not written and (found := parts_of(func, args, kwargs)) is not None:
            parts, primitives = found
            if all(self._keeps(primitive, 1) is not None for primitive in primitives):
                return self._fused(parts, func, args, kwargs)
        return self._dependent(func, facts, args, kwargs, tensors, values, written, keeps or (False, False))

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
            self._tensors.keep_before_write(tensor)
        if _half_type(args, kwargs):  # a weight under autocast
            args, kwargs = self._widened(args, None), {n: self._widened(v, None) for n, v in kwargs.items()}
        result = func(*args, **kwargs)
        learned = any(value.learned for value in values)
        for tensor in written:
            self._tensors.write_constant(
                tensor, learned, *(self._within or self._modules.around(func._schema.name, None))
            )
        for place, part in enumerate(results_of(result)):
            if isinstance(part, Tensor) and self._tensors.find(part) is None:
                self._tensors.add_result(part, None, func, args, kwargs, place, learned=learned)
        return result

    def _dependent(
        self,
        func: Any,
        facts: Facts,
        args: Any,
        kwargs: Any,
        tensors: list[Tensor],
        values: list[Value],
        written: list[Tensor],
        keeps: tuple[bool, bool],
    ) -> Any:
        """A call on the image: computed, written down, and its values kept where a rule will read them."""
        weight = self._name_states(tensors, values)
        leaves = iter(values)
        named = _named(args, leaves)
        by_name = [(name, _named(value, leaves)) for name, value in kwargs.items()]
        keywords = tuple((name, value) for name, value in by_name if name not in facts.writes)
        scopes, line = self._within or self._modules.around(func._schema.name, weight)
        self._refuse(func, facts, args, scopes)
        if facts.op == "as_strided" and self._prepared.channels_last:
            self._tensors.need_other_layout()
        read, made = keeps
        for tensor, value in zip(tensors, values, strict=True):
            if isinstance(value.leaf, Ref):
                self._tensors.made[value.leaf.index] = value.tensor
            if read or not isinstance(value.leaf, Ref):
                self._keep(value, tensor)
        overwritten = [key for tensor in written for key in self._tensors.keep_before_write(tensor)]
        halved = any(tensor.dtype in HALF_TYPES for tensor in tensors) or (facts.typed and _half_type(args, kwargs))
        geometry = None if facts.writes or kwargs else self._geometry(func, facts, args, named)
        result = self._computed(func, args, kwargs, named, geometry, halved=halved)
        results, writes = self._results(result, func, args, kwargs, tensors, written, made=made)
        if any(number is not None for number in results):
            single = isinstance(result, Tensor)
            sizes = () if single else tuple(tuple(p.shape) for p in results_of(result) if isinstance(p, Tensor))
            assert facts.functional is not None, "what has no form without writing is refused"
            self._draft.write_down(
                facts.functional, named, results, kwargs=keywords, single=single, sizes=sizes, scopes=scopes, line=line
            )
            simple = single and not halved and self._within is None and facts.writes in ((), (0,))
            if simple and not facts.indexes and facts.op not in IN_BOXES and self._modules.scopes is not None:
                self._draft.repeatable[-1] = repeatable(
                    self._draft.calls[-1], func, args, kwargs, result, self._tensors.find(result),
                    tensors=len(values), keeps=keeps, overwritten=tuple(overwritten),
                    geometry=geometry if geometry is not None and packs(geometry, args[0], args[1]) else None,
                )  # fmt: skip
        for tensor, value, new in writes:
            self._tensors.write(value, new, scopes, line)
            if made:
                self._keep(value, tensor)
        return result

    def _name_states(self, tensors: list[Tensor], values: list[Value]) -> str | None:
        """Take note of the weights and constants among the arguments; returns the name of the first weight."""
        first: str | None = None
        for tensor, value in zip(tensors, values, strict=True):
            if value.leaf is None:
                value.leaf = self._draft.constant(tensor, value.learned)
            elif isinstance(value.leaf, State):
                first = first or (value.leaf.name if value.leaf.kept else None)
                self._draft.states.setdefault(value.leaf.name, (value.leaf, tensor.shape, tensor.dtype))
        return first

    def _results(
        self,
        result: Any,
        func: Any,
        args: Any,
        kwargs: Any,
        tensors: list[Tensor],
        written: list[Tensor],
        *,
        made: bool,
    ) -> tuple[tuple[int | None, ...], list[tuple[Tensor, Value, Ref]]]:
        """The number of each value that a call returned, and the new values of those that it wrote to."""
        results: list[int | None] = []
        writes: list[tuple[Tensor, Value, Ref]] = []
        for place, part in enumerate(results_of(result)):
            new = self._draft.next(part.shape) if carries(part) else None
            results.append(None if new is None else new.index)
            if not isinstance(part, Tensor):
                continue
            if any(part is tensor for tensor in written):
                if new is not None:
                    writes.append((part, self._tensors.known(part), new))
            elif any(part is tensor for tensor in tensors):  # handed on as it is: `contiguous`, dropout in evaluation
                self._tensors.becomes(self._tensors.known(part), new)
            else:
                value = self._tensors.add_result(part, new, func, args, kwargs, place)
                if new is not None:
                    self._tensors.made[new.index] = value.tensor
                    if made:
                        self._keep(value, part)
        if func in MAY_COPY:
            self._tensors.relay(args[0], result)
        return tuple(results), writes

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

    def _viewed(self, func: Any, args: Any) -> Tensor:
        """A view, or a copy where the memory format that we chose for images has no such view."""
        try:
            viewed: Tensor = func(*args)
        except RuntimeError:
            if all(tensor.is_contiguous() for tensor in self._inputs.tensors):
                raise
            viewed = args[0].reshape(args[1])
            self._tensors.add_copied_view(args[0], viewed)
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

    def _keep(self, value: Value, tensor: Tensor) -> None:
        """Hold a value for the backward pass."""
        leaf = value.leaf
        assert leaf is not None
        key, kept = leaf.index if isinstance(leaf, Ref) else leaf.name, self._draft.values
        if key not in kept:
            kept[key] = self._wide(tensor, leaf)
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


def _argument(place: int | str, args: Any, kwargs: Any) -> Any:
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def _half_type(args: Any, kwargs: Any) -> bool:
    return any(isinstance(a, torch.dtype) and a in HALF_TYPES for a in (*args, *kwargs.values()))
