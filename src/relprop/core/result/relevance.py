"""The result of an explanation: frozen, savable, and silent about colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.core.backward.ledger import COLUMNS, Entry, Ledger
from relprop.core.graph.batch_axis import exact_type
from relprop.core.graph.links import LINKS
from relprop.core.graph.separators import Separators
from relprop.core.result.combine import parse_layer, require_weights
from relprop.core.result.enlarge import enlarge
from relprop.core.result.quantize import Edges, quantize
from relprop.core.result.region import region_sum
from relprop.core.result.stored import Stored, write_result
from relprop.errors import InputError, UsageError, require

_FORMAT = 1

#: the tensors of a result that have a row for each image
_TENSORS = ("relevance", "target", "score", "logits")


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every input value for one class per image.

    Attributes:
        relevance: (N, C, H, W), or (N, K, C, H, W) for K targets an image; float32 (float64 for float64 models).
        target: (N,) or (N, K) the class explained; -1 where that was not the score of one class.
        score: (N,) or (N, K) the relevance that the backward pass started with: its probability or logit.
        logits: (N, classes), or of any other shape, what the model said; of one that ends in a softmax, log-softmax or
            sigmoid, what it says before that step.
        ledger: what each step received and sent; None where none was kept. With K targets, its samples are N·K in
            row-major order.
        kept: relevance of the layers asked for, by (name, side).
        composite: name of the composite.
        what: what was explained where that is not one class, in words.
        separators: the network's separator layers by name, for `combine`; None where nothing was kept.
        link: what makes probabilities of `logits`: "softmax", "sigmoid" of a multi-label model, or "identity" of one
            that returns a mixture of probabilities, which `logits` are then, and "log" of their logarithms.
    """

    relevance: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    ledger: Ledger | None = None
    kept: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    composite: str = ""
    what: str = ""
    separators: Separators | None = None
    link: str = "softmax"

    @cached_property
    def heatmap(self) -> Tensor:
        """(N, H, W) or (N, K, H, W): the sum over channels, never quantized or rescaled."""
        return self.relevance.sum(self.target.dim())  # the channels follow (N,) or (N, K), however many sizes they have

    @property
    def probability(self) -> Tensor:
        """(N,) or (N, K) the model's probability of the class explained.

        Raises:
            UsageError: it was not a class.
        """
        if self.what:
            raise UsageError(f"{self.what} was explained, which is not the probability of one class; see score")
        return self.probabilities.gather(-1, self.target.view(len(self.target), -1)).view_as(self.target)

    @property
    def probabilities(self) -> Tensor:
        """(N, classes) the model's probabilities of all classes."""
        return LINKS[self.link](self.logits, -1)

    def quantized(self, levels: int = 8, edges: Edges = "equation") -> Tensor:
        """Heat Quantization of the heatmap (Eq. 8): see `relprop.quantize`."""
        self._require_images("maps of images are quantized")
        return quantize(self.heatmap, levels, edges)

    def sum(self, region: Any) -> Tensor:
        """(N,) or (N, K), float64: relevance of a part of the image, a mask or a box (x0, y0, x1, y1).

            result.sum((40, 20, 120, 110)) / result.score      # the share of the score that the box holds

        Relevance of the whole image sums to the score, less what rules absorb (`ledger.conservation()`), so the shares
        of regions that together cover the image add up to 1 under rules that conserve. Where relevance is signed, a
        region's share may be negative, or above 1.

        Args:
            region: in pixels of the image as the network sees it: see `relprop.core.result.region.coverage`. A mask
                (N, H, W) has one region for each image.

        Raises:
            UsageError: no such region, or relevance of something other than images.
        """
        self._require_images("images have regions")
        return region_sum(self.heatmap, region)

    def _require_images(self, only: str) -> None:
        if self.relevance.dim() - self.target.dim() != 3:
            raise UsageError(f"only {only}, not relevance of shape {tuple(self.relevance.shape)}")

    def at(self, layer: str, side: str = "output") -> Tensor:
        """Total relevance of the tensor that leaves (or enters) a layer, in that tensor's shape.

        Raises:
            UsageError: the layer was not kept; the message lists what was.
        """
        if (layer, side) in self.kept:
            return self.kept[layer, side]
        if side not in ("input", "output"):
            raise UsageError(f"side must be 'input' or 'output', not {side!r}")
        names = sorted({name for name, _ in self.kept})
        if layer in names:
            raise UsageError(
                f"the {side} of {layer!r} is not one tensor; ask for the other side, or for the layers in it"
            )
        kept = f"kept were: {', '.join(names)}" if names else "none were kept"
        raise UsageError(
            f"the relevance of {layer!r} was not kept; {kept}. Ask for it with LRP(model, keep=[{layer!r}])"
        )

    def channels(self, layer: str, side: str = "output") -> Tensor:
        """(N, C) or (N, K, C): relevance of each channel of a layer that was kept, summed over its positions.

        Channels are the second axis of the tensor that leaves (or enters) the layer.

        Raises:
            UsageError: the layer was not kept, or its tensor has no second axis.
        """
        relevance, each = self.at(layer, side), self.target.dim()
        if relevance.dim() <= each:
            raise UsageError(f"the {side} of {layer!r} has no channels: its relevance is {tuple(relevance.shape)}")
        return relevance.flatten(each + 1).sum(-1) if relevance.dim() > each + 1 else relevance

    def combine(self, weights: Mapping[str, float]) -> Tensor:
        """A map of several separator layers: (N, H, W) or (N, K, H, W), Σ_k w_k U_k Σ_c R_k with Σ_k w_k = 1.

            relprop.LRP(model, keep=["late"])(x).combine({"late": 0.9, "input": 0.1})

        Every separator layer holds the score less what is absorbed above it, and `enlarge` (U) keeps the total of each
        map, so the map holds the weighted mean of that. See `relprop.core.graph.separators`.

        Args:
            weights: weight of each layer: its name for what leaves it, "NAME@input" for what enters it, "input" for
                the image, or one of the names that `Separators.expand` explains: "late", "last-block", "last-map", and
                "blocks" and "late-blocks", whose members share their weight evenly. All but "input" have to be kept.
                "input~1.5" is smoothed by a Gaussian of so many pixels, which keeps its total too.

        Raises:
            UsageError: weights that do not add up to 1; a name that is no separator layer, or was not kept; no
                width after `~`.
        """
        require_weights(weights)
        self._require_images("maps of images can be combined")
        if self.separators is None:
            raise UsageError(f"no separator layer was kept. Ask for them with LRP(model, keep={list(weights)})")
        size = self.relevance.shape[-2:]
        # in float64: what cancels in a map of both signs may be many times its total
        total = torch.zeros_like(self.heatmap, dtype=exact_type(self.relevance))
        for text, weight in weights.items():
            name, smooth = parse_layer(text)
            parts = self.separators.expand(name)
            for part in parts:
                total += (weight / len(parts)) * enlarge(self._layer(self.separators, part).to(total), size, smooth)
        return total.to(self.relevance.dtype)

    def _layer(self, separators: Separators, name: str) -> Tensor:
        """Relevance of a separator layer, summed over its channels."""
        position = separators.position(name)
        if position == 0:
            return self.heatmap
        for (layer, side), relevance in self.kept.items():
            if separators.positions.get(layer if side == "output" else f"{layer}@input") == position:
                return relevance.sum(self.target.dim())
        raise UsageError(f"the layer {name!r} was not kept. Ask for it with LRP(model, keep=[{name!r}])")

    @classmethod
    def cat(cls, parts: Sequence[Relevance]) -> Relevance:
        """One result of those for parts of a batch, with the layers that all of them kept."""
        first = parts[0]
        if len(parts) == 1:
            return first
        common = [key for key in first.kept if all(key in part.kept for part in parts)]
        tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        return replace(
            first,
            **tensors,
            kept={key: torch.cat([part.kept[key] for part in parts]) for key in common},
            ledger=Ledger.cat([part.ledger for part in parts if part.ledger is not None]),
        )

    def slice(self, at: slice) -> Relevance:
        """That of some of the images; with K targets, the ledger has K samples an image."""
        ledger = self.ledger
        if ledger is not None:
            each = self.target[0].numel()
            start, stop, _ = at.indices(len(self.target))
            ledger = ledger.slice(slice(start * each, stop * each))
        return replace(self, **self._with(lambda tensor: tensor[at]), ledger=ledger)

    def cpu(self) -> Relevance:
        """A copy in the computer's main memory, ledger apart (it stays where it is)."""
        return replace(self, **self._with(Tensor.cpu))

    def _with(self, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What a function makes of each tensor of the result, the ledger's apart."""
        kept = {key: function(tensor) for key, tensor in self.kept.items()}
        return {"kept": kept, **{name: function(getattr(self, name)) for name in _TENSORS}}

    def numpy(self, name: str = "heatmap") -> Any:
        """A tensor of the result ("heatmap", "relevance", "score", "target", "logits", "probability") as an array."""
        value = getattr(self, name, None)
        if not isinstance(value, Tensor):
            raise UsageError(f"{name!r} is no tensor of a result; heatmap, relevance, score, target and logits are")
        return value.detach().cpu().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """`numpy.asarray(result)` is its heatmap."""
        array = self.numpy()
        return array.astype(dtype or array.dtype, copy=bool(copy))

    def __repr__(self) -> str:
        """What a notebook or a debugger prints: no tensors, but what they say."""
        shape = " x ".join(map(str, self.relevance.shape))
        targets, scores = self.target.flatten().tolist(), self.score.flatten().tolist()
        said = [f"{self.what or f'class {t}'}: {s:.4g}" for t, s in zip(targets[:4], scores[:4], strict=True)]
        more = f", and {len(targets) - 4} more" if len(targets) > 4 else ""
        leak = "" if self.ledger is None else f"; largest leak {self.ledger.gap:.1e}"
        return f"Relevance({shape} by {self.composite or 'rules unknown'}; {', '.join(said)}{more}{leak})"

    def show(self, over: Any = None, *, index: Any = 0, classes: Any = None, smooth: float = 1.0) -> Any:
        """One map in a notebook: it fades to the image, goes through kept layers, and says what a box holds.

            relprop.LRP(model, keep=["layer3", "layer4"])(x).show(over=loaded.preprocess.crop(picture))

        With the extra `notebook` this is a widget, whose `box`, `layer`, `share` and `relevance` can be read in Python;
        without it, a figure of the map at the pixels.

        Args:
            over: the picture that the network saw, (H, W) in size: PIL, an array, or a tensor in [0, 1]; None for the
                map alone.
            index: which sample of the batch; a pair (sample, class) where several classes were explained.
            classes: names of the model's outputs: a list, `class_to_idx`, the path of a file or folder.
            smooth: width in pixels of the Gaussian that the map at the pixels is drawn after, 0 for none: strides of
                the first layers make a lattice of single pixels. Sums are of the map as it is.

        Raises:
            InputError: relevance of something other than images, no such sample, or a picture of another size.
            UsageError: names that cannot be read, or another number of names than the model has outputs.
        """
        return require("relprop.viz.widget", "all").view(self, over, index=index, classes=classes, smooth=smooth)

    def _repr_png_(self) -> bytes | None:
        picture: bytes | None = require("relprop.viz.notebook", "all").png(self)
        return picture

    def _repr_html_(self) -> str:
        # drawing stands above the core: it is reached by name, and only when a notebook asks
        page: str = require("relprop.viz.notebook", "all").page(self)
        return page

    def save(self, directory: str | Path) -> Path:
        """Write `relevance.safetensors` and `manifest.json` into a directory, made if absent; raw floats, no pickle.

        Returns:
            The directory.
        """
        return write_result(directory, self.tensors(), self.manifest())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the result by the names that they are saved under."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        tensors |= {f"kept/{side}/{name}": value for (name, side), value in self.kept.items()}
        if self.ledger is not None:
            tensors |= {f"ledger/{name}": column for name, column in self.ledger.columns().items()}
            tensors |= {"ledger/start": self.ledger.start, "ledger/end": self.ledger.end}
        return tensors

    def manifest(self) -> dict[str, Any]:
        """What a saved result says of itself."""
        entries = [] if self.ledger is None else self.ledger.entries
        return {
            "format": _FORMAT,
            "composite": self.composite,
            "what": self.what,
            "link": self.link,
            "shape": list(self.relevance.shape),
            "target": self.target.tolist(),
            "score": self.score.tolist(),
            "gap": None if self.ledger is None else self.ledger.gap,
            "absorbed": None if self.ledger is None else self.ledger.absorbed,
            "conservation": None if self.ledger is None else self.ledger.conservation().document(),
            "separators": None if self.separators is None else self.separators.document(),
            "ledger": [{"name": e.name, "op": e.op, "rule": e.rule, "conserves": e.conserves} for e in entries],
        }

    @classmethod
    def load(cls, directory: str | Path) -> Relevance:
        """Read what `save` wrote.

        Raises:
            InputError: there is no saved result, it is of an unknown format, or its parts do not fit one another.
        """
        stored = Stored(directory)
        if "inputs" in stored.manifest:
            raise InputError(f"{directory} holds relevance of several inputs; read it with relprop.Relevances.load")
        return cls.of_stored(stored)

    @classmethod
    def of_stored(cls, stored: Stored) -> Relevance:
        """Put a result together from what was saved.

        Raises:
            InputError: it is of an unknown format, or its parts do not fit one another.
        """
        if stored.manifest.get("format") != _FORMAT:
            raise InputError(
                f"{stored.directory} has format {stored.manifest.get('format')}; this version reads {_FORMAT}"
            )
        target, logits, what = stored.tensor("target"), stored.tensor("logits"), stored.get("what", str, "")
        relevance = stored.tensor("relevance")
        count = target.dim()
        if count not in (1, 2) or relevance.dim() <= count or relevance.shape[:count] != target.shape:
            stored.refuse(f"its relevance is {tuple(relevance.shape)} for targets {tuple(target.shape)}")
        if not what and (logits.dim() != 2 or len(logits) != len(target) or not _within(target, logits.shape[1])):
            stored.refuse(f"its targets are no classes of the scores {tuple(logits.shape)}")
        if (link := stored.get("link", str, "softmax")) not in LINKS:
            stored.refuse(f"its link is {link!r}, not softmax, sigmoid, identity or log")
        return cls(
            relevance,
            target,
            stored.tensor("score", tuple(target.shape)),
            logits,
            ledger=_load_ledger(stored, target.numel()),
            kept=_load_kept(stored),
            composite=stored.get("composite", str),
            what=what,
            separators=_load_separators(stored),
            link=link,
        )


def _within(target: Tensor, classes: int) -> bool:
    return bool(((target >= -1) & (target < classes)).all())


def _load_kept(stored: Stored) -> dict[tuple[str, str], Tensor]:
    kept = {}
    for key in stored.tensors:
        if key.startswith("kept/"):
            _, side, name = (*key.split("/", 2), "", "")[:3]
            if side not in ("input", "output"):
                stored.refuse(f"it keeps {key!r}, which names no layer")
            kept[name, side] = stored.tensor(key)
    return kept


def _load_separators(stored: Stored) -> Separators | None:
    separators: Any = stored.manifest.get("separators")
    if separators is None:
        return None
    found: Any = separators if isinstance(separators, dict) else {}
    places, blocks = found.get("places"), found.get("blocks")
    fits = isinstance(places, dict) and places and all(type(position) is int for position in places.values())
    if not fits or not isinstance(blocks, list) or any(type(block) is not str for block in blocks):
        stored.refuse(f"its separators are {repr(separators)[:60]}")
    return Separators(places, tuple(blocks))


def _load_ledger(stored: Stored, count: int) -> Ledger | None:
    lines = stored.get("ledger", list)
    if not lines:
        return None
    columns = {name: stored.tensor(f"ledger/{name}", (len(lines), count)) for name in COLUMNS}
    start, end = stored.tensor("ledger/start", (count,)), stored.tensor("ledger/end", (count,))
    for row, line in enumerate(lines):
        found = {name: type(value) for name, value in line.items()} if isinstance(line, dict) else {}
        if found != {"name": str, "op": str, "rule": str, "conserves": bool}:
            stored.refuse(f"line {row} of its ledger is {repr(line)[:60]}")
    nothing: dict[str, Any] = dict.fromkeys(COLUMNS, start)
    return Ledger.of_columns([Entry(**line, **nothing) for line in lines], columns, start, end)
