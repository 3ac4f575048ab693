"""A recorded run as a module without branches, which `torch.export` reads like any other."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from relprop.core.graph import Ref, State
from relprop.core.tape import Call, Size, Tape

_PLACE = re.compile(r"^calls\.(\d+)$")


class Replay(nn.Module):
    """Makes the calls of a tape again, with the model's own weights under their own names.

    In-place calls and writes through views are made as they were; export turns them into functional ones.
    """

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        super().__init__()
        self.model = _names(model)
        self.constants = dict(tape.constants)  # no buffers: export lifts plain tensors out as constants
        self.calls = nn.ModuleList([_Again(call) for call in tape.calls])
        self.tape = tape
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> the scores."""
        values: dict[int, Any] = {0: x}

        def value(leaf: Ref | State | Size) -> Any:
            if isinstance(leaf, Ref):
                return values[leaf.index]
            if isinstance(leaf, Size):
                return leaf.per * x.shape[0] + leaf.plus
            return self._state(leaf.name) if leaf.learned else self.constants[leaf.name]

        for again in self.calls:
            again(value, values)
        scores: Tensor = values[self.tape.output]
        return scores

    def _state(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        tensor: Tensor = getattr(self.model.get_submodule(path), leaf)
        return tensor

    def put_back_places(self, program: torch.export.ExportedProgram) -> None:
        """Tell the steps of a program made of this which module and line of the model they come from."""
        for node in program.graph.nodes:
            for _, (path, _) in reversed(node.meta.get("nn_module_stack", {}).items()):
                if found := _PLACE.match(path.split("@")[0]):
                    call = self.tape.calls[int(found[1])]
                    node.meta["nn_module_stack"] = {
                        name: (f"model.{path}".rstrip("."), "") for name, path in call.scopes
                    }
                    node.meta["stack_trace"] = call.trace
                    break


class _Again(nn.Module):
    """One call: a module of its own, so that what export makes of it bears its number."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, value: Callable[[Any], Any], values: dict[int, Any]) -> None:
        """Make the call, and keep its results."""
        args, kwargs = self.call.arguments(value)
        made = [part for part in tree_leaves(self.call.func(*args, **kwargs)) if isinstance(part, Tensor)]
        values.update(zip(self.call.results, made, strict=True))


def _names(model: nn.Module) -> nn.Module:
    """Modules that hold a model's weights under the same names, and nothing else."""
    root = nn.Module()
    for register, named in (
        ("register_parameter", model.named_parameters(remove_duplicate=False)),
        ("register_buffer", model.named_buffers(remove_duplicate=False)),
    ):
        for name, tensor in named:
            path, _, leaf = name.rpartition(".")
            holder = root
            for part in path.split(".") if path else ():
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            getattr(holder, register)(leaf, tensor)
    return root
