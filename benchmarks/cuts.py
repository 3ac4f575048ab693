"""Insertion - Deletion of `lrp-cuts` beside Grad-CAM, the paper's map and controls, on images used for no choice.

    python benchmarks/cuts.py resnet20=CHECKPOINT.th:cifar-resnet20 --data parquet:test.parquet -n 200 --step 40
    python benchmarks/cuts.py efficientnet-lite0 --data folder:imagenet-sample-450 -n 250 --step 4000

Prints a Markdown table: means, and the paired difference to the first explainer, with standard errors. Images that
layer weights among the explainers were chosen on are left out. An explainer may be followed by a step of
post-processing: grad-cam/smooth:1.6 is Grad-CAM, blurred.
`--metrics` measures something else instead: symmetric-relevance-gain,class-sensitivity,parameter-randomisation.
`--cost 9` measures time instead: nine rounds, all explainers and a plain gradient by turns, one batch, medians.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from turns import by_turns

from relprop.data import balanced, open_dataset
from relprop.explainers import EXPLAINERS, POST, Explainer
from relprop.explainers.cuts import chosen_on
from relprop.metrics import METRICS, InsertionDeletion
from relprop.models import load_model
from relprop.tuning.choose import mean_and_error


def main() -> int:
    """Measure one network, and print its table."""
    options = _options()
    torch.set_num_threads(options.threads)
    name, _, rest = options.model.rpartition("=")
    path, _, arch = rest.partition(":")
    loaded = load_model(path, arch=arch or None)
    data = open_dataset(options.data)
    explainers = {spec: _explainer(spec) for spec in options.explainers.split(",")}
    used = chosen_on(
        [EXPLAINERS.build(spec) for spec in ("lrp-cuts", *(_parts(one)[0] for one in explainers))], data.samples
    )
    print(f"left out: {len(used)} images that layer weights were chosen on", file=sys.stderr)
    fresh = [sample for sample in data.samples if sample.id not in used]
    samples = balanced(fresh, min(options.samples, len(fresh)), options.seed)
    if options.cost:
        x = torch.stack([loaded.preprocess(data.load(sample)) for sample in samples[: options.batch]])
        print(cost_table(loaded.model, x, explainers, options.cost))
        return 0
    scorer, batch = _frozen(loaded.model, loaded.preprocess.size) if options.fast else (loaded.model, None)
    fair = InsertionDeletion("fair", step=options.step, batch=batch)
    others = [METRICS.build(spec) for spec in options.metrics.split(",")] if options.metrics else []
    rows = [row for metric in others for row in metric.rows] or [*fair.rows]
    values, began = [], time.process_time()
    for start in range(0, len(samples), options.batch):
        x = torch.stack([loaded.preprocess(data.load(s)) for s in samples[start : start + options.batch]])
        with torch.no_grad():
            target = loaded.model(x).argmax(1)
        maps = [explain(loaded.model, x, target) for explain in explainers.values()]
        if others:
            found = [
                {k: v for m in others for k, v in m(*args, explainer=e, preprocess=loaded.preprocess).items()}
                for e, one in zip(explainers.values(), maps, strict=True)
                for args in [(loaded.model, x, one, target)]
            ]
            values.append(torch.stack([torch.stack([each[row] for each in found]) for row in rows]))
        else:
            scores = fair(scorer, x, torch.stack(maps), target, preprocess=loaded.preprocess)
            values.append(torch.stack([scores[row] for row in rows]))
        print(f"{start + len(x)} of {len(samples)}, {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
        if options.save:
            torch.save({"rows": rows, "explainers": [*explainers], "values": torch.cat(values, -1)}, options.save)
    title = f"{name or loaded.name}, n = {len(samples)}"
    if others:
        print(other_table(title, list(explainers), rows, torch.cat(values, -1)))
    else:
        print(table(title, list(explainers), torch.cat(values, -1), options.step))
    return 0


def cost_table(model: torch.nn.Module, x: torch.Tensor, explainers: dict[str, Explainer], rounds: int) -> str:
    """Write how long each explainer takes for a batch, and in gradients of the same model, as Markdown."""
    model.requires_grad_(False)
    with torch.no_grad():
        target = model(x).argmax(1)

    def gradient() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).softmax(1).gather(1, target[:, None]).sum(), leaf)

    named = {name: partial(explain, model, x, target) for name, explain in explainers.items()}
    medians = by_turns({"a plain gradient": gradient, **named}, rounds)
    unit = medians["a plain gradient"]
    lines = [f"| {tuple(x.shape)} | ms | gradients |", "|---|--:|--:|"]
    return "\n".join([*lines, *(f"| {name} | {1e3 * m:.1f} | {m / unit:.2f} |" for name, m in medians.items())])


def _explainer(spec: str) -> Explainer:
    """An explainer, and the post-processing that follows it: NAME or NAME/STEP."""
    name, step = _parts(spec)
    explain, post = EXPLAINERS.build(name), POST.build(step)
    return lambda model, x, target: post(explain(model, x, target))


def _parts(spec: str) -> tuple[str, str]:
    """(explainer, post-processing); a path in the explainer's options is no step."""
    name, _, step = spec.rpartition("/")
    return (name, step) if name and step.partition(":")[0] in POST else (spec, "none")


