"""Insertion and deletion curves: what they cost beyond the forward passes, and beside other implementations.

    python benchmarks/curves.py                          # ResNet-20 at 32 px if ../shared has it, else random weights
    python benchmarks/curves.py --network resnet50 --images 2

All numbers are of this one process, on the same maps and pictures. Runs take turns; times are the fastest of each,
ratios the median over turns. On a CPU with one thread they are processor times, which other work on the machine
changes less.

Peers: the release's arithmetic (numpy, one picture a step, re-implemented here from its description), torchcam's
`DeletionInsertionMetric`, and Quantus' `PixelFlipping`: deletion alone, and colour by colour, so it takes three times
the steps. Hence points a second: how many points of curves, each of which stands for one masked picture.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relprop.explainers import EXPLAINERS, POST
from relprop.images import Preprocess
from relprop.metrics import InsertionDeletion, Protocol
from relprop.metrics.forward import first_guess

SHARED = Path(__file__).parents[2] / "shared"


@dataclass(frozen=True)
class Case:
    """What every implementation is given."""

    model: nn.Module
    x: Tensor
    heat: Tensor
    target: Tensor
    preprocess: Preprocess
    step: int
    batch: int

    @property
    def points(self) -> int:
        """Points of both curves of all pictures."""
        return 2 * len(self.x) * math.ceil(self.heat[0].numel() / self.step)


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    model, x, preprocess, name = load(options)
    x = x.to(options.device)
    model = model.to(options.device).eval()
    with torch.no_grad():
        target = model(x).argmax(1)
    heat = EXPLAINERS.build(options.explainer)(model, x, target)
    step = options.step or {32: 16, 64: 64}.get(x.shape[-1], 512)
    case = Case(model, x, heat, target, preprocess, step, options.batch or first_guess(x))
    print(f"{name}, {len(x)} pictures of {tuple(x.shape[1:])}, {options.explainer}, {step} pixels a step,")
    print(f"{options.device}, {options.threads} thread(s), torch {torch.__version__}, {options.repeats} turns\n")
    quantized = replace(case, heat=POST.build("quantize:8:edges=release")(heat))
    overhead(case, quantized, options.repeats)
    side_by_side(case, quantized, options.repeats)
    sharing(case, options.repeats)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar-resnet20", help="cifar-resnet20, cifar-resnet56, or of torchvision")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--explainer", default="lrp")
    parser.add_argument("--step", type=int, help="pixels a step; has to divide H x W for Quantus")
    parser.add_argument("--batch", type=int, help="pictures at once, for all implementations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def load(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Preprocess, str]:
    """Network, pictures, preprocessing and a caption. Nothing here depends on what is in the pictures."""
    torch.manual_seed(0)
    if not options.network.startswith("cifar"):
        from torchvision.models import get_model

        preprocess, model = Preprocess(), get_model(options.network, weights=None)
        return model, preprocess.normalize(torch.rand(options.images, 3, 224, 224)), preprocess, options.network
    from relprop.cifar import cifar_resnet
    from relprop.models import load_model

    found = sorted(SHARED.glob(f"models/{options.network.removeprefix('cifar-')}-*.th"))
    if found:
        loaded = load_model(str(found[0]), arch=options.network)
        model, preprocess = loaded.model, loaded.preprocess
    else:
        model, preprocess = cifar_resnet(int(options.network[12:]), shortcut="A"), Preprocess(32, 32)
    x = preprocess.normalize(torch.rand(options.images, 3, 32, 32))
    return model, x, preprocess, options.network + ("" if found else ", random weights")


def overhead(case: Case, quantized: Case, repeats: int) -> None:
    """Wall time of the metric over that of the forward passes that it needs, made beforehand, in the same batches."""
    print(f"{'':44}{'pictures':>9}{'metric':>9}{'bare':>9}{'ratio':>8}")
    for label, given, protocol in [
        ("fair", case, Protocol(step=case.step)),
        ("paper-protocol", case, Protocol(step=case.step, ties="together", ends=False)),
        ("paper-protocol, quantized", quantized, Protocol(step=case.step, ties="together", ends=False)),
    ]:
        metric = InsertionDeletion(protocol, batch=given.batch)
        seen: list[Tensor] = []
        with watched(given.model, seen):
            ours(given, metric)
        turns = in_turns(repeats, metric=partial(ours, given, metric), bare=partial(forwards, given.model, seen))
        ratio = statistics.median(a / b for a, b in zip(turns["metric"], turns["bare"], strict=True))
        metric_s, bare_s = min(turns["metric"]), min(turns["bare"])
        print(f"{label:44}{sum(map(len, seen)):9}{metric_s:8.2f}s{bare_s:8.2f}s{ratio:8.3f}")
    print()


@contextlib.contextmanager
def watched(model: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Keep a copy of every batch that the model is given."""
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def forwards(model: nn.Module, batches: list[Tensor]) -> None:
    for batch in batches:
        model(batch)
    wait(batches[0])


def ours(case: Case, metric: InsertionDeletion) -> dict[str, Tensor]:
    found = metric(case.model, case.x, case.heat, case.target, preprocess=case.preprocess)
    wait(case.x)
    return found


