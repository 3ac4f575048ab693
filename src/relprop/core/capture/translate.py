"""From the calls of a recorded run to a `Graph`: the calls that the scores come from, each named after its module."""

from __future__ import annotations

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
from relprop.core.graph.graph import Graph, Node, Ref, State, bind, ref, refs
from relprop.core.graph.ops import COPIES, ELEMENTWISE, canonical
from relprop.core.graph.views import VIEWS, write
from relprop.core.weights.prepared import Prepared
from relprop.errors import CaptureError

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

#: steps that turn scores into probabilities, and what a score's probability is
LINKS = {"softmax": "softmax", "log_softmax": "softmax", "_safe_softmax": "softmax", "sigmoid": "sigmoid"}
LINKS |= {"log_sigmoid": "sigmoid"}

#: steps that may come behind these
_BEHIND = COPIES | ELEMENTWISE | {"add", "mul"}


@dataclass(frozen=True, eq=False)
class Translated:
    """A graph, and where its values are in a recording.

    Attributes:
        graph: the computation.
        numbers: of each node's value.
        last: the node from which the scores are made; None where the model returns them.
        moves: the steps that make them, each of the one before.
    """

    graph: Graph
    numbers: tuple[int, ...]
    last: int | None = None
    moves: tuple[Node, ...] = ()

    def scores(self, recording: Recording) -> Tensor:
        """The scores of a run."""
        if self.last is None:
            return recording.output[0]
        values = recording.values
        scores = values[self.numbers[self.last]]
        for node in self.moves:

            def given(leaf: Ref | State, before: Tensor = scores) -> Tensor:
                return before if isinstance(leaf, Ref) else values[leaf.name]

            scores = node.call(*bind(node.args, given), **bind(dict(node.kwargs), given))
        return scores


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
    return _with_scores(graph, tuple(sorted(index, key=index.__getitem__)), recording)


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
    return graph_of(
        record(runs, Inputs((image,)), lambda op, inputs: (op in LINKS, False), prepared, Names(runs))
    ).graph


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


def _with_scores(graph: Graph, numbers: tuple[int, ...], recording: Recording) -> Translated:
    """Find the scores, how they become probabilities, and the step that makes these.

    Where the model ends in a softmax or sigmoid, its output is the probability already: the input of that is explained,
    as it would leave the model if the softmax were not there, behind steps that move numbers (`squeeze`). What is left
    out has to be a softmax over classes, or a sigmoid, by its numbers.
    """
    chain: list[Node] = []
    node = graph.nodes[graph.output]
    while node.op not in LINKS and node.op in _BEHIND and len(node.inputs) == 1:
        chain.append(node)
        node = graph.nodes[node.inputs[0]]
    link = LINKS.get(node.op)
    if link is None or len(node.inputs) != 1 or numbers[node.inputs[0]] not in recording.values:
        return Translated(graph, numbers)
    moves = tuple(step for step in reversed(chain) if step.op in COPIES)
    found = Translated(graph, numbers, node.inputs[0], moves)
    output = recording.output[0].detach()
    end = _end(found.scores(recording).detach(), link, output)
    if not end:
        inside = bool(((output >= 0) & (output <= 1)).all())  # of some classes alone, or scaled
        return Translated(replace(graph, link="none", end=link) if inside else graph, numbers)
    last = node.inputs[0]
    if not moves:  # an order of execution: nothing earlier needs later
        return Translated(Graph(graph.nodes[: last + 1], last, link, end), numbers[: last + 1], last)
    skipped = {step.index for step in (node, *chain)} - {step.index for step in moves}
    nodes = [
        replace(n, op="identity", call=aten.alias.default, args=(ref(n.inputs[0]),), kwargs={}) if at in skipped else n
        for at, n in enumerate(graph.nodes)
    ]
    return replace(found, graph=Graph(tuple(nodes), graph.output, link, end))


def _end(scores: Tensor, link: str, output: Tensor) -> str:
    """What a model's output is of these scores: "softmax", "log_sigmoid", ...; "" if it is none of these."""
    if scores.shape != output.shape or (link == "softmax" and scores.dim() < 2):
        return ""
    softmax = link == "softmax"
    probability = scores.softmax(1) if softmax else scores.sigmoid()
    logarithm = scores.log_softmax(1) if softmax else F.logsigmoid(scores)
    for name, made in ((link, probability), (f"log_{link}", logarithm)):
        if torch.allclose(made.to(output.dtype), output, rtol=1e-3, atol=1e-5):
            return name
    return ""


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
