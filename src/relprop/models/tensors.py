"""Fit the tensors of a checkpoint into a network: names, prefixes, classes and channels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from relprop.errors import ModelError
from relprop.models.checkpoint import DEPTH, Checkpoint, few

PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
ALIASES = (("linear", "fc"), ("shortcut", "downsample"))
"""Spellings of one module in published CIFAR ResNets, and ours."""


def fit(model: nn.Module, checkpoint: Checkpoint, arch: str) -> list[str]:
    """Load `checkpoint` into a fresh `model`, in place.

    The last layer takes as many classes, and the first as many channels, as the checkpoint has.

    Returns:
        What had to be read differently, for manifests.

    Raises:
        ModelError: it does not fit; the message names what is missing, unexpected or of another shape.
    """
    tensors, notes = _rename(dict(checkpoint.tensors), set(model.state_dict()))
    _drop_unused_heads(model, set(tensors))
    _reshape_ends(model, tensors)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # old checkpoints lack this counter, which evaluation does not read
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    shapes = [f"{n} is {given[n]}, not {wanted[n]}" for n in wanted if n in given and given[n] != wanted[n]]
    unexpected = [name for name in given if name not in wanted]
    problems = (("missing ", missing), ("unexpected ", unexpected), ("", shapes))
    if any(names for _, names in problems):
        listed = "; ".join(word + few(names) for word, names in problems if names)
        advice = _changed_head(model, missing, unexpected, tensors, arch) or "Give the architecture it was trained with"
        raise ModelError(f"{checkpoint.path} does not fit {arch}: {listed}. {advice}")
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{checkpoint.path} does not fit {arch}: {error}") from error
    return notes


def _changed_head(
    model: nn.Module, missing: list[str], unexpected: list[str], tensors: Mapping[str, Tensor], arch: str
) -> str:
    """What to do where only the classifier is another one (`fc.1.weight` for `fc.weight`); empty if more differs."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    owners = {name.rpartition(".")[0] for name in missing}
    if not layers or owners != {layers[-1]} or not unexpected:
        return ""
    head = layers[-1].partition(".")[0]
    if not all(name.startswith(f"{head}.") for name in unexpected):
        return ""
    shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in unexpected if name.endswith("weight"))
    return (
        f"Only the head differs: the file's has {shapes}. Write the change down as a function, in a file mynet.py of "
        f"this folder, `def make(): model = ...; model.{head} = ...; return model`, as the training did, and give "
        "arch='mynet:make' (--arch mynet:make), or the name of your own package.module:factory, in place of "
        f"{arch!r}"
    )


def _rename(tensors: dict[str, Tensor], wanted: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Strip the prefixes of wrappers and use our word for modules with several, wherever that makes names fit."""
    notes: list[str] = []
    for _ in range(DEPTH):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None or not tensors or any(name in wanted for name in tensors):
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"prefix {prefix!r} dropped")
    for theirs, ours in ALIASES:
        renamed = {name: ".".join(ours if part == theirs else part for part in name.split(".")) for name in tensors}
        changed = {
            old: new for old, new in renamed.items() if old not in wanted and new in wanted and new not in tensors
        }
        if changed:
            tensors = {changed.get(name, name): tensor for name, tensor in tensors.items()}
            notes.append(f"{theirs!r} read as {ours!r}")
    return tensors, notes


def _drop_unused_heads(model: nn.Module, given: set[str]) -> None:
    """Inception's and GoogLeNet's auxiliary classifiers serve training alone; many files come without them."""
    for head in ("aux1", "aux2", "AuxLogits"):
        if isinstance(getattr(model, head, None), nn.Module) and not any(n.startswith(f"{head}.") for n in given):
            setattr(model, head, None)


def ends(model: nn.Module) -> tuple[int | None, int | None]:
    """Channels that the first convolution takes, and outputs of the last layer; None where there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    return None if first is None else first.in_channels, layers[-1].weight.shape[0] if layers else None


def _reshape_ends(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the classifiers as many outputs, and the first convolution as many inputs, as the checkpoint has."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    if not layers:
        return
    classes = list(layers.values())[-1].weight.shape[0]
    first = next((m for m in layers.values() if isinstance(m, nn.Conv2d)), None)
    for name, layer in layers.items():
        have, found = tuple(layer.weight.shape), tensors.get(f"{name}.weight")
        want = have if found is None else tuple(found.shape)
        if len(want) != len(have) or want[2:] != have[2:]:
            continue
        if have[0] == classes and want[0] != classes and want[1] == have[1]:
            _resize(layer, want, "out_features" if isinstance(layer, nn.Linear) else "out_channels", want[0])
        elif layer is first and want[0] == have[0] and {have[1], want[1]} == {1, 3}:
            _resize(layer, want, "in_channels", want[1])


def _resize(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], attribute: str, value: int) -> None:
    setattr(layer, attribute, value)
    layer.weight = nn.Parameter(layer.weight.new_empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(shape[0]))
