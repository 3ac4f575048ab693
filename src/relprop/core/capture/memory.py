"""What each tensor of a run stands for, also after writes in place: tensors that share memory change together.

Every tensor is a view of the *base* of its memory, the first tensor that was met there. A write gives the written
tensor a new value, and its base too (`views.write`). Any other view of that base is out of date from then on; when it
is read again, it is the same view of the new base.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from relprop.core.capture.model import Names
from relprop.core.capture.modules import Line
from relprop.core.capture.recording import Draft
from relprop.core.capture.scripted import Scopes
from relprop.core.graph.graph import Ref, State
from relprop.core.graph.views import VIEWS, View, write
from relprop.errors import CaptureError

aten = torch.ops.aten


#: operations that return a view where the memory format of their tensor has such a view, and else a copy
MAY_COPY = frozenset({aten.reshape.default, aten.contiguous.default, aten.flatten.using_ints, aten.reshape_as.default})


#: held from a run's first write to the model's own numbers until they are put back: other threads run that model, too
_WRITING = threading.RLock()


class Memory:
    """The memory that some tensors share.

    Attributes:
        storage: a weak reference, which keeps its identity from being given to other memory.
        base: the tensor that all others are views of.
        number: of the value that the base was first; None where it does not depend on the image.
        version: how often it was written to.
        kept: keys of the recorded values that lie in it.
        relaid: whether a tensor is a view of it, or a copy, where it would be the other in another memory format.
    """

    __slots__ = ("base", "kept", "number", "relaid", "storage", "values", "version")

    def __init__(self, tensor: Tensor, base: Value) -> None:
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.base = base
        self.number = base.leaf.index if isinstance(base.leaf, Ref) else None
        self.values: list[Value] = []
        self.version = 0
        self.kept: list[int | str] = []
        self.relaid = False

    def change(self, value: Value) -> None:
        """Take note of a write through a value: all but that and the base are out of date."""
        self.version += 1
        self.base.seen = value.seen = self.version


class Value:
    """A tensor of the run.

    Attributes:
        tensor: a weak reference.
        geometry: its size, strides and offset in its memory.
        leaf: what it stands for: a `Ref` where it depends on the image, a `State` for a weight or a constant that was
            used, None for a constant that was not.
        learned: whether a weight is in it.
        memory: that it lies in; None for a weight, until something else is found to lie there too.
        views: how it comes from the base of that memory; None where that is not known.
        seen: the version of the memory that `leaf` holds for.
    """

    __slots__ = ("geometry", "leaf", "learned", "memory", "seen", "tensor", "views")

    def __init__(
        self,
        tensor: Tensor,
        leaf: Ref | State | None,
        memory: Memory | None,
        views: tuple[View, ...] | None,
        learned: bool,
    ) -> None:
        self.tensor = weakref.ref(tensor)
        self.leaf = leaf
        self.learned = learned
        self.views = views
        self.seen = 0
        self.memory = memory
        if memory is not None:
            self.lie_in(memory, tensor)

    def lie_in(self, memory: Memory, tensor: Tensor) -> None:
        """Take its place in a memory."""
        self.memory = memory
        self.geometry = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self.seen = memory.version
        memory.values.append(self)


class OtherLayoutError(Exception):
    """What the model does depends on the memory format of its images."""


class Tensors:
    """The tensors that a run has met, by identity, what they stand for, and the memory that they lie in.

    Attributes:
        made: the tensor of each value of the run, by its number.
        before: buffers and weights that the run wrote to, and what they were.
        relaid: whether the model did what depends on the memory format of its images, see `need_other_layout`.
    """

    def __init__(self, names: Names, draft: Draft, *, channels_last: bool) -> None:
        self.made: dict[int, weakref.ref[Tensor]] = {}
        self.before: list[tuple[Tensor, Tensor]] = []
        self.relaid = False
        self._names, self._draft, self._channels_last = names, draft, channels_last
        self._values: dict[int, Value] = {}
        self._memories: dict[int, Memory] = {}
        self._read_again = False

    def find(self, tensor: Tensor) -> Value | None:
        """What was last known of a tensor."""
        known = self._values.get(id(tensor))
        return known if known is not None and known.tensor() is tensor else None

    def known(self, tensor: Tensor) -> Value:
        """What a tensor stands for now."""
        value = self.find(tensor)
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
            value = self._values[id(tensor)] = Value(tensor, name, None, None, True)
            return value
        memory = self.memory_of(tensor)
        if memory is None:
            return self.add(tensor, None, learned=self._names.frozen)
        shaped = (tensor.shape, tensor.stride(), tensor.storage_offset())
        twin = next((value for value in memory.values if value.geometry == shaped), None)
        if twin is None:
            if isinstance(memory.base.leaf, Ref):
                raise CaptureError(
                    "the model makes a view of a value without PyTorch's dispatcher, so what it shows is not known"
                )
            return self.add(tensor, None, learned=memory.base.learned, memory=memory, views=None)
        if twin.seen != memory.version:
            self._bring_up_to_date(twin, memory)
        return self.add(tensor, twin.leaf, learned=twin.learned, memory=memory, views=twin.views)

    def _bring_up_to_date(self, value: Value, memory: Memory) -> None:
        """What a view stands for after its memory was written to: the same view of the new base."""
        base = memory.base
        value.seen = memory.version
        if not isinstance(base.leaf, Ref):
            value.leaf = None
            return
        if value.views is None:
            raise CaptureError(_UNKNOWN_SHARING)
        leaf: Ref = base.leaf
        for func, args, (place, *keywords) in value.views:
            leaf = self._view_again(leaf, func, args, place, tuple(keywords))
        value.leaf = leaf

    def _view_again(self, leaf: Ref, func: Any, args: Any, place: int, kwargs: tuple[tuple[str, Any], ...]) -> Ref:
        draft = self._draft
        form = torch.empty(draft.shapes[leaf.index], device="meta")
        viewed = form.reshape(*args) if func in VIEWS else func(form, *args, **dict(kwargs))
        parts = [viewed] if isinstance(viewed, Tensor) else [*viewed]
        single = len(parts) == 1
        new = draft.next(parts[0 if single else place].shape)
        results = tuple(new.index if k == place or single else None for k in range(len(parts)))
        sizes = () if single else tuple(tuple(part.shape) for part in parts)
        draft.write_down(func, (leaf, *args), results, kwargs=kwargs, single=single, sizes=sizes)
        return new

    def memory_of(self, tensor: Tensor) -> Memory | None:
        """The memory that a tensor lies in, if another was met there."""
        return self._memories.get(tensor.untyped_storage()._cdata)

    def memory_under(self, value: Value, tensor: Tensor) -> Memory:
        """The memory that a value lies in, looked for where it was not yet needed."""
        if value.memory is None:
            memory = self.memory_of(tensor)
            if memory is None:
                memory = self._new_memory(tensor, value)
                value.views = ()
            value.lie_in(memory, tensor)
        assert value.memory is not None
        return value.memory

    def _new_memory(self, tensor: Tensor, base: Value) -> Memory:
        memory = Memory(tensor, base)
        self._memories[memory.storage.cdata] = memory
        return memory

    def add(
        self,
        tensor: Tensor,
        leaf: Ref | State | None,
        *,
        learned: bool = False,
        memory: Memory | None = None,
        views: tuple[View, ...] | None = (),
    ) -> Value:
        """Take note of a tensor: of memory of its own, or of memory that is known."""
        value = Value(tensor, leaf, memory, views, learned)
        if memory is None:
            value.views = ()
            value.lie_in(self._new_memory(tensor, value), tensor)
        self._values[id(tensor)] = value
        return value

    def add_result(
        self, tensor: Tensor, leaf: Ref | None, func: Any, args: Any, kwargs: Any, place: int, *, learned: bool = False
    ) -> Value:
        """Take note of what a call returned in some place: a view of its first argument, or memory of its own."""
        source = args[0] if args and isinstance(args[0], Tensor) else None
        known = None if source is None else self.find(source)
        if known is not None and known.memory is None and source is not None:
            self.memory_under(known, source)  # a weight, of which this may be a view
        memory = self.memory_of(tensor)
        if memory is None:
            return self.add(tensor, leaf, learned=learned)
        if memory.number is not None:
            self._draft.bases.add(memory.number)
        if known is None or known.memory is not memory or known.views is None:
            return self.add(tensor, leaf, learned=learned, memory=memory, views=None)
        keywords = tuple((name, _hashable(value)) for name, value in kwargs.items())
        views = (*known.views, (func, tuple(map(_hashable, args[1:])), (place, *keywords)))
        return self.add(tensor, leaf, learned=learned, memory=memory, views=views)

    def add_copied_view(self, source: Tensor, copy: Tensor) -> None:
        """Take note of a copy that the model is given for a view, since the memory format of its images has no such."""
        self._draft.expected = ()  # a write to it is to be noticed
        self.add(copy, None)
        self.relay(source, copy)

    def relay(self, source: Tensor, result: Tensor) -> None:
        """Take note that a tensor might be a view of another, or a copy, where the memory format were another one."""
        for tensor in (source, result) if self._channels_last else ():
            self.memory_under(self.known(tensor), tensor).relaid = True

    def need_other_layout(self) -> None:
        """Give up on this memory format.

        Raises:
            OtherLayoutError: always.
        """
        self.relaid = True  # the user's code may catch what is raised
        raise OtherLayoutError

    def becomes(self, value: Value, new: Ref | None) -> None:
        """Give a tensor another value than it had."""
        if isinstance(value.leaf, Ref):
            self.made.pop(value.leaf.index, None)
        value.leaf = new
        if new is not None:
            self.made[new.index] = value.tensor

    def keep_before_write(self, tensor: Tensor) -> list[int | str]:
        """Copy what a write would change: recorded values, whose keys it returns, and the model's own buffers.

        Raises:
            OtherLayoutError: the write would not reach the memory that it should.
        """
        value, values = self.known(tensor), self._draft.values
        memory = self.memory_under(value, tensor)
        if memory.relaid or (self._channels_last and _hides_a_copy(value, memory, tensor)):
            self.need_other_layout()
        if isinstance(value.leaf, State) and values.get(value.leaf.name) is tensor:
            memory.kept.append(value.leaf.name)  # a weight, whose memory was not needed before
        copied = self._copy_kept(memory)
        if isinstance(memory.base.leaf, State) and memory.base.leaf.kept and not memory.version:
            owner = memory.base.tensor()
            if owner is not None:
                if not self.before:
                    _WRITING.acquire()
                self.before.append((owner, owner.detach().clone()))
        return copied

    def _copy_kept(self, memory: Memory | None) -> list[int | str]:
        """Copy the recorded values that lie in memory which is about to be written to; returns their keys."""
        if memory is None:
            return []
        kept, memory.kept = memory.kept, []
        for key in kept:
            self._draft.values[key] = self._draft.values[key].clone()
        return kept

    def write(self, value: Value, new: Ref, scopes: Scopes, line: Line) -> None:
        """Give a tensor that was written to, and the base of its memory, their new values."""
        memory = value.memory
        assert memory is not None, "what is written to lies in memory that is known"
        if value is not memory.base:
            self._write_through(value, memory.base, new, scopes, line)
        self.becomes(value, new)
        memory.change(value)

    def write_constant(self, tensor: Tensor, learned: bool, scopes: Scopes, line: Line) -> None:
        """Take note that a tensor is another constant now, and with it the base of its memory, or a part of that."""
        value = self.known(tensor)
        memory = self.memory_under(value, tensor)
        base = memory.base
        if value is not base and isinstance(base.leaf, Ref):
            self._write_through(value, base, self._constant(tensor.clone(), learned), scopes, line)
        else:
            self.becomes(base, None)
            base.learned = learned
        self.becomes(value, None)
        value.learned = learned
        memory.change(value)

    def _write_through(self, value: Value, base: Value, part: Ref | State, scopes: Scopes, line: Line) -> None:
        """Write down that a view of a base has another value now, and what the base is with that."""
        if value.views is None:
            raise CaptureError(_UNKNOWN_SHARING)
        old = base.leaf if isinstance(base.leaf, Ref) else self._constant_before(value, base)
        made = self._draft.next(base.geometry[0])
        self._draft.write_down(write, (old, part, value.views), (made.index,), scopes=scopes, line=line)
        self.becomes(base, made)

    def _constant_before(self, value: Value, whole: Value) -> State:
        """The constant that a base was before a view of it was written to; there, its numbers do not count any more."""
        tensor = value.tensor()
        assert tensor is not None
        return self._constant(tensor.detach().as_strided(*whole.geometry).clone(), whole.learned)

    def _constant(self, numbers: Tensor, learned: bool) -> State:
        """A new constant of the run, which is kept."""
        name = self._draft.constant(numbers, learned)
        self._draft.values[name.name] = numbers
        return name

    def put_back(self) -> None:
        """Give buffers and weights that the run wrote to the numbers that they had."""
        if not self.before:
            return
        try:
            with torch.no_grad():
                for tensor, before in reversed(self.before):
                    self._copy_kept(self.memory_of(tensor))
                    tensor.copy_(before)
        finally:
            _WRITING.release()


_UNKNOWN_SHARING = "the model writes to memory that tensors share in a way that is not known"


def _hides_a_copy(value: Value, memory: Memory, tensor: Tensor) -> bool:
    """Whether `contiguous` may have returned a view as it was, where it would copy one of a row-major base."""
    shape, strides, _ = memory.base.geometry
    ordered = torch.empty(shape, device="meta").stride() == strides
    return bool(value.views) and not ordered and tensor.dim() > 2 and tensor.is_contiguous()


def _hashable(argument: Any) -> Any:
    return tuple(map(_hashable, argument)) if isinstance(argument, list | tuple) else argument
