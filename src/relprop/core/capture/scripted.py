"""Which module of a TorchScript module each of its calls belongs to, as far as it says so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

#: (call, path) of each module call around an operation, outermost first
Scopes = tuple[tuple[str, str], ...]


class Places:
    """The modules of a traced module's calls, in order.

    Tracing writes the module of each call into the graph, and a traced graph is run as it stands; so the n-th call that
    the dispatcher sees is the n-th of its kind in the graph. Scripted modules name none.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        graph: Any = module.inlined_graph
        nodes = [*graph.nodes()]
        straight = not any(node.kind() in ("prim::If", "prim::Loop") for node in nodes)
        self._rest = [(node.kind(), node.scopeName()) for node in nodes if straight and node.scopeName()]
        self._last: Scopes = ()
        self._runs: Counter[str] = Counter()

    def next(self, operation: str) -> Scopes:
        """The modules around the next call of an operation; none where that is not known."""
        for place, (kind, scope) in enumerate(self._rest):
            if kind == operation:
                del self._rest[: place + 1]
                self._last = self._entered([part.removeprefix("__module.") for part in str(scope).split("/")])
                return self._last
        return ()

    def _entered(self, paths: list[str]) -> Scopes:
        """Paths as calls: those that the last operation was in go on, others begin."""
        scopes: list[tuple[str, str]] = []
        for depth, path in enumerate(paths):
            goes_on = len(scopes) == depth and [p for _, p in self._last[: depth + 1]] == paths[: depth + 1]
            if goes_on:
                scopes.append(self._last[depth])
            else:
                scopes.append((f"{path}@{self._runs[path]}", path))
                self._runs[path] += 1
        return tuple(scopes)
