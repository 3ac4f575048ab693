"""The result of an explanation: frozen, savable, and silent about colours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relprop.core.heatmap import Edges, quantize
from relprop.core.ledger import Entry, Ledger
from relprop.errors import InputError, UsageError

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every input value for one class per image.

    Attributes:
        relevance: (N, C, H, W), or (N, K, C, H, W) for K targets an image; float32 (float64 for float64 models).
        target: (N,) or (N, K) the class explained; -1 where that was not the score of one class.
        score: (N,) or (N, K) the relevance that the walk started with: its probability or logit.
        logits: (N, classes), or of any other shape, what the model said.
        ledger: the books, or None where none were kept. With K targets, its samples are N·K in row-major order.
        kept: relevance of the layers asked for, by (name, side).
        composite: name of the composite.
        what: what was explained where that is not one class, in words.
    """

    relevance: Tensor
    target: Tensor
    score: Tensor
    logits: Tensor
    ledger: Ledger | None = None
    kept: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)
    composite: str = ""
    what: str = ""

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
        probabilities = self.logits.softmax(-1)
        return probabilities.gather(-1, self.target.view(len(self.target), -1)).view_as(self.target)

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
        )

    def save(self, directory: str | Path) -> Path:
        """Write `relevance.safetensors` and `manifest.json` into a directory, made if absent; raw floats, no pickle.

        Returns:
            The directory.
        """
        from safetensors.torch import save_file

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name) for name in ("relevance", "target", "score", "logits")}
        tensors |= {f"kept/{side}/{name}": value for (name, side), value in self.kept.items()}
        if self.ledger is not None:
            tensors |= _ledger_tensors(self.ledger)
        save_file(
            {k: v.detach().contiguous().cpu().clone() for k, v in tensors.items()}, directory / "relevance.safetensors"
        )
        (directory / "manifest.json").write_text(json.dumps(self._manifest(), indent=2) + "\n", encoding="utf-8")
        return directory

    def _manifest(self) -> dict[str, Any]:
        entries = [] if self.ledger is None else self.ledger.entries
        return {
            "format": _FORMAT,
            "relprop": version("relprop"),
            "torch": torch.__version__,
            "composite": self.composite,
            "what": self.what,
            "shape": list(self.relevance.shape),
            "target": self.target.tolist(),
            "score": self.score.tolist(),
            "gap": None if self.ledger is None else self.ledger.gap,
            "absorbed": None if self.ledger is None else self.ledger.absorbed,
            "ledger": [{"name": e.name, "op": e.op, "rule": e.rule, "conserves": e.conserves} for e in entries],
        }

    @classmethod
    def load(cls, directory: str | Path) -> Relevance:
        """Read what `save` wrote.

        Raises:
            InputError: there is no saved result, or it is of an unknown format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        directory = Path(directory)
        try:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            tensors = load_file(directory / "relevance.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{directory} holds no result that can be read: {error}") from None
        if manifest.get("format") != _FORMAT:
            raise InputError(f"{directory} has format {manifest.get('format')}; this version reads {_FORMAT}")
        kept = {}
        for key, value in tensors.items():
            if key.startswith("kept/"):
                _, side, name = key.split("/", 2)
                kept[name, side] = value
        fields = {name: tensors[name] for name in ("relevance", "target", "score", "logits")}
        return cls(
            **fields,
            ledger=_load_ledger(manifest["ledger"], tensors),
            kept=kept,
            composite=manifest["composite"],
            what=manifest.get("what", ""),
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
