"""Turn a model into a `Graph` without touching it, by way of `torch.export`, or of a recorded run.

Export traces the model on stand-ins that have a shape and no data, so nothing runs on the user's weights, and
`run_decompositions({})` rewrites in-place operations (`relu_`, `out += identity`, writes through views) as
functional ones: recorded values are then never overwritten. Whatever the spelling, a join arrives as an `add`
of two tensors.

What export cannot read, TorchScript and Python that branches on values, is recorded for the given input (`record.py`),
and the recording is exported: it has the same calls, and no branch.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.core.export import NotExportedError, attempts, export, export_by, functional, reason
from relprop.core.graph import Graph, Node, Ref, State, refs
from relprop.core.ops import CONSTANT, canonical
from relprop.core.record import record, record_for_any_batch
from relprop.core.replay import Replay
from relprop.errors import CaptureError

Model = nn.Module | torch.export.ExportedProgram

#: how a graph was captured, for the reader
EXPORT, PROGRAM, RECORDED = "torch.export", "exported program", "a run recorded for this input"

_HALVES = (torch.float16, torch.bfloat16)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s+([^\n]*)')
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)

#: operations of which the graph uses the first result alone, by the name that their one-result twin has
_ONE_OF_TWO = {
    "max_pool_with_indices": "max_pool",
    "adaptive_max_pool": "adaptive_max_pool",
    "native_dropout": "dropout",
}


def unwrap(model: Model) -> Model:
    """Take a model out of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while isinstance(model, _WRAPPERS) or hasattr(model, "_orig_mod"):
        inner: Any = model.module if isinstance(model, _WRAPPERS) else model._orig_mod
        model = inner
    return model


def capture(model: Model, example: Tensor) -> Graph:
    """Capture the computation of `model` on inputs of the shape of `example`, for any batch size where that can be.

    Args:
        model: a module in evaluation mode, TorchScript included, or an exported program.
        example: (N, ...) one input. Its shape, type and device matter; its values do where a run must be recorded.

    Raises:
        CaptureError: the model is in training mode, or can be neither exported nor recorded.
    """
    model = unwrap(model)
    if isinstance(model, torch.export.ExportedProgram):
        return _from_program(functional(model), route=PROGRAM)
    require_evaluation_mode(model)
    if isinstance(model, torch.jit.ScriptModule):
        refused = "it is TorchScript, which torch.export does not read"
    else:
        try:
            return _from_program(export(model, example), route=EXPORT, inside="model.")
        except NotExportedError as error:
            refused = str(error)
    return _recorded(model, example, refused)


def _recorded(model: nn.Module, example: Tensor, refused: str) -> Graph:
    """Record a run, for any batch size if it makes the same calls twice, and read the recording like a program."""
    what = f"{type(model).__name__} for an input of shape {tuple(example.shape)}"
    try:
        tape = record(model, example)
        tape = record_for_any_batch(model, example, tape)
        if tape.output < 0:
            raise CaptureError("the model's output does not depend on its input")
        replay = Replay(model, tape)
        program = export_by(replay, attempts(example, tape.any_batch), model)
    except CaptureError:
        raise
    except Exception as error:  # whatever the user's code, or export, raises
        raise CaptureError(
            f"cannot capture {what}. torch.export: {refused}. A recorded run: {reason(error)}. Move what these name "
            "out of the model, or explain the part of it that has none"
        ) from error
    replay.put_back_places(program)
    frozen = not any(True for _ in model.parameters())  # its weights are constants then
    graph = _from_program(program, route=RECORDED, inside="model.", frozen=frozen)
    return replace(graph, tape=tape if graph.any_batch else replace(tape, any_batch=False))


def require_evaluation_mode(model: nn.Module) -> None:
    """Refuse a model of which any part is in training mode."""
    modes = [
        (name, getattr(module, "training", False)) for name, module in model.named_modules()
    ]  # frozen ones have none
    training = [name or type(model).__name__ for name, trains in modes if trains]
    if training:
        raise CaptureError(
            f"the model is in training mode (at {training[0]}"
            f"{f' and {len(training) - 1} more' if len(training) > 1 else ''}); call model.eval() first"
        )


