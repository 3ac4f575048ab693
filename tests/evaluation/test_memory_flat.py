from __future__ import annotations

from pathlib import Path

import pytest
import torch
from setup_doubles import itself, plan_of, total

from relprop.data import Sample
from relprop.evaluation.local import compute
from relprop.evaluation.setup import Measure, Samples, Setup
from relprop.evaluation.store import begin
from relprop.explainers import EXPLAINERS
from tiny import make

STATM = Path("/proc/self/statm")


def resident() -> float:
    """MiB of memory that this process holds."""
    return int(STATM.read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc/self/statm to see this process's memory")
@pytest.mark.slow
def test_memory_stays_flat_over_2000_pictures(tmp_path):
    """Their inputs would make 98 MB together, as would the heatmaps of three explainers."""
    explainers = {"itself": itself, **{spec: EXPLAINERS.build(spec) for spec in ("sobel", "input-x-gradient")}}
    inputs = Samples(
        [Sample(str(at), at % 2) for at in range(2000)], lambda sample: torch.full((3, 64, 64), float(sample.id))
    )
    posts = {"none": lambda heatmap: heatmap.clone()}
    plan = plan_of(explainers=tuple(explainers), batch=16)
    setup = Setup(plan, make(), inputs, explainers, posts, [Measure(total, ("total", "label"))])
    store = begin(tmp_path / "run", plan, setup.chunks, {}, {})
    after = []
    for chunk in range(setup.chunks):
        compute(store, setup, chunk)
        after.append(resident())
    assert len(store.rows().collect()) == 2000 * 3 * 2
    assert max(after[20:]) - max(after[:20]) < 25