def side_by_side(case: Case, quantized: Case, repeats: int) -> None:
    """Points of both curves each second."""
    fair, paper = Protocol(step=case.step), Protocol(step=case.step, ties="together", ends=False)
    print(f"{'':44}{'points':>9}{'time':>9}{'points/s':>10}{'against best peer':>20}")
    for label, given in [("as they are", case), ("quantized", quantized)]:
        runs: dict[str, Callable[[], object]] = {
            "relprop fair": partial(ours, given, InsertionDeletion(fair, batch=given.batch)),
            "relprop paper-protocol": partial(ours, given, InsertionDeletion(paper, batch=given.batch)),
            "relprop fair, bfloat16, channels last": partial(
                ours, given, InsertionDeletion(fair, amp=True, channels_last=True, batch=given.batch)
            ),
            "release, per-step arithmetic": partial(release, given),
            "torchcam DeletionInsertionMetric": partial(torchcam, given),
            "Quantus PixelFlipping": partial(quantus, given),
        }
        times = {name: min(taken) for name, taken in in_turns(repeats, **runs).items()}
        colours = given.x.shape[1]
        points = {name: given.points * colours // 2 if "Quantus" in name else given.points for name in times}
        rates = {name: points[name] / taken for name, taken in times.items()}
        best = max(rate for name, rate in rates.items() if not name.startswith("relprop"))
        print(f"maps {label}")
        for name, taken in times.items():
            print(f"  {name:42}{points[name]:9}{taken:8.2f}s{rates[name]:10.1f}{rates[name] / best:19.2f}x")
    print()


def sharing(case: Case, repeats: int) -> None:
    """Four post-processings of a map in one call, and in four."""
    posts = [POST.build(spec) for spec in ("none", "quantize:8", "quantize:8:edges=release", "positive")]
    stacked = torch.stack([post(case.heat) for post in posts])
    metric = InsertionDeletion(Protocol(step=case.step, ties="together", ends=True), batch=case.batch)
    turns = in_turns(
        repeats,
        one=partial(ours, replace(case, heat=stacked), metric),
        four=lambda: [ours(replace(case, heat=heat), metric) for heat in stacked],
    )
    ratio = statistics.median(a / b for a, b in zip(turns["one"], turns["four"], strict=True))
    print(f"four post-processings in one call take {ratio:.2f} of the time of four calls")


def release(case: Case) -> None:
    """The release's way: every masked picture made on its own in numpy, a channel at a time, then run in batches."""
    mean, std = case.preprocess.mean, case.preprocess.std
    for picture, heat, label in zip(case.x.cpu().numpy(), case.heat.cpu().numpy(), case.target.tolist(), strict=True):
        height, width = heat.shape
        order = np.argsort(-heat.ravel())
        image = np.stack([picture[c] * std[c] + mean[c] for c in range(len(picture))])
        for inserting in (True, False):
            masked = np.zeros((math.ceil(height * width / case.step), *picture.shape))
            for k in range(len(masked)):
                place = order[min(case.step * (k + 1), height * width - 1)]
                threshold = heat[place // width, place % width]
                mask = np.where(threshold <= heat, 1, 0) if inserting else np.where(threshold <= heat, 0, 1)
                for c in range(len(picture)):
                    masked[k, c] = (image[c] * mask - mean[c]) / std[c]
            scores: list[float] = []
            with torch.no_grad():
                for start in range(0, len(masked), case.batch):
                    batch = torch.from_numpy(masked[start : start + case.batch].astype(np.float32)).to(case.x.device)
                    scores += case.model(batch).softmax(1)[:, label].cpu().tolist()
            np.trapezoid(scores) / (len(scores) - 1)


class Given:
    """Hands torchcam's metric a map that is there already."""

    def __init__(self, case: Case) -> None:
        self.model, self.heat = case.model, case.heat

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.heat]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def torchcam(case: Case) -> None:
    from torchcam.metrics import DeletionInsertionMetric

    black = case.preprocess.normalize(torch.zeros(1, 3, 1, 1, device=case.x.device))
    metric = DeletionInsertionMetric(
        Given(case),
        lambda logits: logits.softmax(1),
        steps=math.ceil(case.heat[0].numel() / case.step),
        baseline=black,
        batch_size=case.batch,
    )
    metric.update(case.x, case.target.tolist())


def quantus(case: Case) -> None:
    import quantus

    metric = quantus.PixelFlipping(
        features_in_step=case.step, normalise=False, perturb_baseline="black", disable_warnings=True
    )
    with contextlib.redirect_stdout(io.StringIO()):
        metric(
            case.model,
            case.x.cpu().numpy(),
            case.target.cpu().numpy(),
            case.heat[:, None].expand(case.x.shape).cpu().numpy(),
            device=str(case.x.device),
            softmax=True,
            batch_size=case.batch,
        )


def in_turns(repeats: int, **runs: Callable[[], object]) -> dict[str, list[float]]:
    """Times of each, taken in turns after one round that does not count."""
    alone = not torch.cuda.is_available() and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if turn:
                times[name].append(clock() - start)
    return times


def wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


if __name__ == "__main__":
    main()
