"""Captures, remembered for as long as their models live, and checked against them; weights as they are now."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from relprop.core.capture import Model, capture
from relprop.core.graph import Graph
from relprop.core.outputs import scores_in
from relprop.core.prepared import Prepared
from relprop.core.program import make_program, run
from relprop.core.record import record
from relprop.errors import CaptureError, InputError, RecordedWarning, RelpropError

#: graphs of the models that were captured, for as long as the models live
_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], list[Graph]]] = WeakKeyDictionary()

#: recordings remembered for inputs of one kind, of models that branch on values: each way through them has its own
RECORDINGS = 32


def keys(model: Model, image: Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a capture holds for: these modules, and inputs of this kind in any batch, or in a batch of this size."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    parts = tuple((id(module), type(module)) for module in modules)  # one that is replaced shows
    any_batch = (parts, tuple(image.shape[1:]), image.dtype, image.device)
    return any_batch, (*any_batch, len(image))


def captured(model: Model, image: Tensor) -> Graph:
    """Capture a model, unless that was done for such inputs and it still computes the same: a change in it shows.

    A recording holds for inputs on which the model makes the same calls, so for each input a run is recorded, and
    compared with those that are known.
    """
    known = _GRAPHS.setdefault(model, {}) if isinstance(model, nn.Module) else {}
    any_batch, this_batch = keys(model, image)
    graphs = [graph for key in (this_batch, any_batch) for graph in known.get(key, ())]
    if any(graph.tape is not None for graph in graphs) and (found := _recording_for(model, graphs, image)) is not None:
        return found
    for graph in graphs:
        if graph.tape is None:
            with contextlib.suppress(CaptureError, InputError, RuntimeError, KeyError):
                _require_same_output(model, graph, image)
                return graph
    with _own_dtype(model, image) as example:
        try:
            graph = capture(model, example)
        except CaptureError:
            _own_scores(model, image)  # says why, where the model itself cannot take such images
            raise
    _require_shape(graph, image)
    _require_same_output(model, graph, image)
    if graph.tape is None:
        known[any_batch if graph.any_batch else this_batch] = [graph]
    else:
        _say_that_it_is_recorded(model, graphs)
        recordings = known.setdefault(any_batch if graph.any_batch else this_batch, [])
        recordings.append(graph)
        del recordings[:-RECORDINGS]
    return graph


def _recording_for(model: Model, graphs: list[Graph], image: Tensor) -> Graph | None:
    """The recording that holds for this image, if there is one."""
    assert isinstance(model, nn.Module)
    with contextlib.suppress(Exception), _own_dtype(model, image) as example:  # what it says is said by its own forward
        run = record(model, example)
        return next((graph for graph in reversed(graphs) if graph.tape is not None and graph.tape.fits(run)), None)
    return None


def _say_that_it_is_recorded(model: Model, graphs: list[Graph]) -> None:
    """Once a model."""
    if any(graph.tape is not None for graph in graphs):
        return
    scripted = isinstance(model, torch.jit.ScriptModule)
    why = "is TorchScript" if scripted else "probably branches on the values of tensors"
    warnings.warn(
        f"{type(model).__name__} {why}, so torch.export cannot read it; a run is recorded for each input instead, "
        "which costs one more forward pass. The explanation is of the branches that this input takes",
        RecordedWarning,
        stacklevel=2,
    )


def state_of(model: Model, graph: Graph) -> dict[str, Tensor]:
    """Weights and constants as they are now; half precision is computed with as float32."""
    state = dict(graph.constants)
    if isinstance(model, nn.Module):
        state |= dict(model.named_parameters(remove_duplicate=False))
        state |= dict(model.named_buffers(remove_duplicate=False))
    return {name: _widened(state[name].detach()) for name in graph.states}


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def first_weight(model: Model) -> Tensor | None:
    """The first parameter: the model's type and device, as far as it has one of each."""
    tensors = model.parameters() if isinstance(model, nn.Module) else model.state_dict.values()
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


@contextlib.contextmanager
def _own_dtype(model: Model, image: Tensor) -> Iterator[Tensor]:
    """The image in the type that the model's own forward takes."""
    weight = first_weight(model)
    yield image if weight is None else image.to(weight.dtype)


def _require_shape(graph: Graph, image: Tensor) -> None:
    """Refuse an input that an exported program was not exported for."""
    expected = graph.nodes[0].shape or ()
    fits = len(expected) == image.dim() and all(e in (None, s) for e, s in zip(expected, image.shape, strict=True))
    if not fits:
        wanted = ", ".join("N" if size is None else str(size) for size in expected)
        raise InputError(
            f"the program was exported for inputs of shape ({wanted}); x has {tuple(image.shape)}. Give it such "
            "inputs, or export it again, for any batch with dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )


def _own_scores(model: Model, image: Tensor) -> Tensor | None:
    """What the model itself says; None for an exported program, of which the graph is all there is."""
    if not isinstance(model, nn.Module):
        return None
    try:
        with _own_dtype(model, image) as own:
            output = model(own)
    except RelpropError:  # of a part of relprop that stands around the user's model, and says more
        raise
    except Exception as error:  # whatever the user's code raises
        reason = str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
        raise InputError(f"the model cannot take x of shape {tuple(image.shape)}: {reason}") from error
    return require_finite(scores_in(output))


def _require_same_output(model: Model, graph: Graph, image: Tensor) -> None:
    """Refuse a capture that computes something else than the model does; two images tell, where it takes any batch.

    A recording is compared on all of them: it holds for what the model makes of these.
    """
    image = image[:2] if graph.any_batch and graph.tape is None else image
    theirs = _own_scores(model, image)
    program = make_program(graph, frozenset())
    ours = require_finite(run(program, graph, state_of(model, graph), image, Prepared()).output)
    if theirs is None:
        return
    tolerance = 0.05 if graph.halved else 1e-3
    scale = theirs.abs().max().clamp(min=1e-12)
    difference = float((ours - theirs).abs().max() / scale) if ours.shape == theirs.shape else float("inf")
    if not difference <= tolerance:
        raise CaptureError(
            f"the captured graph and the model differ by {difference:.1e} of the largest score on the same input: the "
            "model is not a fixed function of its input (randomness, or a branch on values), or hooks change it"
        )


def require_finite(scores: Tensor) -> Tensor:
    """Refuse scores that are NaN or infinite."""
    if not scores.isfinite().all():
        raise InputError("the model's scores for this input are NaN or infinite; there is nothing to explain")
    return scores
