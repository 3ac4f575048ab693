"""Insertion - Deletion of `lrp-cuts` beside Grad-CAM, the paper's map and controls, on images used for no choice.

    python benchmarks/cuts.py resnet20=CHECKPOINT.th:cifar-resnet20 --data parquet:test.parquet -n 200
    python benchmarks/cuts.py efficientnet-lite0 --data folder:imagenet-sample -n 100 --step 2000

Prints a Markdown table: means, and the paired difference to the first explainer, with standard errors. The default
reading was chosen on 48 images of CIFAR-10's test set; they are left out, by the draw that chose them. Images that the
readings in `--explainers` were tuned on are left out too.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from relprop.data import Dataset, Sample, open_dataset
from relprop.data.sampling import balanced
from relprop.explainers import EXPLAINERS
from relprop.explainers.cuts import LrpCuts
from relprop.metrics import InsertionDeletion
from relprop.models import load_model
from relprop.tuning import require_disjoint
from relprop.tuning.choose import mean_and_error

CHOSEN_ON, CHOSEN_SEED = 48, 101


def main() -> int:
    """Measure one network, and print its table."""
    options = _options()
    torch.set_num_threads(options.threads)
    name, _, rest = options.model.rpartition("=")
    path, _, arch = rest.partition(":")
    loaded = load_model(path, arch=arch or None)
    data = open_dataset(options.data)
    explainers = {spec: EXPLAINERS.build(spec) for spec in options.explainers.split(",")}
    used = _used(data, list(explainers.values()))
    fresh = [sample for sample in data.samples if sample.id not in used]
    samples = balanced(fresh, min(options.samples, len(fresh)), options.seed)
    require_disjoint(used, [sample.id for sample in samples])
    metric = InsertionDeletion("fair", step=options.step)
    values, began = [], time.process_time()
    for start in range(0, len(samples), options.batch):
        x = torch.stack([loaded.preprocess(data.load(s)) for s in samples[start : start + options.batch]])
        with torch.no_grad():
            target = loaded.model(x).argmax(1)
        maps = torch.stack([explain(loaded.model, x, target) for explain in explainers.values()])
        scores = metric(loaded.model, x, maps, target, preprocess=loaded.preprocess)
        values.append(torch.stack([scores[row] for row in metric.rows]))
        print(f"{start + len(x)} of {len(samples)}, {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
    print(table(name or loaded.name, list(explainers), torch.cat(values, -1), options.step))
    return 0


def _used(data: Dataset, explainers: list[object]) -> set[str]:
    """Ids of images that a choice was made on, of this data set."""
    cifar = len(data) == 10_000 and {sample.label for sample in data.samples} == set(range(10))
    used = {sample.id for sample in _chosen_on(data.samples)} if cifar else set()
    for explainer in explainers:
        if isinstance(explainer, LrpCuts):
            used |= set(explainer.chosen.provenance.get("selection", ()))
    return used


def _chosen_on(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    return balanced(samples, CHOSEN_ON, CHOSEN_SEED)


def table(name: str, specs: list[str], values: torch.Tensor, step: float | None) -> str:
    """Write (3, M, N) of insertion, deletion and ID as Markdown."""
    lines = [
        f"{name}, n = {values.shape[-1]}, {step or 500} pixels a step{'' if step else ' of 224 x 224, in proportion'}",
        "",
        "| map | insertion | deletion | ID | first less it | better on |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row, spec in enumerate(specs):
        insertion, deletion, identity = ("{:.4f} ± {:.4f}".format(*mean_and_error(v[row])) for v in values)
        less = values[2, 0] - values[2, row]
        against = "{:+.4f} ± {:.4f}".format(*mean_and_error(less)) if row else ""
        better = f"{float((less > 0).double().mean()):.0%}" if row else ""
        lines.append(f"| {spec} | {insertion} | {deletion} | {identity} | {against} | {better} |")
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
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.samples < 2:
        parser.error("-n must be at least 2, for a standard error")
    return options


if __name__ == "__main__":
    sys.exit(main())
