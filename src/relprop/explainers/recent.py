"""What was made last, for the next call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


class Recent(Generic[Key, T]):
    """The last few values by key. A copy and a pickle begin with none, since values are large and made anew."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[Key, T] = {}

    def get(self, key: Key, make: Callable[[], T]) -> T:
        """Return the value of a key, made now if it was not among the last few."""
        value = self._kept.pop(key) if key in self._kept else make()
        self._kept[key] = value
        while len(self._kept) > self.most:
            del self._kept[next(iter(self._kept))]
        return value

    def __reduce__(self) -> tuple[type[Recent[Key, T]], tuple[int]]:
        return type(self), (self.most,)
