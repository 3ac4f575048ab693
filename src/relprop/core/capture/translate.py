"""From the calls of a recorded run to a `Graph`: the calls that the scores come from, each named after its module."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.core.capture.calls import Call
from relprop.core.capture.inputs import Inputs, one_input
from relprop.core.capture.model import Model, Names, require_evaluation_mode, unwrap
from relprop.core.capture.modules import text_of
from relprop.core.capture.program import ProgramModule
from relprop.core.capture.recorder import record
from relprop.core.capture.recording import Recording
from relprop.core.graph.graph import Graph, Node, Ref, bind, ref, refs
from relprop.core.graph.links import LINK_OF_END
from relprop.core.graph.ops import COPIES, canonical
from relprop.core.graph.views import VIEWS, write
from relprop.core.weights.prepared import Prepared
from relprop.errors import CaptureError, RelpropError

aten = torch.ops.aten

#: operations of which the graph uses the first result alone, by the name that their one-result twin has
ONE_OF_TWO = {
    "max_pool_with_indices": "max_pool",
    "adaptive_max_pool": "adaptive_max_pool",
    "native_dropout": "dropout",
}
_SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")

#: operations that the graph has by other names
RENAMED = frozenset({*ONE_OF_TWO, *_SPLITS, "unbind", "_native_batch_norm_legit_no_training"})

#: what may come behind a softmax or sigmoid where a model ends in several, or in parts of one
_OF_PROBABILITIES = COPIES | {
    "add", "sub", "rsub", "mul", "div", "neg", "mean", "sum", "cat", "stack", "to", "clone", "contiguous", "detach",
    "alias", "dropout", "identity", "clamp", "clamp_min", "clamp_max", "exp", "log", "nan_to_num",
}  # fmt: skip

#: what leaves a value as it is where it leaves its shape so
_SAME = frozenset({"view", "reshape", "flatten", "squeeze", "expand", "clone", "contiguous", "detach", "alias"})


@dataclass(frozen=True, eq=False)
class Translated:
    """A graph, and the number in the recording of each node's value."""

    graph: Graph
    numbers: tuple[int, ...]


def graph_of(recording: Recording) -> Translated:
    """Make the graph of a recorded run.

    Raises:
        CaptureError: the scores do not depend on the image.
    """
    calls = recording.calls
    made_by = {number: place for place, call in enumerate(calls) for number in call.results if number is not None}
    needed = _needed(calls, made_by, recording.output[1])
    nodes = [Node(0, "input", "input", _no_call, shape=recording.shapes[0])]
    index = {0: 0}
    for number in sorted(needed):
        call = calls[made_by[number]]
        node = _node(len(nodes), call, call.results.index(number))
        args, kwargs = bind((node.args, dict(node.kwargs)), lambda a: ref(index[a.index]) if isinstance(a, Ref) else a)
        source = text_of(recording.lines[made_by[number]])
        shape = recording.shapes[number]
        inputs = tuple(refs((args, kwargs)))
        nodes.append(replace(node, args=args, kwargs=kwargs, inputs=inputs, shape=shape, source=source))
        index[number] = node.index
    graph = Graph(tuple(_named(nodes)), index[recording.output[1]])
    numbers = tuple(sorted(index, key=index.__getitem__))
    output, link, last = _scores_of(graph)
    kept = graph.nodes[: output + 1]  # an order of execution: nothing earlier needs later
    return Translated(Graph(kept, output, link, last), numbers[: len(kept)])


def capture(model: Model, image: Tensor) -> Graph:
    """The computation that a model makes of a batch.

    Args:
        model: a module in evaluation mode, or an exported program.
        image: (N, ...) in the type that the model computes in.

    Raises:
        InputError: the model cannot take such images.
        CaptureError: it is in training mode, or its output does not depend on the image.
    """
    model = unwrap(model)
    runs = ProgramModule(model) if isinstance(model, torch.export.ExportedProgram) else model
    require_evaluation_mode(runs)
    prepared = Prepared().for_run((image,))
    return graph_of(record(runs, Inputs((image,)), lambda op, inputs: (False, False), prepared, Names(runs))).graph


def last_step(model: Any, like: Tensor) -> str:
    """The softmax or sigmoid that a model ends in, "" where it returns scores or is no module.

    Such a model's outputs are probabilities already; a second softmax would say something else. `like` is an image that
    it takes, (1, C, H, W).
    """
    if isinstance(model, torch.nn.Module):
        with contextlib.suppress(RelpropError):  # what is wrong with the model, its own run says
            return capture(model, like).end
    return ""