def _from_program(
    program: torch.export.ExportedProgram, route: str, inside: str = "", *, frozen: bool = False
) -> Graph:
    """Read an exported program's nodes into ours.

    Args:
        program: what to read.
        route: how it was made.
        inside: what paths of the user's model all begin with.
        frozen: whether constants count as learned.
    """
    signature = program.graph_signature
    if len(signature.user_inputs) != 1:
        raise CaptureError(f"the model takes {len(signature.user_inputs)} inputs; relprop explains one image tensor")
    if len(signature.user_outputs) != 1 or not isinstance(
        program.graph.find_nodes(op="output")[0].args[0][0], torch.fx.Node
    ):
        raise CaptureError(
            f"the model returns {len(signature.user_outputs)} values; relprop explains one (N, classes) tensor: "
            "wrap the model so that it returns its scores alone"
        )
    learned = (torch.export.graph_signature.InputKind.PARAMETER, torch.export.graph_signature.InputKind.BUFFER)
    states = {
        s.arg.name: State(s.target.removeprefix(inside) if s.kind in learned else s.target, frozen or s.kind in learned)
        for s in signature.input_specs
        if s.target is not None
    }
    nodes: list[Node] = []
    argument: dict[torch.fx.Node, Ref | State] = {}
    kept = _alive(program)
    image = next(n for n in kept if n.op == "placeholder" and n.name in signature.user_inputs)
    argument[image] = Ref(0)
    nodes.append(Node(0, "input", "input", _no_call, shape=_shape(image)))
    depends = [True]
    for fx in kept:
        if fx is image:
            continue
        if fx.op in ("placeholder", "get_attr"):
            argument[fx] = states.get(fx.name) or State(str(fx.target), learned=False)
            continue
        if (node := _node(fx, len(nodes), argument)) is None:
            continue
        node = replace(node, scopes=tuple((call, f"{path}.".removeprefix(inside)[:-1]) for call, path in node.scopes))
        inputs = tuple(i for i in refs((node.args, node.kwargs)) if depends[i]) if node.op not in CONSTANT else ()
        depends.append(bool(inputs))
        nodes.append(replace(node, inputs=inputs))
        argument[fx] = Ref(node.index)
    output = argument[program.graph.find_nodes(op="output")[0].args[0][0]]
    if not isinstance(output, Ref) or not depends[output.index]:
        raise CaptureError("the model's output does not depend on its input")
    constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    if route == PROGRAM:
        constants |= dict(program.state_dict)
    halved = any(getattr(fx.meta.get("val"), "dtype", None) in _HALVES for fx in kept)
    return Graph(tuple(_named(nodes)), output.index, tuple(depends), constants, route, halved)


def _no_call(*_: Any) -> Any:
    raise AssertionError("the input is given, not computed")


def _alive(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    """The nodes that the output needs, in order."""
    needed: set[torch.fx.Node] = set()
    stack = [*program.graph.find_nodes(op="output")]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    image = {*program.graph_signature.user_inputs}
    return [n for n in program.graph.nodes if (n in needed or n.name in image) and n.op != "output"]


def _node(fx: torch.fx.Node, index: int, argument: dict[torch.fx.Node, Ref | State]) -> Node | None:
    """Translate one call; None for a tuple whose parts are translated one by one."""
    if fx.target is operator.getitem:
        return _part(fx, index, argument)
    if isinstance(fx.meta.get("val"), list | tuple):
        return None
    call: Any = fx.target
    op = canonical(call._schema.name) if hasattr(call, "_schema") else call.__name__
    if call in _VIEWS:  # we choose the memory format of values, and not every one can be viewed
        call = torch.ops.aten.reshape.default
    node = Node(index, "", op, call, shape=_shape(fx), scopes=_scopes(fx), source=_source(fx))
    return replace(node, args=_arguments(fx.args, argument), kwargs=_arguments(dict(fx.kwargs), argument))


def _part(fx: torch.fx.Node, index: int, argument: dict[torch.fx.Node, Ref | State]) -> Node:
    """Translate `op(...)[k]`, k-th result of an operation that returns several, into an operation of one result."""
    whole: Any = fx.args[0]
    k: Any = fx.args[1]
    args: tuple[Any, ...] = whole.args
    name = canonical(whole.target._schema.name)
    kwargs = _arguments(dict(whole.kwargs), argument)
    base = Node(
        index,
        "",
        name,
        whole.target,
        _arguments(args, argument),
        kwargs,
        (),
        _shape(fx),
        _scopes(whole),
        _source(whole),
    )
    if name == "_native_batch_norm_legit_no_training" and k == 0:
        return replace(base, op="batch_norm", call=_batch_norm)
    if name in _ONE_OF_TWO and k == 0:
        return replace(base, op=_ONE_OF_TWO[name], call=_item_of(whole.target, 0))
    if name in ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"):
        dim = args[2] if len(args) > 2 else whole.kwargs.get("dim", 0)
        sizes = [int(part.shape[dim]) for part in whole.meta["val"]]
        bounds = (dim, sum(sizes[:k]), sum(sizes[: k + 1]))
        return replace(base, op="slice", call=torch.ops.aten.slice.Tensor, args=(base.args[0], *bounds), kwargs={})
    if name == "unbind":
        dim = args[1] if len(args) > 1 else 0
        return replace(base, op="select", call=torch.ops.aten.select.int, args=(base.args[0], dim, k), kwargs={})
    return replace(base, op=f"{name}[{k}]", call=_item_of(whole.target, k))


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, _: float, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


def _item_of(call: Callable[..., Any], k: int) -> Callable[..., Any]:
    def item(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)[k]

    return item


def _arguments(value: Any, argument: Mapping[torch.fx.Node, Ref | State]) -> Any:
    if isinstance(value, torch.fx.Node):
        return argument[value]
    if isinstance(value, list | tuple):
        return type(value)(_arguments(part, argument) for part in value)
    if isinstance(value, dict):
        return {key: _arguments(part, argument) for key, part in value.items()}
    if value in _HALVES:
        return torch.float32  # a model in half precision, or under autocast, is computed with as float32
    return value


def _shape(fx: torch.fx.Node) -> tuple[int | None, ...] | None:
    value = fx.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _scopes(fx: torch.fx.Node) -> tuple[tuple[str, str], ...]:
    return tuple((call, path.split("@")[0]) for call, (path, _) in fx.meta.get("nn_module_stack", {}).items())


def _source(fx: torch.fx.Node) -> str:
    """Last line of the trace that is the user's, or else torch's own."""
    frames = _FRAME.findall(fx.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "/torch/nn/" not in frame[0].replace("\\", "/")]
    if not frames:
        return ""
    file, line, text = (own or frames)[-1]
    name = file.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}:{line} {text.strip()}"


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
