"""The model that the user gives: wrappers taken off, its mode, its weights by name, the scores in what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from relprop.core.capture.scripted import Scopes
from relprop.core.graph.graph import State, state
from relprop.errors import CaptureError, UsageError

Model = nn.Module | torch.export.ExportedProgram

#: which of the tensors that the model returns is explained: its name or position, or a function of what is returned
Output = str | int | Callable[[Any], Tensor] | None

#: entries that hold the scores where there are several tensors: Hugging Face's name, and torchvision's
NAMES = ("logits", "out")

HALF_TYPES = (torch.float16, torch.bfloat16)

#: methods that may set the mode, and compute nothing
_NO_COMPUTATION = frozenset({"__init__", "__setstate__", "__deepcopy__", "train", "eval"})

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrap(model: Model) -> Model:
    """Take a model out of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while isinstance(model, _WRAPPERS) or hasattr(model, "_orig_mod"):
        inner: Any = model.module if isinstance(model, _WRAPPERS) else model._orig_mod
        model = inner
    return model


def require_evaluation_mode(model: nn.Module) -> None:
    """Refuse a model of which a part that computes differently in training mode is in that mode.

    Raises:
        CaptureError: names the first such part. A wrapper that computes the same in both modes is none.
    """
    training = [(name, module) for name, module in model.named_modules() if trains(module)]
    if training:
        name, module = training[0]
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise CaptureError(
            f"the model is in training mode (at {name or type(module).__name__}{more}); call model.eval() first"
        )


def trains(module: nn.Module) -> bool:
    """Whether a module is in training mode, and what it computes depends on that."""
    if not getattr(module, "training", False):  # a frozen TorchScript module has no mode
        return False
    return isinstance(module, torch.jit.ScriptModule) or _reads_mode(type(module))  # type: ignore[arg-type]


@cache
def _reads_mode(kind: type) -> bool:
    """Whether the code of a class, those that it inherits from included, reads `training`."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    members = (member for base in own for name, member in vars(base).items() if name not in _NO_COMPUTATION)
    codes = (getattr(getattr(member, "__func__", member), "__code__", None) for member in members)
    return any(code is not None and _names_mode(code) for code in codes)


def _names_mode(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return "training" in code.co_names or any(map(_names_mode, inner))


def first_weight(model: Model) -> Tensor | None:
    """The first parameter: the model's type and device, as far as it has one of each."""
    weights = model.parameters() if isinstance(model, nn.Module) else model.state_dict.values()
    return next((weight for weight in weights if weight.is_floating_point()), None)


def no_numbers(tensor: Tensor) -> str:
    """Say why relevance cannot be had of a tensor, as the end of a sentence; "" where it can."""
    if tensor.layout is not torch.strided:
        return f"is sparse ({tensor.layout}), for which there are no rules; use .to_dense()"
    if tensor.is_complex():
        return f"holds complex numbers ({tensor.dtype}); relevance is defined for real ones alone"
    if tensor.is_meta:
        return "is on the device meta, where tensors hold no numbers; load it on the CPU"
    return ""


def says_multi_label(model: Model) -> bool:
    """Whether a model's configuration says that each class is a yes or no of its own, as Hugging Face's can."""
    configuration = getattr(model, "config", None)
    return getattr(configuration, "problem_type", None) == "multi_label_classification"


