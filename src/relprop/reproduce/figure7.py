"""Figure 7: the sum of relevance at three separator layers of the network, against the model's probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from relprop import LRP, paper, released, tables
from relprop.core.graph.joins import find_joins
from relprop.data import balanced
from relprop.errors import InputError
from relprop.viz.overlay import INK, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from relprop.core.composites.composite import Composite
    from relprop.core.graph.graph import Graph
    from relprop.data import Dataset
    from relprop.models import LoadedModel
    from relprop.reproduce.setting import Setting

TOLERANCE = 1e-6
"""The largest relative deviation that `paper()` may show."""

BLUE, ORANGE = "#0072B2", "#D55E00"  # colour-blind readers can tell them apart
_COMPOSITES: dict[str, Callable[[], Composite]] = {"paper": paper, "released": released}
_TITLES = {"paper": "paper(): the method, made exact", "released": "released(): the authors' code"}


@dataclass(frozen=True)
class Separator:
    """A separator layer, which all relevance passes: a title, and the name of the step whose value it is."""

    title: str
    layer: str


@dataclass(frozen=True)
class Sums:
    """What was measured."""

    separators: tuple[Separator, ...]  # from the input on
    samples: tuple[str, ...]  # ids (N)
    probability: dict[str, Tensor]  # (N,) float64, of the predicted class, by composite
    relevance: dict[str, Tensor]  # (3, N) float64, its sum at each separator layer, by composite

    def deviations(self, composite: str) -> list[float]:
        """Largest |Σ R - p| / p at each separator layer."""
        p = self.probability[composite]
        return ((self.relevance[composite] - p).abs() / p).amax(1).tolist()

    @property
    def holds(self) -> bool:
        """Whether `paper()` conserves to rounding."""
        return max(self.deviations("paper")) <= TOLERANCE


def separators_shown(graph: Graph) -> tuple[Separator, ...]:
    """The network's input, and the inputs of its first and last residual block: where the branches of joins part.

    Raises:
        InputError: the network has no residual block.
    """
    forks = [join.fork for join in find_joins(graph).values() if any(join.skips)]
    if not forks:
        raise InputError("figure7 reads relevance at the inputs of residual blocks, and this network has none")
    nodes = {"network input": 0, "first block's input": min(forks), "last block's input": max(forks)}
    return tuple(Separator(title, graph.nodes[at].name if at else "input") for title, at in nodes.items())


def measure(
    loaded: LoadedModel, dataset: Dataset, setting: Setting, report: Callable[[int], None] = lambda done: None
) -> Sums:
    """Sum the relevance of the predicted class at three separator layers, picture by picture, under both composites."""
    samples = balanced(dataset.samples, setting.samples, setting.seeds[0])
    separators: tuple[Separator, ...] = ()
    lrps: dict[str, LRP] = {}
    sums: dict[str, list[Tensor]] = {name: [] for name in _COMPOSITES}
    scores: dict[str, list[Tensor]] = {name: [] for name in _COMPOSITES}
    for start in range(0, len(samples), setting.batch):
        some = samples[start : start + setting.batch]
        x = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in some]).to(setting.device)
        if not lrps:
            separators = separators_shown(LRP(loaded.model).graph(x))
            keep = [separator.layer for separator in separators]
            lrps = {name: LRP(loaded.model, make(), keep=keep) for name, make in _COMPOSITES.items()}
        for name, lrp in lrps.items():
            result = lrp(x)
            totals = [result.at(separator.layer).double().flatten(1).sum(1) for separator in separators]
            sums[name].append(torch.stack(totals).cpu())
            scores[name].append(result.score.double().cpu())
        report(len(some))
    relevance = {name: torch.cat(parts, 1) for name, parts in sums.items()}
    probability = {name: torch.cat(parts) for name, parts in scores.items()}
    return Sums(separators, tuple(sample.id for sample in samples), probability, relevance)


def comma_separated(sums: Sums) -> str:
    """One line for each composite, layer and picture, in full precision."""
    return tables.comma_separated(
        ["composite", "title", "layer", "sample", "relevance", "probability"],
        (
            [composite, separator.title, separator.layer, sample, total, p]
            for composite, rows in sums.relevance.items()
            for separator, row in zip(sums.separators, rows.tolist(), strict=True)
            for sample, total, p in zip(sums.samples, row, sums.probability[composite].tolist(), strict=True)
        ),
    )


def draw(sums: Sums, caption: str) -> Figure:
    """Scatter probability over sum of relevance: a row for each composite, a column for each layer."""
    figure = Figure(figsize=(9.2, 7.0), dpi=150, facecolor="white")
    grid = figure.subplots(len(sums.relevance), len(sums.separators), sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.905, bottom=0.125, wspace=0.1, hspace=0.45)
    for row, (composite, colour) in enumerate(zip(sums.relevance, (BLUE, ORANGE), strict=True)):
        deviations = sums.deviations(composite)
        for column, separator in enumerate(sums.separators):
            ax = grid[row, column]
            _panel(ax, sums.relevance[composite][column], sums.probability[composite], colour)
            ax.set_title(separator.title, fontsize=9.5, color=INK, pad=4)
            said = {"transform": ax.transAxes, "ha": "right", "va": "bottom", "linespacing": 1.5}
            ax.text(0.98, 0.04, _deviation(deviations[column]), fontsize=8.5, color=INK, **said)
        grid[row, 0].set_ylabel("probability of the model", fontsize=8.5, color=INK)
        grid[row, 1].set_xlabel("sum of relevance", fontsize=8.5, color=INK)
        top = grid[row, 0].get_position().y1
        figure.text(0.085, top + 0.042, _TITLES[composite], fontsize=11, color=colour, weight="bold", va="bottom")
    figure.text(0.085, 0.03, caption, fontsize=7, color=QUIET, va="center", wrap=True)
    return figure


def _deviation(value: float) -> str:
    digits, power = f"{value:.1e}".split("e")
    return r"largest $|\Sigma R - p|\,/\,p$" + "\n" + (rf"${digits}\times10^{{{int(power)}}}$" if value else "0")


def _power(tick: float) -> str:
    """Write 0, 1 or ±10ⁿ."""
    if abs(tick) <= 1:
        return f"{tick:g}"
    return rf"${'-' if tick < 0 else ''}10^{{{round(math.log10(abs(tick)))}}}$"


def _panel(ax: Axes, relevance: Tensor, probability: Tensor, colour: str) -> None:
    far = float(relevance.abs().max()) > 2
    ax.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, zorder=1)
    ax.scatter(
        relevance.tolist(), probability.tolist(), s=15, color=colour, alpha=0.5, linewidths=0, zorder=2, clip_on=False
    )
    ax.set_ylim(-0.04, 1.04)
    ax.set_yticks([0, 0.5, 1])
    if far:  # relevance that ran away, beside probabilities: linear up to 1, powers of ten beyond
        power = math.ceil(math.log10(float(relevance.abs().max())))
        ticks = [-(10.0**power), 0.0, 10.0**power] if float(relevance.min()) < -1 else [0.0, 1.0, 10.0**power]
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks(ticks, [_power(tick) for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlim(min(-0.1, 1.6 * ticks[0]), 1.6 * ticks[-1])
    else:
        ax.set_xlim(-0.04, max(1.04, 1.04 * float(relevance.max())))
        ax.set_xticks([0, 0.5, 1])
    ax.tick_params(labelsize=8, colors=QUIET, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#bbbbbb")


def lines(sums: Sums) -> Sequence[tuple[str, str, str, float]]:
    """Composite, title, layer and largest deviation, for a table."""
    return [
        (composite, separator.title, separator.layer, deviation)
        for composite in sums.relevance
        for separator, deviation in zip(sums.separators, sums.deviations(composite), strict=True)
    ]
