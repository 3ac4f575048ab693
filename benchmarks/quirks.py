"""What each difference between `paper()` and `released()` does, one at a time: to the map, to its sum, and to ID.

    python benchmarks/quirks.py --model resnet20-cifar10 --data parquet:test.parquet --samples 200 --step 16
    python benchmarks/quirks.py --model efficientnet-lite0 --data folder:imagenet-sample --samples 30 --step 5000
    python benchmarks/quirks.py --model random:resnet18 --data folder:imagenet-sample --samples 5 --maps-only

Each line is `paper()` with one difference, then with all but one, then `released()` itself, which must equal the line
of all differences to 1e-5. Two more have the image in the first layer's rule: the positive part of each product
(`first=image`), and Eq. 2 to the letter, max(0, w) times a pixel of either sign. Maps are compared by relative L1
distance, ID by paired differences from `paper()`; ± is a standard error over pictures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from relprop.core.composites.composite import Composite
from relprop.core.rules import Rule
from relprop.core.rules.affine import affine, evenly, part
from relprop.core.rules.pooling import average as average_and_transpose
from relprop.core.rules.rule import Step
from relprop.data import balanced, open_dataset
from relprop.models import LoadedModel, load_model

EPS = 1e-5
QUIRKS = {
    "epsilon": "ε = 1e-5 in every denominator",
    "dead": "dead units drop their relevance, instead of sharing it evenly",
    "negative": "W⁺h for inputs of either sign, instead of the positive part of each product",
    "pool": "max pooling as a 2x2 average, instead of to the winner",
}
Quirks = frozenset[str]


def with_quirks(quirks: Iterable[str]) -> Composite:
    """The rules of `paper()` with some of the release's differences."""
    chosen = frozenset(quirks)
    rules = dict.fromkeys(("conv", "conv_transpose", "linear"), weighted(chosen))
    if chosen & {"epsilon", "dead"}:
        rules |= dict.fromkeys(("adaptive_avg_pool", "avg_pool"), average(chosen))
    if "pool" in chosen:
        rules["max_pool"] = pool(chosen)
    return replace(relprop.paper(), name="+".join(sorted(chosen)), rules=rules, first=weighted(chosen, ones=True))


def weighted(quirks: Quirks = frozenset(), *, ones: bool = False) -> Rule:
    """R_i = Σ_j z⁺_ij R_j / (Σ_k z⁺_kj + ε); what is dead shares evenly or not at all."""

    def share(step: Step, relevance: Tensor) -> Tensor:
        layer = affine(step)
        plus, minus = part(step, layer.weight, "plus"), part(step, layer.weight, "minus")
        if ones:
            support = step.supports[0]
            like = layer.weight.new_ones((1, *step.shapes[0][1:])) if support is None else support.to(layer.weight)
            parts = [(like, plus)]
        elif step.nonnegative[0] or "negative" in quirks:
            parts = [(step.input, plus)]
        else:
            parts = [(step.input.clamp(min=0), plus), (step.input.clamp(max=0), minus)]
        z = torch.stack([layer.forward(h, w).expand_as(relevance) for h, w in parts]).sum(0)
        divided, dead = divide(relevance, z, quirks)
        shared = torch.stack(
            [(h * layer.transpose(divided, w)).expand(step_shape(step, relevance)) for h, w in parts]
        ).sum(0)
        return shared if "dead" in quirks else shared + evenly(layer, dead)

    return Rule("z+ with quirks", share, conserves=False, positive=False)


def step_shape(step: Step, relevance: Tensor) -> tuple[int, ...]:
    """Shape of the step's input for as many pictures as relevance comes for."""
    return (len(relevance), *step.shapes[0][1:])


def divide(relevance: Tensor, z: Tensor, quirks: Quirks) -> tuple[Tensor, Tensor]:
    """R / (z + ε), and the relevance of units with no z."""
    alive = z.abs() > torch.finfo(z.dtype).tiny
    stable = z + EPS if "epsilon" in quirks else torch.where(alive, z, 1)
    return torch.where(alive, relevance / stable, 0), torch.where(alive, 0, relevance)


def average(quirks: Quirks) -> Rule:
    """The same for averages."""

    def share(step: Step, relevance: Tensor) -> Tensor:
        forward, transpose = average_and_transpose(step)
        divided, dead = divide(relevance, forward(step.input), quirks)
        shared = step.input * transpose(divided)
        return shared if "dead" in quirks else shared + transpose(dead)

    return Rule("average with quirks", share, conserves=False, positive=False)


def pool(quirks: Quirks) -> Rule:
    """The same for a 2x2 average in the place of a max pooling."""

    def share(step: Step, relevance: Tensor) -> Tensor:
        def pull(value: Tensor) -> Tensor:
            found: Tensor = torch.ops.aten.avg_pool2d_backward(
                value, step.input, [2, 2], [2, 2], [0, 0], False, True, None
            )
            return found

        divided, dead = divide(relevance, F.avg_pool2d(step.input, 2), quirks)
        shared = step.input * pull(divided)
        return shared if "dead" in quirks else shared + pull(dead)

    return Rule("2x2 average with quirks", share, conserves=False, positive=False)


