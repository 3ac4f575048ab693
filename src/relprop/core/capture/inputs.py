"""What a model is given: the tensors that relevance is of, one or several, and constants beside them.

Several tensors are one source of the graph: row n of `(N, total)` holds the numbers of all of them for image n, one
after the other, and the first steps (`one_input`) take each tensor out of it. So a backward pass has one end, whatever
the number of inputs, and its sum there is what it is for one.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from relprop.core.capture.model import HALF_TYPES, no_numbers
from relprop.errors import InputError, UsageError

#: one tensor, a tuple of the first arguments, or arguments by name
Given = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]

#: arguments that are constants, by name or position
Fixed = Mapping[int, Any] | Mapping[str, Any] | Mapping[int | str, Any] | None


def one_input(source: Tensor, start: int, end: int, shape: tuple[int, ...]) -> Tensor:
    """One of several inputs: columns `start` to `end` of (N, total) as (N, *shape)."""
    return source[:, start:end].reshape(-1, *shape)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one call of a model.

    Attributes:
        tensors: (N, ...) each, that relevance is of.
        keys: the argument that each is, by position or name.
        names: what each is called: its argument's name as far as it is known.
        form: how they were given: "tensor", "tuple" or "dict".
        fixed: further arguments, which are constants, by position or name.
        parameters: names of the model's arguments in order, as far as they are known.
    """

    tensors: tuple[Tensor, ...]
    keys: tuple[int | str, ...] = (0,)
    names: tuple[str, ...] = ("x",)
    form: str = "tensor"
    fixed: Mapping[int | str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, given: Given, fixed: Fixed, weight: Tensor | None) -> Inputs:
        """Check what a model is to be given, and bring it to the type that the model computes in.

        Args:
            model: the module that is called.
            given: (N, ...) or several such, of the same N.
            fixed: further arguments.
            weight: a weight of the model: its type and device.

        Raises:
            InputError: a tensor is no batch of finite numbers, or not on the model's device; batches differ in size.
            UsageError: the model has no such argument, or one is given twice.
        """
        if isinstance(given, Tensor) and not fixed:
            return cls((checked(given, "x", weight),))
        form = "tensor" if isinstance(given, Tensor) else "dict" if isinstance(given, Mapping) else "tuple"
        if form == "tuple" and not isinstance(given, tuple):
            checked(given, "x", weight)  # raises, and says why
        parameters = parameters_of(model)
        constants = {_key(name, parameters): value for name, value in (fixed or {}).items()}
        if isinstance(given, Mapping):
            keys = [_key(name, parameters) for name in given]
            tensors = [*given.values()]
        else:
            tensors = [given] if isinstance(given, Tensor) else [*given]
            keys = [*itertools.islice((k for k in itertools.count() if k not in constants), len(tensors))]
        if not tensors:
            raise InputError("x names no input at all; give a tensor, a tuple of tensors, or a dict of them by name")
        names = [parameters[key] if isinstance(key, int) and key < len(parameters) else str(key) for key in keys]
        names = [f"input{name}" if name.isdigit() else name for name in names]
        twice = [name for name, key in zip(names, keys, strict=True) if key in constants or keys.count(key) > 1]
        if twice:
            raise UsageError(f"the argument {twice[0]!r} is given twice; give it in x or in fixed")
        found = tuple(
            checked(t, "x" if form == "tensor" else name, weight) for name, t in zip(names, tensors, strict=True)
        )
        if len({len(tensor) for tensor in found}) > 1:
            sizes = ", ".join(f"{name} {len(tensor)}" for name, tensor in zip(names, found, strict=True))
            raise InputError(f"the inputs hold batches of different sizes ({sizes}); each needs a row for every image")
        return cls(found, tuple(keys), tuple(names), form, constants, parameters)

    @property
    def several(self) -> bool:
        """Whether relevance is of a tuple or dict of tensors, and not of one alone."""
        return self.form != "tensor"

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors[0].device

    @property
    def shape(self) -> torch.Size:
        """Shape of the graph's source: that of the tensor, or (N, total) of several."""
        first = self.tensors[0]
        return torch.Size([len(first), self.bounds[-1][1]]) if self.several else first.shape

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each of several lies in a row of the source."""
        ends = [0]
        for tensor in self.tensors:
            ends.append(ends[-1] + tensor[0].numel())
        return [*itertools.pairwise(ends)]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for inputs on which the same calls make the same graph."""
        first = self.tensors[0]
        return tuple(tensor.shape for tensor in self.tensors), first.dtype, first.device

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: slice) -> Inputs:
        """Some of the images, with what belongs to them among the constants: rows of tensors that have one for each."""
        count = len(self)

        def rows_of(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value

        fixed = {key: rows_of(value) for key, value in self.fixed.items()}
        return replace(self, tensors=tuple(tensor[rows] for tensor in self.tensors), fixed=fixed)

    def detached(self) -> Inputs:
        """The same without their history."""
        return replace(self, tensors=tuple(tensor.detach() for tensor in self.tensors))

    def copied(self, *, channels_last: bool) -> Inputs:
        """Copies, which the model may write to; those of four dimensions in the channels-last format if asked."""

        def copy(value: Any) -> Any:
            last = channels_last and value.dim() == 4
            return value.clone(memory_format=torch.channels_last if last else torch.contiguous_format)

        fixed = {key: value.clone() if isinstance(value, Tensor) else value for key, value in self.fixed.items()}
        return replace(self, tensors=tuple(map(copy, self.tensors)), fixed=fixed)

    def call(self, model: Any) -> Any:
        """What the model returns for them."""
        given = {**self.fixed, **dict(zip(self.keys, self.tensors, strict=True))}
        positions = sorted(key for key in given if isinstance(key, int))
        ahead = [key for place, key in enumerate(positions) if key == place]
        named = {key if isinstance(key, str) else self._name(key): given[key] for key in given if key not in ahead}
        return model(*(given[key] for key in ahead), **named)

    def _name(self, key: int) -> str:
        """Name of an argument behind one that is left out."""
        if key < len(self.parameters):
            return self.parameters[key]
        raise UsageError(f"argument {key} is given, and not all before it: give those in x or in fixed too")

    def described(self) -> str:
        """The tensors and their shapes, for messages."""
        shapes = [tuple(tensor.shape) for tensor in self.tensors]
        if not self.several:
            return f"x of shape {shapes[0]}"
        return ", ".join(f"{name} of shape {shape}" for name, shape in zip(self.names, shapes, strict=True))


def checked(x: Any, name: str, weight: Tensor | None) -> Tensor:
    """A batch of finite numbers in the type that the model computes in, to be read only.

    Raises:
        InputError: it is none, or not on the model's device.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name} must be a torch.Tensor, not {type(x).__name__}; torch.from_numpy(x) makes one of an array, and "
            "several inputs are a tuple of tensors or a dict of them by name"
        )
    if why := no_numbers(x):
        raise InputError(f"{name} {why}")
    if x.dim() < (2 if name == "x" else 1) or 0 in x.shape:
        raise InputError(f"{name} must be a batch (N, C, H, W) with at least one image, not of shape {tuple(x.shape)}")
    if not x.is_floating_point():
        constant = "" if name == "x" else f"; what relevance does not reach goes into fixed={{{name!r}: ...}}"
        raise InputError(
            f"{name} must hold floating-point numbers, not {x.dtype}; use x.float() after scaling to the model's "
            f"range{constant}"
        )
    if weight is not None and weight.device != x.device:
        raise InputError(f"{name} is on {x.device}, the model on {weight.device}; move one of them")
    if not all(bound.isfinite() for bound in x.aminmax()):
        raise InputError(f"{name} holds NaN or infinite numbers; relevance of them means nothing")
    if weight is None:
        return x
    if weight.dtype == torch.float32 and x.dtype == torch.float64:
        raise InputError(f"{name} is float64 and the model float32; use x.float(), or model.double()")
    return x.to(torch.float32 if weight.dtype in HALF_TYPES else weight.dtype)


def parameters_of(model: Any) -> tuple[str, ...]:
    """Names of a model's positional arguments, as far as they are known."""
    own = getattr(model, "argument_names", None)  # of an exported program
    if own is not None:
        return tuple(own)
    schema = getattr(getattr(model, "forward", None), "schema", None)  # TorchScript
    if schema is not None:
        return tuple(argument.name for argument in schema.arguments[1:])
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return ()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in found if parameter.kind in named)


def _key(name: int | str, parameters: tuple[str, ...]) -> int | str:
    """An argument by its position where that is known."""
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise UsageError(f"an argument is named by its name or position, not by {name!r}")
    return parameters.index(name) if name in parameters else name