def _frozen(model: torch.nn.Module, side: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """The model frozen in bfloat16, and a batch that suits it: scores masked pictures up to four times as fast."""

    def narrow(x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16().contiguous(memory_format=torch.channels_last)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is the fastest here and needs no compiler
        traced = torch.jit.trace(copy.deepcopy(model).bfloat16(), narrow(torch.rand(8, 3, side, side)))
        fast = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return lambda x: fast(narrow(x)).float(), 13 if side > 100 else 64


def other_table(title: str, specs: list[str], rows: list[str], values: torch.Tensor) -> str:
    """Write (R, M, N) of any metrics as Markdown."""
    heads = " | ".join(f"{row} | first less it" for row in rows)
    lines = [title, "", f"| map | {heads} |", f"|---|{'--:|' * 2 * len(rows)}"]
    for at, spec in enumerate(specs):
        cells = (
            "{:.4f} ± {:.4f} | {:+.4f} ± {:.4f}".format(*mean_and_error(v[at]), *mean_and_error(v[0] - v[at]))
            for v in values
        )
        lines.append(f"| {spec} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(title: str, specs: list[str], values: torch.Tensor, step: float | None) -> str:
    """Write (3, M, N) of insertion, deletion and ID as Markdown."""
    lines = [
        f"{title}, {step or 500:g} pixels a step{'' if step else ' of 224 x 224, in proportion'}",
        "",
        "| map | insertion | deletion | ID | first less it | better on |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row, spec in enumerate(specs):
        insertion, deletion, difference = ("{:.4f} ± {:.4f}".format(*mean_and_error(v[row])) for v in values)
        less = values[2, 0] - values[2, row]
        against = "{:+.4f} ± {:.4f}".format(*mean_and_error(less)) if row else ""
        better = f"{float((less > 0).double().mean()):.0%}" if row else ""
        lines.append(f"| {spec} | {insertion} | {deletion} | {difference} | {against} | {better} |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name, or LABEL=FILE:ARCH of a checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--explainers", default="lrp-cuts,grad-cam,lrp,gaussian,sobel,random")
    parser.add_argument("-n", "--samples", type=int, default=100)
    parser.add_argument("--step", type=float)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--metrics", default="", help="other metrics, in place of Insertion - Deletion")
    parser.add_argument("--cost", type=int, default=0, metavar="ROUNDS", help="measure time, this many rounds, instead")
    parser.add_argument("--fast", action="store_true", help="score masked pictures by a frozen copy in bfloat16")
    parser.add_argument("--save", help="file for the values of all images, as torch saves them")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("-n must be at least 2, for a standard error")
    return options


if __name__ == "__main__":
    sys.exit(main())