def lines(graph_ops: set[str]) -> dict[str, Composite]:
    """Composites by name: one difference each, all but one, all, and the two that they lie between."""
    there = [name for name in QUIRKS if name != "pool" or "max_pool" in graph_ops]
    made = {"paper": relprop.paper()}
    made |= {f"paper, {name}": with_quirks([name]) for name in there}
    made |= {f"all but {name}": with_quirks(set(there) - {name}) for name in there}
    made |= {"all": with_quirks(there), "released": relprop.released()}
    literal = replace(relprop.paper(), first=weighted(frozenset({"negative"})))
    return made | {"paper, first=image": relprop.paper(first="image"), "paper, Eq. 2 at the image": literal}


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error."""
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    mean = statistics.fmean(values)
    return (
        f"{mean:.3g} ± {spread:.1g}" if abs(mean) > 10 or (mean and abs(mean) < 1e-3) else f"{mean:.3f} ± {spread:.3f}"
    )


def compare_maps(loaded: LoadedModel, pictures: Tensor, made: Mapping[str, Composite]) -> dict[str, tuple[str, ...]]:
    """Relative L1 distance to the map of `paper()`, sum of R over p, and max |R| over that of `paper()`."""
    found: dict[str, list[Tensor]] = {name: [] for name in made}
    scores = []
    engines = {name: relprop.LRP(loaded.model, composite) for name, composite in made.items()}
    for x in torch.split(pictures, 4):
        for name, engine in engines.items():
            result = engine(x)
            found[name].append(result.heatmap.double())
            if name == "paper":
                scores.append(result.score.double())
    p, base = torch.cat(scores), torch.cat(found["paper"])
    columns = {}
    for name, parts in found.items():
        heat = torch.cat(parts)
        distance = (heat - base).abs().sum((1, 2)) / base.abs().sum((1, 2))
        peak = heat.abs().amax((1, 2)) / base.abs().amax((1, 2))
        columns[name] = tuple(mean_and_error(one.tolist()) for one in (distance, heat.sum((1, 2)) / p, peak))
    return columns


@dataclass(frozen=True)
class Explainer:
    """A composite as the evaluation calls explainers."""

    engine: relprop.LRP

    def __call__(self, model: Any, x: Tensor, target: Tensor) -> Tensor:
        heatmap: Tensor = self.engine(x, target=target).heatmap.float()
        return heatmap


def compare_scores(
    loaded: LoadedModel, given: argparse.Namespace, made: Mapping[str, Composite]
) -> dict[str, list[str]]:
    """ID less that of `paper()`, by protocol and post-processing."""
    explainers = {name: Explainer(relprop.LRP(loaded.model, one, ledger=False)) for name, one in made.items()}
    posts = ("none", "quantize:8", "quantize:8:edges=release")
    protocols = ("paper-protocol", "fair")
    rows = relprop.evaluate(
        loaded, given.data, explainers, post=posts, protocol=protocols, step=given.step, samples=given.samples,
        amp=True, controls=False,
    )  # fmt: skip
    found = {(r.explainer, r.post, r.protocol, r.sample): r.value for r in rows if r.metric == "id"}
    values = {key: value for key, value in found.items() if value is not None}
    samples = sorted({key[3] for key in values})
    columns: dict[str, list[str]] = {}
    for name in made:
        columns[name] = []
        for protocol in protocols:
            for post in posts[:2]:
                pairs = [(values[name, post, protocol, s], values["paper", post, protocol, s]) for s in samples]
                columns[name].append(mean_and_error([b if name == "paper" else a - b for a, b in pairs]))
    edges = [
        mean_and_error([values["paper", posts[2], p, s] - values["paper", posts[1], p, s] for s in samples])
        for p in protocols
    ]
    columns["paper, release's edges"] = ["", edges[0], "", edges[1]]
    return columns


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--step", type=float, default=None)
    parser.add_argument("--maps-only", action="store_true")
    given = parser.parse_args()
    loaded, dataset = load_model(given.model), open_dataset(given.data)
    samples = balanced(dataset.samples, given.samples, 0)
    pictures = torch.stack([loaded.preprocess(dataset.load(sample)) for sample in samples])
    made = lines({node.op for node in relprop.LRP(loaded.model).graph(pictures[:2]).nodes})
    maps = compare_maps(loaded, pictures, made)
    print(f"{given.model} on {given.data}, {len(samples)} pictures\n")
    print("| | relative L1 to paper() | sum of R / p | max of R / that of paper() |\n|---|--:|--:|--:|")
    for name, cells in maps.items():
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if given.maps_only:
        return
    print("\n| ID | released | released, HQ | fair | fair, HQ |\n|---|--:|--:|--:|--:|")
    for name, scores in compare_scores(loaded, given, made).items():
        print(f"| {name} | " + " | ".join(scores) + " |")


if __name__ == "__main__":
    main()
