"""How much faster two workers are than one: the same plan, in turn, locally and on Ray.

    python benchmarks/scaling.py --data parquet:test.parquet --model resnet20.th --arch cifar-resnet20

Speed is chunks a second once every worker has stored its first, so that the start of processes (printed apart) does
not blur the ratio. Other work on the machine does: so its load is printed, runs of one and of two workers
alternate, and the processor time of a chunk is printed too. If two workers do not need more of that than one,
nothing but the number of cores stands between them and twice the speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from relprop.evaluation import ModelSpec, Plan
from relprop.evaluation.local import run
from relprop.evaluation.ray import run_ray


@dataclass(frozen=True)
class Speed:
    """What a run took: chunks a second, processor seconds a chunk, seconds until the first chunk was there."""

    rate: float
    work: float
    start: float


def measured(plan: Plan, workers: int, kind: str) -> Speed:
    """Carry the plan out."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        begun = time.time()
        if kind == "ray":
            run_ray(plan, out, workers=workers)
        else:
            run(plan, out, workers=workers)
        shards = sorted((out / "shards").glob("*.parquet"), key=lambda shard: shard.stat().st_mtime)
        facts = [pl.read_parquet_metadata(shard) for shard in shards]
        ended = [shard.stat().st_mtime for shard in shards]
    firsts: dict[str, int] = {}
    for at, fact in enumerate(facts):
        firsts.setdefault(fact["relprop.process"], at)
    begin = max(firsts.values())  # from here on all workers are at work
    if len(firsts) < workers or begin + 1 == len(ended):
        raise SystemExit(f"the run was over before {workers} workers were at work; give more --samples")
    work = statistics.median(float(fact["relprop.cpu_seconds"]) for fact in facts[begin + 1 :])
    return Speed((len(ended) - begin - 1) / (ended[-1] - ended[begin]), work, ended[0] - begun)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--arch")
    options.add_argument("--samples", type=int, default=160)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--kinds", nargs="+", default=["local", "ray"])
    given = options.parse_args()
    plan = Plan(
        ModelSpec(given.model, given.arch), given.data, ("lrp", "random"), step=20, samples=given.samples, batch=4
    )
    for kind in given.kinds:
        pairs = [(measured(plan, 1, kind), measured(plan, 2, kind)) for _ in range(given.rounds)]
        for one, two in pairs:
            print(
                f"{kind}: chunks/s {one.rate:.2f} and {two.rate:.2f}, ratio {two.rate / one.rate:.2f}; "
                f"processor s/chunk {one.work:.2f} and {two.work:.2f}, ratio {one.work / two.work:.2f}; "
                f"first chunk after {one.start:.0f} s and {two.start:.0f} s"
            )
        ratio = statistics.median(two.rate / one.rate for one, two in pairs)
        work = statistics.median(one.work / two.work for one, two in pairs)
        print(
            f"{kind}: median ratio of speed {ratio:.2f}, of processor time {work:.2f}; {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
