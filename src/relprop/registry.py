"""Named things of one kind, found by a short text.

A *spec* is how a member and its options are written on a command line or in a plan:

    quantize                     the member, with its defaults
    quantize:16                  options by position
    lrp:composite=released:split=symmetric   options by name

The options are those of the member's own signature, converted by its annotations.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from relprop.errors import UnknownNameError, UsageError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Members of one kind by name. A miss names its neighbours; `build` reads a spec.

    Args:
        kind: what a member is called in messages, e.g. "explainer".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Register the decorated factory (a class or function that returns a member) as `name`."""

        def add(factory: F) -> F:
            if name in self._members:
                raise UsageError(f"there already is a {self.kind} named {name!r}")
            self._members[name] = factory
            return factory

        return add

    def add(self, name: str, member: T) -> None:
        """Register a member that takes no options."""

        def give() -> T:
            return member

        give.__doc__ = member.__doc__
        self.register(name)(give)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._members)

    def get(self, name: str) -> Callable[..., T]:
        """Return the factory called `name`.

        Raises:
            UnknownNameError: there is none; the message names the nearest and all others.
        """
        if name in self._members:
            return self._members[name]
        near = difflib.get_close_matches(name, self._members, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise UnknownNameError(f"no {self.kind} is named {name!r}{hint} known: {', '.join(self._members)}")

    def summary(self, name: str) -> str:
        """First line of the member's docstring."""
        return (inspect.getdoc(self.get(name)) or "").split("\n", 1)[0]

    def build(self, spec: str) -> T:
        """Make the member that `spec` describes.

        Raises:
            UnknownNameError: no such member.
            UsageError: an option that it does not have, or a value of the wrong type.
        """
        name, *options = spec.split(":")
        factory = self.get(name)
        positional, named = _read_options(f"{self.kind} {name!r}", factory, options)
        try:
            return factory(*positional, **named)
        except TypeError as error:
            needed = any(p.default is p.empty for p in _parameters(factory).values())
            if not positional and not named and not needed:
                raise
            raise UsageError(f"{self.kind} {spec!r}: {error}; it takes: {_signature(factory)}") from None


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: p for name, p in inspect.signature(factory).parameters.items() if p.kind not in kinds}


def _signature(factory: Callable[..., Any]) -> str:
    return ", ".join(_parameters(factory)) or "no options"


def _read_options(where: str, factory: Callable[..., Any], options: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Split `options` into positional and named arguments, converted by annotation."""
    parameters = _parameters(factory)
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    order = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            if len(positional) >= len(order):
                raise UsageError(f"{where} does not take {option!r}; it takes: {_signature(factory)}")
            name, text = order[len(positional)], option
            positional.append(convert(where, name, text, hints.get(name, str)))
        elif name not in parameters:
            raise UsageError(f"{where} has no option {name!r}; it takes: {_signature(factory)}")
        else:
            named[name] = convert(where, name, text, hints.get(name, str))
    return positional, named


def convert(where: str, name: str, text: str, hint: Any) -> Any:
    """Read `text` as the annotation `hint`: bool, int, float, str, Literal, or a union of these."""
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return convert(where, name, text, get_args(hint)[0])
    if origin in (Union, UnionType):
        return _convert_union(where, name, text, get_args(hint))
    if origin is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if text in choices:
            return choices[text]
        raise UsageError(f"{where}: {name} must be one of {', '.join(choices)}, not {text!r}")
    if hint is bool:
        truth = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in truth:
            return truth[text.lower()]
        raise UsageError(f"{where}: {name} must be true or false, not {text!r}")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise UsageError(f"{where}: {name} must be {kind}, not {text!r}") from None
    return text


def _convert_union(where: str, name: str, text: str, members: Sequence[Any]) -> Any:
    if type(None) in members and text.lower() == "none":
        return None
    failure: UsageError | None = None
    for member in members:
        if member is type(None):
            continue
        try:
            return convert(where, name, text, member)
        except UsageError as error:
            failure = error
    raise failure or UsageError(f"{where}: {name} cannot be {text!r}")
