"""Which modules of the model, and which line of its code, a call comes from.

Nothing is attached to the model for it: the interpreter's own stack says which modules run. `nn.Module.__call__` has
one frame for each module that is called, whatever hooks there are, and frames belong to one thread alone.
"""

from __future__ import annotations

import linecache
import sys
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch import nn

from relprop.core.capture.model import Names
from relprop.core.capture.program import ProgramModule
from relprop.core.capture.scripted import Places, Scopes

_CALL = nn.Module._call_impl.__code__

#: where a call stands in the user's code: what it is part of, and its line; None where that is not known
Line = tuple[CodeType, int] | str | None


class _Entered(NamedTuple):
    """A module that runs: its frame, which keeps its identity while it is held, and the scopes up to it."""

    frame: FrameType
    module: nn.Module
    scopes: Scopes
    places: Places | None


class Modules:
    """The modules that run at the moment, outermost first."""

    def __init__(self, names: Names, bottom: FrameType | None) -> None:
        self._names = names
        self._bottom = bottom
        self._stack: list[_Entered] = []
        self._runs: dict[str, int] = {}
        self._read_again = False

    def leave(self) -> None:
        """Forget all frames."""
        self._stack.clear()
        self._bottom = None

    def around(self, operation: str, weight: str | None) -> tuple[Scopes, Line]:
        """(call, path) of each module around a call of an operation, outermost first, and its line.

        Args:
            operation: its name, as TorchScript knows it.
            weight: name of the first weight among its arguments: of a module that TorchScript runs unseen, that is
                all that is known.
        """
        line = self.look(sys._getframe(2))
        if not self._stack:
            return (), line
        _, module, scopes, places = self._stack[-1]
        if isinstance(module, ProgramModule):
            return (*scopes, *module.scopes), module.source
        if places is None:
            return scopes, line
        outer = scopes[-1][1] if scopes else ""
        inner = places.next(operation)
        if inner:
            within = ((f"{outer}/{call}", ".".join(filter(None, (outer, path)))) for call, path in inner)
            return (*scopes, *within), line
        owner = weight.rpartition(".")[0] if weight else ""
        return ((*scopes, (f"{owner}@{weight}", owner)) if owner else scopes), line

    @property
    def scopes(self) -> Scopes | None:
        """(call, path) of each module that was found by the last look; None where there is more to it."""
        if not self._stack:
            return ()
        _, module, scopes, places = self._stack[-1]
        return scopes if places is None and not isinstance(module, ProgramModule) else None

    def look(self, frame: FrameType | None) -> Line:
        """Bring the stack of modules up to date, and return the innermost line that is the user's."""
        stack, bottom = self._stack, self._bottom
        found: list[FrameType] = []
        line: Line = None
        depth = 0
        while frame is not None and frame is not bottom:
            code = frame.f_code
            if code is _CALL:
                depth = len(stack)
                while depth and stack[depth - 1].frame is not frame:
                    depth -= 1
                if depth:
                    break
                found.append(frame)
            elif line is None and _is_the_users(code):
                line = code, frame.f_lineno
            frame = frame.f_back
        del stack[depth:]
        for entered in reversed(found):
            self._enter(entered)
        return line if line is not None or not self._stack else self._line_of_caller()

    def _line_of_caller(self) -> Line:
        """The line that called the innermost module of torch's own, where that module was entered before."""
        frame = self._stack[-1].frame.f_back
        while frame is not None and frame is not self._bottom:
            if _is_the_users(frame.f_code):
                return frame.f_code, frame.f_lineno
            frame = frame.f_back
        return None

    def _enter(self, frame: FrameType) -> None:
        module = frame.f_locals["self"]
        path = self._path(module)
        scopes = self._stack[-1].scopes if self._stack else ()
        if path is not None:
            run = self._runs.get(path, 0)
            scopes = self._names.within(scopes, path, run)
            self._runs[path] = run + 1
        places = Places(module) if isinstance(module, torch.jit.ScriptModule) else None
        self._stack.append(_Entered(frame, module, scopes, places))

    def _path(self, module: nn.Module) -> str | None:
        path = self._names.of_module(module)
        if path is None and not self._read_again:
            self._names.read()
            self._read_again = True
            path = self._names.of_module(module)
        return path


#: by the identity of a code, which is held so that it keeps it: its hash is computed anew from all of it
_USERS: dict[int, tuple[CodeType, bool]] = {}


def _is_the_users(code: CodeType) -> bool:
    known = _USERS.get(id(code))
    if known is None:
        file = code.co_filename.replace("\\", "/")
        users = "/torch/" not in file and "/relprop/core/" not in file and file[:1] != "<"
        known = _USERS[id(code)] = code, users
    return known[1]


def text_of(line: Line) -> str:
    """A line as messages and tables print it: "resnet.py:146 out = self.conv1(x)"."""
    if not isinstance(line, tuple):
        return line or ""
    code, number = line
    name = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}:{number} {linecache.getline(code.co_filename, number).strip()}"


def bottom() -> FrameType:
    """The frame of the caller, at which `Modules` stops to look."""
    return sys._getframe(1)
