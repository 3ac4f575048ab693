"""The result of an explanation: frozen, savable, and silent about colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.core.backward.ledger import Entry, Ledger
from relprop.core.graph.separators import Cuts
from relprop.core.result.combine import parse_cut, require_weights
from relprop.core.result.enlarge import enlarge
from relprop.core.result.quantize import Edges, quantize
from relprop.core.result.stored import read_result, write_result
from relprop.errors import InputError, UsageError, require

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every input value for one class per image.

    Attributes:
        relevance: (N, C, H, W), or (N, K, C, H, W) for K targets an image; float32 (float64 for float64 models).
        target: (N,) or (N, K) the class explained; -1 where that was not the score of one class.
        score: (N,) or (N, K) the relevance that the walk started with: its probability or logit.
        logits: (N, classes), or of any other shape, what the model said; of one that ends in a softmax, log-softmax or
            sigmoid, what it says before that step.
        ledger: the books, or None where none were kept. With K targets, its samples are N·K in row-major order.
        kept: relevance of the layers asked for, by (name, side).
        composite: name of the composite.
        what: what was explained where that is not one class, in words.
        cuts: the network's cuts by name, for `read`; None where nothing was kept.
        link: what makes probabilities of `logits`: "softmax", or "sigmoid" of a model that ends in one.
    """

    relevance: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    ledger: Ledger | None = None
    kept: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    composite: str = ""
    what: str = ""
    cuts: Cuts | None = None
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
        return self.logits.sigmoid() if self.link == "sigmoid" else self.logits.softmax(-1)

    def quantized(self, levels: int = 8, edges: Edges = "equation") -> Tensor:
        """Heat Quantization of the heatmap (Eq. 8): see `relprop.quantize`."""
        if self.relevance.dim() - self.target.dim() != 3:
            raise UsageError(f"only maps of images are quantized, not relevance of shape {tuple(self.relevance.shape)}")
        return quantize(self.heatmap, levels, edges)

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

    def read(self, weights: Mapping[str, float]) -> Tensor:
        """A map of several cuts: (N, H, W) or (N, K, H, W), Σ_k w_k U_k Σ_c R_k with Σ_k w_k = 1.

            relprop.LRP(model, keep=["late"])(x).read({"late": 0.9, "input": 0.1})

        Every cut holds the score less what is absorbed above it, and `enlarge` (U) keeps the total of each map, so the
        map holds the weighted mean of that. See `relprop.core.graph.separators`.

        Args:
            weights: weight of each cut: a layer's name for what leaves it, "NAME@input" for what enters it, "input" for
                the image, or one of the names that `Cuts.expand` explains: "late", "last-block", "last-map", and
                "blocks" and "late-blocks", whose members share their weight evenly. All but "input" have to be kept.
                "input~1.5" is smoothed by a Gaussian of so many pixels, which keeps its total too.

        Raises:
            UsageError: weights that do not add up to 1; a name that is no cut, or was not kept; no width after `~`.
        """
        require_weights(weights)
        if self.relevance.dim() - self.target.dim() != 3:
            raise UsageError(f"only maps of images can be read, not relevance of shape {tuple(self.relevance.shape)}")
        if self.cuts is None:
            raise UsageError(f"no cut was kept. Ask for those to read with LRP(model, keep={list(weights)})")
        size = self.relevance.shape[-2:]
        total = torch.zeros_like(self.heatmap)
        for text, weight in weights.items():
            name, smooth = parse_cut(text)
            parts = self.cuts.expand(name)
            for part in parts:
                total += (weight / len(parts)) * enlarge(self._cut(self.cuts, part), size, smooth)
        return total

    def _cut(self, cuts: Cuts, name: str) -> Tensor:
        """Relevance of a cut, summed over its channels."""
        place = cuts.place(name)
        if place == 0:
            return self.heatmap
        for (layer, side), relevance in self.kept.items():
            if cuts.places.get(layer if side == "output" else f"{layer}@input") == place:
                return relevance.sum(self.target.dim())
        raise UsageError(f"the cut {name!r} was not kept. Ask for it with LRP(model, keep=[{name!r}])")

    def cpu(self) -> Relevance:
        """A copy in the computer's main memory, ledger apart (it stays where it is)."""
        kept = {key: value.cpu() for key, value in self.kept.items()}
        return Relevance(
            self.relevance.cpu(),
            self.target.cpu(),
            self.score.cpu(),
            self.logits.cpu(),
            self.ledger,
            kept,
            self.composite,
            self.what,
            self.cuts,
            self.link,
        )

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
        books = "" if self.ledger is None else f"; largest leak {self.ledger.gap:.1e}"
        return f"Relevance({shape} by {self.composite or 'rules unknown'}; {', '.join(said)}{more}{books})"

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
        tensors = {name: getattr(self, name) for name in ("relevance", "target", "score", "logits")}
        tensors |= {f"kept/{side}/{name}": value for (name, side), value in self.kept.items()}
        return tensors if self.ledger is None else tensors | _ledger_tensors(self.ledger)

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
            "cuts": None if self.cuts is None else {"places": dict(self.cuts.places), "blocks": list(self.cuts.blocks)},
            "ledger": [{"name": e.name, "op": e.op, "rule": e.rule, "conserves": e.conserves} for e in entries],
        }

    @classmethod
    def load(cls, directory: str | Path) -> Relevance:
        """Read what `save` wrote.

        Raises:
            InputError: there is no saved result, or it is of an unknown format.
        """
        manifest, tensors = read_result(directory)
        if "inputs" in manifest:
            raise InputError(f"{directory} holds relevance of several inputs; read it with relprop.Relevances.load")
        return cls.of_saved(manifest, tensors, directory)

    @classmethod
    def of_saved(cls, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], directory: str | Path) -> Relevance:
        """Put a result together from what was saved.

        Raises:
            InputError: it is of an unknown format.
        """
        if manifest.get("format") != _FORMAT:
            raise InputError(f"{directory} has format {manifest.get('format')}; this version reads {_FORMAT}")
        kept = {}
        for key, value in tensors.items():
            if key.startswith("kept/"):
                _, side, name = key.split("/", 2)
                kept[name, side] = value
        fields = {name: tensors[name] for name in ("relevance", "target", "score", "logits")}
        cuts = manifest.get("cuts")
        return cls(
            **fields,
            ledger=_load_ledger(manifest["ledger"], tensors),
            kept=kept,
            composite=manifest["composite"],
            what=manifest.get("what", ""),
            cuts=None if cuts is None else Cuts(cuts["places"], tuple(cuts["blocks"])),
            link=manifest.get("link", "softmax"),
        )


_COLUMNS = ("received", "sent", "magnitude", "blind")


def _ledger_tensors(ledger: Ledger) -> dict[str, Tensor]:
    def column(name: str) -> Tensor:
        return torch.stack([torch.as_tensor(getattr(e, name)).to(e.sent).expand_as(e.sent) for e in ledger.entries])

    return {"ledger/start": ledger.start, "ledger/end": ledger.end} | {f"ledger/{c}": column(c) for c in _COLUMNS}


def _load_ledger(lines: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> Ledger | None:
    if not lines:
        return None
    entries = []
    for row, line in enumerate(lines):
        columns: dict[str, Any] = {column: tensors[f"ledger/{column}"][row] for column in _COLUMNS}
        entries.append(Entry(**line, **columns))
    return Ledger(tuple(entries), tensors["ledger/start"], tensors["ledger/end"])
