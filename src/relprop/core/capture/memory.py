"""What each tensor of a run stands for, also after writes in place: tensors that share memory change together.

Every tensor is a view of the *base* of its memory, the first tensor that was met there. A write gives the written
tensor a new value, and its base too (`calls.write`). Any other view of that base is out of date from then on; when it
is read again, it is the same view of the new base.
"""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from relprop.core.graph.graph import Ref, State
from relprop.core.graph.views import View


class Memory:
    """The memory that some tensors share.

    Attributes:
        storage: a weak reference, which keeps its identity from being given to other memory.
        base: the tensor that all others are views of.
        number: of the value that the base was first; None where it does not depend on the image.
        version: how often it was written to.
        kept: keys of the recorded values that lie in it.
        relaid: whether a view of it was copied, since the memory format that the run was given has none.
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


class Tensors:
    """The tensors that a run has met, by identity, and their memory."""

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}
        self._memories: dict[int, Memory] = {}

    def find(self, tensor: Tensor) -> Value | None:
        """What is known of a tensor."""
        known = self._values.get(id(tensor))
        return known if known is not None and known.tensor() is tensor else None

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

    def add_weight(self, tensor: Tensor, name: State) -> Value:
        """Take note of a weight or buffer of the model."""
        value = self._values[id(tensor)] = Value(tensor, name, None, None, True)
        return value

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