class Names:
    """Names of a model's weights, buffers and modules, by identity; read again when something unknown is met.

    Attributes:
        frozen: whether the model has none, so that its weights are constants of its code (frozen TorchScript).
        nests: whether a module may pack sequences into nested tensors, of which no step can be written down.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._scopes: dict[tuple[str, int], tuple[Scopes, Scopes]] = {}
        self.read()

    def within(self, outer: Scopes, path: str, run: int) -> Scopes:
        """Scopes of the run-th call of a module inside others: the same object each time, which compares at once."""
        known = self._scopes.get((path, run))
        if known is None or known[0] is not outer:
            known = self._scopes[path, run] = outer, (*outer, (f"{path}@{run}", path))
        return known[1]

    def read(self) -> None:
        """Read all names anew. Of a tensor or module with several names the first counts."""
        model = self._model
        own: Any = getattr(model, "named_states", None)  # of an exported program, whose names are no attributes
        modules = [*model.named_modules(remove_duplicate=False)]
        tensors = [*own()] if own is not None else [*_named_tensors(modules)]
        self.frozen = not tensors
        self._tensors = {id(tensor): (tensor, state(name)) for name, tensor in reversed(tensors)}
        self._modules = {id(module): (module, path) for path, module in reversed(modules)}
        self.nests = any(isinstance(module, nn.TransformerEncoder) for _, module in modules)

    def require_numbers(self) -> None:
        """Refuse weights that are complex, sparse, or without numbers or a shape.

        Raises:
            CaptureError: naming the first of them.
        """
        for weight, named in reversed([*self._tensors.values()]):
            if is_lazy(weight):
                raise CaptureError(
                    f"the model's weight {named.name} has no shape yet (its module is lazy): call model(x) once, and "
                    "explain it then"
                )
            plain = weight.layout is torch.strided and not (weight.is_meta or weight.is_complex())
            if not plain and isinstance(weight, nn.Parameter):
                raise CaptureError(f"the model's weight {named.name} {no_numbers(weight)}")

    def of_tensor(self, tensor: Tensor) -> State | None:
        """The weight or buffer that a tensor is; None where it is neither."""
        known = self._tensors.get(id(tensor))
        return None if known is None or known[0] is not tensor else known[1]

    def of_module(self, module: nn.Module) -> str | None:
        """Path of a module; None where it is no part of the model."""
        known = self._modules.get(id(module))
        return None if known is None or known[0] is not module else known[1]


def _named_tensors(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    for path, module in modules:
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{path}.{name}" if path else name, tensor


def scores_in(output: Any, which: Output = None) -> Tensor:
    """The tensor that is explained, in what a model returns.

    By default it is the tensor itself, the one named "logits" (Hugging Face) or "out" (torchvision's segmentation), the
    first of a tuple or list, or the only one in a dict or dataclass.

    Args:
        output: what the model returned.
        which: a name, a position among all that it returned, or a function that takes the tensor out of `output`.

    Raises:
        CaptureError: there is no tensor, or several and nothing says which.
        UsageError: `which` names none.
    """
    if callable(which):
        found = which(output)
        if not isinstance(found, Tensor):
            raise UsageError(f"output(...) must give a tensor, not {type(found).__name__}")
        return found
    if which is None and isinstance(output, Tensor):
        return output
    everything = _entries(output)
    entries = {name: value for name, value in everything.items() if isinstance(value, Tensor)}
    said = f"tensors {', '.join(entries)} are in it" if entries else "no tensor is in it"
    if which is not None:
        names = [*everything]
        by_position = isinstance(which, int) and -len(names) <= which < len(names)
        name = names[which] if by_position else str(which)  # type: ignore[index]
        if name not in entries:
            raise UsageError(f"the model returns {type(output).__name__} without an entry {which!r} ({said})")
        return entries[name]
    named = [name for name in NAMES if name in entries]
    ordered = isinstance(output, tuple | list) and not hasattr(output, "_fields")
    if named or len(entries) == 1 or (entries and ordered):
        return entries[named[0] if named else next(iter(entries))]
    parts = output if isinstance(output, list | tuple) else [output]
    if parts and all(isinstance(one, Mapping) and {"boxes", "scores"} <= {*one} for one in parts):
        raise CaptureError(
            "the model returns detections, boxes with scores: say which one to explain, as "
            "target=relprop.targets.Detection(0)"
        )
    raise CaptureError(
        f"the model returns {type(output).__name__}; relprop explains an (N, classes) tensor, alone, first in a tuple, "
        f"or as the entry {' or '.join(map(repr, NAMES))} ({said}): say which with output=NAME, or wrap the model so "
        "that it returns its scores alone"
    )


def _entries(output: Any) -> Mapping[str, Any]:
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if hasattr(output, "_asdict"):  # a named tuple
        return dict(output._asdict())
    if isinstance(output, tuple | list):
        return {str(place): value for place, value in enumerate(output)}
    return {}
