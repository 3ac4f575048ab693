"""An exported program as a module: run node by node, so that each call bears the name of the module it came from."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_unflatten

from relprop.core.capture.scripted import Scopes
from relprop.errors import InputError

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s+([^\n]*)')


class ProgramModule(nn.Module):
    """Runs an exported program.

    Attributes:
        argument_names: of its inputs, in order.
        scopes: (call, path) of each module around the node that runs.
        source: file, line and text of the code that the node came from.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.training = False
        signature = program.graph_signature
        self._program = program
        self.argument_names = tuple(map(str, signature.user_inputs))
        self.scopes: Scopes = ()
        self.source = ""

    def named_states(self) -> Iterator[tuple[str, Tensor]]:
        """Weights and buffers by the names that they had in the model."""
        for spec, value in self._held():
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and isinstance(value, Tensor):
                yield str(spec.target), value

    def _held(self) -> Iterator[tuple[Any, Any]]:
        """What the program itself gives to its inputs, as it is now."""
        values = {**self._program.constants, **self._program.state_dict}
        for spec in self._program.graph_signature.input_specs:
            if spec.kind != InputKind.USER_INPUT and spec.target in values:
                yield spec, values[spec.target]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """(N, ...), one for each input -> what the program returns."""
        given = {**dict(zip(self.argument_names, inputs, strict=False)), **named}
        if {*given} != {*self.argument_names} or len(given) != len(inputs) + len(named):
            raise InputError(
                f"the program takes {len(self.argument_names)} inputs, {', '.join(self.argument_names)}; it was given "
                f"{len(inputs) + len(named)}. Several inputs are a tuple of tensors, or a dict of them by name"
            )
        for name, value in given.items():
            self._require_shape(name, value)
        held = {spec.arg.name: value for spec, value in self._held()}
        values: dict[torch.fx.Node, Any] = {}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                values[node] = given[node.name] if node.name in given else held[node.name]
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(self._program.graph_module)
            elif node.op == "output":
                return self._returned([values[n] if isinstance(n, torch.fx.Node) else n for n in node.args[0]])
            else:
                self.scopes, self.source = _scopes(node), _source(node)
                args = torch.fx.map_arg(node.args, values.__getitem__)
                values[node] = node.target(*args, **torch.fx.map_arg(node.kwargs, values.__getitem__))
        raise AssertionError("a program ends with its output")

    def _returned(self, results: list[Any]) -> Any:
        kinds = self._program.graph_signature.output_specs
        users = [r for r, spec in zip(results, kinds, strict=True) if spec.kind.name == "USER_OUTPUT"]
        return tree_unflatten(users, self._program.call_spec.out_spec)

    def _require_shape(self, name: str, x: Any) -> None:
        """Refuse an input that the program was not exported for."""
        node = next(n for n in self._program.graph.nodes if n.op == "placeholder" and n.name == name)
        if not isinstance(x, Tensor):
            return  # a number that was part of the program's call
        expected = tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)
        if len(expected) != x.dim() or any(e not in (None, s) for e, s in zip(expected, x.shape, strict=True)):
            wanted = ", ".join("N" if size is None else str(size) for size in expected)
            who = "x" if len(self.argument_names) == 1 else name
            raise InputError(
                f"the program was exported for inputs of shape ({wanted}); {who} has {tuple(x.shape)}. Give it such "
                "inputs, or export it again, for any batch with dynamic_shapes=({0: torch.export.Dim('batch')},)"
            )


def _scopes(node: torch.fx.Node) -> Scopes:
    stack = node.meta.get("nn_module_stack", {})
    return tuple((call, path.split("@")[0]) for call, (path, _) in stack.items())


def _source(node: torch.fx.Node) -> str:
    """Last line of the node's trace that is the user's, or else torch's own."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "/torch/nn/" not in frame[0].replace("\\", "/")]
    if not frames:
        return ""
    file, line, text = (own or frames)[-1]
    return f"{file.replace(chr(92), '/').rsplit('/', 1)[-1]}:{line} {text.strip()}"
