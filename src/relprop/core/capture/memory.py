"""What each tensor of a run stands for, also after writes in place: tensors that share memory change together.

Every tensor is a view of the *base* of its memory, the first tensor that was met there. A write gives the written
tensor a new value, and its base too (`calls.write`). Any other view of that base is out of date from then on; when it
is read again, it is the same view of the new base.
"""

from __future__ import annotations

import weakref

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from relprop.core.graph import Ref, State
from relprop.core.views import View


class Memory:
    """The memory that some tensors share.

    Attributes:
        storage: a weak reference, which keeps its identity from being given to other memory.
        base: the tensor that all others are views of.
        version: how often it was written to.
        kept: keys of the recorded values that lie in it.
        relaid: whether a view of it was copied, since the memory format that the run was given has none.
    """

    __slots__ = ("base", "kept", "relaid", "storage", "values", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.base: Value
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
        memory: that it lies in.
        views: how it comes from the base of that memory; None where that is not known.
        seen: the version of the memory that `leaf` holds for.
    """

    __slots__ = ("geometry", "leaf", "learned", "memory", "seen", "tensor", "views")

    def __init__(
        self, tensor: Tensor, leaf: Ref | State | None, memory: Memory, views: tuple[View, ...] | None, learned: bool
    ) -> None:
        self.tensor = weakref.ref(tensor)
        self.geometry = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self.leaf = leaf
        self.learned = learned
        self.memory = memory
        self.views = views
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
        if memory is None:
            memory = Memory(tensor)
            self._memories[memory.storage.cdata] = memory
            value = memory.base = Value(tensor, leaf, memory, (), learned)
        else:
            value = Value(tensor, leaf, memory, views, learned)
        self._values[id(tensor)] = value
        return value