def _needed(calls: tuple[Call, ...], made_by: Mapping[int, int], output: int) -> set[int]:
    """The values that the scores are computed from, the image left out."""
    if output not in made_by:
        raise CaptureError("the model returns its input as it is: there is nothing to explain")
    needed: set[int] = set()
    stack = [output]
    while stack:
        number = stack.pop()
        if number and number not in needed:
            needed.add(number)
            call = calls[made_by[number]]
            stack.extend(refs((call.args, dict(call.kwargs))))
    return needed


def _scores_of(graph: Graph) -> tuple[int, str, str]:
    """The node that holds the scores, how they become probabilities, and the step that makes these.

    Where the model's last step is a softmax or sigmoid, its output is the probability already: its input is explained.
    """
    node = graph.nodes[graph.output]
    while node.op in _SAME and node.shape == graph.nodes[node.inputs[0]].shape:
        node = graph.nodes[node.inputs[0]]
    link = LINK_OF_END.get(node.op)
    if link is not None and len(node.inputs) == 1:
        rank = len(node.shape)
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 1)
        if link == "sigmoid" or (isinstance(dim, int) and dim % rank == (1 if rank > 1 else 0)):
            return node.inputs[0], link, node.op
    if _of_probabilities(graph):
        return graph.output, "identity", "identity"
    shares = node.op == "div" and len(node.inputs) > 1  # perhaps a softmax by hand, exp(y) / Σ exp(y)
    return (graph.output, "shares", "shares") if shares else (graph.output, "softmax", "")


def _of_probabilities(graph: Graph) -> bool:
    """Whether the output is made of nothing but the results of softmaxes and sigmoids."""
    behind = {graph.output}
    for node in reversed(graph.nodes):
        if node.index in behind and node.op not in LINK_OF_END:
            if node.op not in _OF_PROBABILITIES:
                return False
            behind.update(node.inputs)
    return True


def _no_call(*_: Any) -> Any:
    raise AssertionError("the input is given, not computed")


def _node(index: int, call: Call, place: int) -> Node:
    """Translate one result of a call."""
    func: Any = call.func
    if func in (write, one_input):
        return Node(index, "", func.__name__, func, call.args, scopes=call.scopes)
    op = canonical(func._schema.name)
    if func in VIEWS:  # we choose the memory format of values, and not every one can be viewed
        func = aten.reshape.default
    node = Node(index, "", op, func, call.args, dict(call.kwargs), scopes=call.scopes)
    if func is aten.batch_norm.default:
        x, weight, bias, mean, variance, _, momentum, eps = call.args[:8]
        return replace(node, call=_batch_norm, args=(x, weight, bias, mean, variance, momentum, eps))
    return node if call.single else _part(node, call, place)


def _part(node: Node, call: Call, place: int) -> Node:
    """Translate `op(...)[k]`, k-th result of an operation that returns several, into an operation of one result."""
    name, args = node.op, node.args
    if name == "_native_batch_norm_legit_no_training" and place == 0:
        return replace(node, op="batch_norm", call=_batch_norm)
    if name in ONE_OF_TWO and place == 0:
        return replace(node, op=ONE_OF_TWO[name], call=_item_of(node.call, 0))
    if name in _SPLITS:
        dim = args[2] if len(args) > 2 else node.kwargs.get("dim", 0)
        sizes = [size[dim] for size in call.sizes]
        bounds = (dim, sum(sizes[:place]), sum(sizes[: place + 1]))
        return replace(node, op="slice", call=aten.slice.Tensor, args=(args[0], *bounds), kwargs={})
    if name == "unbind":
        dim = args[1] if len(args) > 1 else 0
        return replace(node, op="select", call=aten.select.int, args=(args[0], dim, place), kwargs={})
    return replace(node, op=f"{name}[{place}]", call=_item_of(node.call, place))


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, _: float, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _item_of(call: Callable[..., Any], k: int) -> Callable[..., Any]:
    def item(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)[k]

    return item


def _named(nodes: Iterable[Node]) -> list[Node]:
    """Name each node after its module, and after its operation where the module has several."""
    nodes = list(nodes)
    population = Counter(call for node in nodes for call, _ in node.scopes)
    seen: Counter[str] = Counter()
    named = []
    for node in nodes:
        call, path = node.scopes[-1] if node.scopes else ("", "")
        alone = path and population[call] == 1
        name = path if alone else f"{path}.{node.op}" if path else node.op
        seen[name] += 1
        named.append(replace(node, name=name if seen[name] == 1 else f"{name}@{seen[name] - 1}"))
    return named
