"""Cost of an explanation in plain gradients of the same model: time side by side, memory of each alone.

    python benchmarks/speed.py                      # ResNet-50, one image, ours alone: about a minute
    python benchmarks/speed.py --peers --memory     # also the other libraries, and the peak of each
    python benchmarks/speed.py --full               # ResNet-18, -50, -152 at 1, 8 and 32 images, everything: hours
    python benchmarks/speed.py --full --device cuda # the same on a GPU, at 1, 32 and 256 images

A gradient is forward and backward to the input, weights frozen. Runs of one cell (model, batch) alternate in one
process, so that whatever else the machine does hits all alike; figures are medians, and ratios are of medians. Peak
memory is that of a process of its own, beyond what it held before the first run: what tensors took, and the resident
size, which counts what the allocator could not use again. Each cell is written to `--out` when it is done, and a second
start goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peers import CONTENDERS, QUICK, SLOW, STEPS, UNIT, Run
from torch import Tensor

Row = dict[str, Any]


def images(options: argparse.Namespace, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, options.size, options.size, generator=generator).to(options.device)


def timed(run: Run, device: str) -> tuple[float, float]:
    """Seconds by the clock (on a GPU by its own events), and of the processor."""
    begun = time.process_time()
    if device == "cuda":
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        run()
        last.record()
        torch.cuda.synchronize()
        return first.elapsed_time(last) / 1e3, time.process_time() - begun
    clock = time.perf_counter()
    run()
    return time.perf_counter() - clock, time.process_time() - begun


def reason(error: BaseException) -> str:
    """Why a run failed, in a few words."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
    return "does not fit into memory" if short else f"{type(error).__name__}: {str(error).strip()[:90]}"


def prepared(name: str, model: str, x: Tensor) -> Run:
    """A contender after its warm-up: capture and caches at the first call, compilation at the second."""
    run = CONTENDERS[name](model, x)
    for _ in range(warm_ups(name)):
        run()
    return run


def warm_ups(name: str) -> int:
    """How many runs it takes until the next is like all others."""
    if "compiled" in name:
        return 3
    return 2 if name.startswith("relprop") else 0 if name in SLOW else 1


def time_cell(names: list[str], model: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """Time contenders in turns, as often as asked or as the time allows; one that fails is listed with its reason."""
    x = images(options, batch)
    runs: dict[str, Run] = {}
    rows: dict[str, Row] = {name: {"model": model, "batch": batch, "run": name} for name in names}
    once = timed(prepared(UNIT, model, x), options.device)[0]
    for name in names:
        if name in SLOW and once * STEPS > options.seconds:
            rows[name]["failed"] = f"not run: about {once * STEPS / 60:.0f} minutes"
            continue
        try:
            runs[name] = prepared(name, model, x)
        except Exception as error:  # whatever a peer raises
            rows[name]["failed"] = reason(error)
            print(f"  {name}: {rows[name]['failed']}", file=sys.stderr)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    begun, rounds = time.perf_counter(), 0
    while rounds < options.repeats and (rounds == 0 or time.perf_counter() - begun < options.seconds):
        for name, run in runs.items():
            if rounds == 0 or name not in SLOW:
                taken[name].append(timed(run, options.device))
        rounds += 1
    unit = [statistics.median(column) for column in zip(*taken[UNIT], strict=True)]
    for name, pairs in taken.items():
        clock, processor = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows[name] |= {
            "rounds": len(pairs),
            "seconds": clock,
            "least": min(pairs)[0],
            "processor": processor,
            "gradients": clock / unit[0],
            "processor_gradients": processor / unit[1],
            "images_per_second": batch / clock,
        }
    return [*rows.values()]


def probe(name: str, model: str, batch: int, options: argparse.Namespace) -> Row:
    """Peak memory of one contender, in MiB beyond what this process holds before it has one.

    "peak" is what tensors take at most, what is prepared once for later runs included, and the network itself not;
    "resident" is that of the process, with the network.
    """
    x = images(options, batch)
    if options.device == "cuda":
        run = prepared(name, model, x)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return {"peak": (torch.cuda.max_memory_allocated() - held) / 2**20}
    available = int(_lines("/proc/meminfo")["MemAvailable"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (int(available * 0.9), resource.RLIM_INFINITY))
    held = _resident("VmRSS")
    run = prepared(name, model, x)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run()
    resident = _resident("VmHWM") - held
    run = CONTENDERS[name](model, x)
    kept = sum(allocated(run)[1] for _ in range(warm_ups(name)))
    return {"peak": kept + allocated(run)[0], "prepared": kept, "resident": resident}


def allocated(run: Run) -> tuple[float, float]:
    """MiB that tensors take during a run on the CPU: at most, and what is left of it at its end."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
        del result
    taken = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            taken += event.nbytes()
            peak = max(peak, taken)
    return peak / 2**20, taken / 2**20


def _lines(file: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(file).read_text().splitlines() if ":" in line)


def _resident(field: str) -> float:
    return int(_lines("/proc/self/status")[field].split()[0]) / 1024


def probed(name: str, model: str, batch: int, options: argparse.Namespace) -> Row:
    """`probe` in a process of its own."""
    given = [model, str(batch), name, "--size", str(options.size), "--threads", str(options.threads)]
    command = [sys.executable, __file__, "--device", options.device, "--probe", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return {"memory_failed": "does not fit into memory"}
    try:
        found: Row = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"memory_failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1][:90]}
    return found


def roofline(device: str) -> Row:
    """What this device can do, measured: multiply-adds in float32 and bfloat16, and bytes moved."""
    found: Row = {}
    size = 8192 if device == "cuda" else 1024
    for kind in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size, device=device).to(kind)
        best = min(timed(lambda a=a: a @ a, device)[0] for _ in range(8))  # type: ignore[misc]
        found[f"tflops_{str(kind).removeprefix('torch.')}"] = 2 * size**3 / best / 1e12
    a = torch.empty(2**28 if device == "cuda" else 2**24, device=device)
    best = min(timed(lambda: a.add_(1), device)[0] for _ in range(8))
    return found | {"gigabytes_per_second": 2 * a.numel() * 4 / best / 1e9}


def flops(model: str, options: argparse.Namespace) -> float:
    """Floating-point operations of an explanation of one image: three convolution-sized products a layer."""
    from torch.utils.flop_counter import FlopCounterMode

    x = images(options, 1)
    with FlopCounterMode(display=False) as counter:
        CONTENDERS["forward"](model, x)()
    return 3.0 * counter.get_total_flops()


def markdown(state: Row) -> str:
    """The table of all cells."""
    facts, lines = state["facts"], []
    lines.append(
        f"torch {facts['torch']}, {facts['device']}, {facts['threads']} thread(s), {facts['size']} px, medians of "
        f"at most {facts['repeats']}. One gradient is 1; processor time in brackets. Peak: MiB of tensors beyond the "
        "network; resident: of the process, beyond what it held without the network."
    )
    if "roofline" in facts:
        lines.append("Measured limits: " + ", ".join(f"{k} {v:.3g}" for k, v in facts["roofline"].items()) + ".")
    lines += ["", "| model | batch | run | n | ms | images/s | gradients | peak | x gradient's | resident |"]
    lines.append("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    for cell in state["cells"].values():
        units = {row["run"]: row.get("peak") for row in cell}
        for row in cell:
            lines.append(f"| {row['model']} | {row['batch']} | {row['run']} | {_time(row)} | {_memory(row, units)} |")
    return "\n".join(lines) + "\n"


def _time(row: Row) -> str:
    if "failed" in row:
        return f"| {row['failed'].replace('|', '/')} | | "
    ratio = f"{row['gradients']:.2f} ({row['processor_gradients']:.2f})"
    fraction = f", {row['of_roofline']:.0%} of the limit" if "of_roofline" in row else ""
    return f"{row['rounds']} | {row['seconds'] * 1e3:.1f} | {row['images_per_second']:.1f} | {ratio}{fraction}"


def _memory(row: Row, peaks: dict[str, float | None]) -> str:
    if "peak" not in row:
        return f"{row.get('memory_failed', '').replace('|', '/')} | | "
    unit = peaks.get(UNIT)
    share = f"{row['peak'] / unit:.2f}" if unit else ""
    return f"{row['peak']:.0f} | {share} | {row.get('resident', 0):.0f}"


def cell(model: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """All figures of one model at one batch: memory first, so that what does not fit is not timed."""
    names = options.runs or ([*CONTENDERS] if options.peers else [*QUICK])
    weighed = [name for name in names if options.memory and name not in SLOW]
    memory = {name: probed(name, model, batch, options) for name in weighed}
    fits = [name for name in names if "memory_failed" not in memory.get(name, {})]
    rows = {row["run"]: row for row in time_cell(fits, model, batch, options)}
    failed = {"model": model, "batch": batch}
    for name in names:
        rows.setdefault(name, {**failed, "run": name, "failed": memory.get(name, {}).get("memory_failed", "")})
        rows[name] |= {k: v for k, v in memory.get(name, {}).items() if k != "memory_failed"}
    if options.device == "cuda":
        limits, work = options.limits, flops(model, options)
        for name, row in rows.items():
            if name.startswith("relprop") and "seconds" in row:
                limit = limits["tflops_bfloat16" if "bf16" in name else "tflops_float32"] * 1e12
                row["of_roofline"] = work * batch / row["seconds"] / limit
    return [rows[name] for name in names]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=300, help="no further round of a cell after so long")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--peers", action="store_true", help="everything that can explain, compiled runs included")
    parser.add_argument("--runs", nargs="+", choices=CONTENDERS, metavar="RUN", help="these alone, by their names")
    parser.add_argument("--memory", action="store_true", help="peak memory of each, in a process of its own")
    parser.add_argument("--full", action="store_true", help="three networks, three batches, peers and memory")
    parser.add_argument("--out", type=Path, help="JSON file to write, and to go on from; a .md goes beside it")
    parser.add_argument("--probe", nargs=3, metavar=("MODEL", "BATCH", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use")
    if options.runs and UNIT not in options.runs:
        parser.error(f"--runs: times are given in gradients, so {UNIT!r} must be among them")
    options.peers, options.memory = options.peers or options.full, options.memory or options.full
    options.models = options.models or (["resnet18", "resnet50", "resnet152"] if options.full else ["resnet50"])
    options.batch = options.batch or (([1, 32, 256] if on_gpu else [1, 8, 32]) if options.full else [1])
    return options


def main() -> None:
    """Measure the cells that are missing, and print the table; write it as JSON and Markdown if asked."""
    options = parsed()
    torch.set_num_threads(options.threads)
    if options.probe:
        model, batch, name = options.probe
        try:
            found = probe(name, model, int(batch), options)
        except Exception as error:  # whatever a peer raises
            found = {"memory_failed": reason(error)}
        print(json.dumps(found))
        return
    names = ("device", "threads", "size", "repeats", "peers", "memory", "runs")
    facts = {"torch": torch.__version__} | {name: getattr(options, name) for name in names}
    if options.device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
        options.limits = facts["roofline"] = roofline("cuda")
    state: Row = {"facts": facts, "cells": {}}
    if options.out and options.out.exists():
        known = json.loads(options.out.read_text())
        same = {k: v for k, v in known["facts"].items() if k != "roofline"} == {
            k: v for k, v in facts.items() if k != "roofline"
        }
        if not same:
            sys.exit(f"{options.out} was measured with other settings ({known['facts']}); name another file")
        state = known
    for model in options.models:
        for batch in options.batch:
            if f"{model}, {batch}" in state["cells"]:
                continue
            state["cells"][f"{model}, {batch}"] = cell(model, batch, options)
            if options.out:
                options.out.write_text(json.dumps(state, indent=1) + "\n")
                options.out.with_suffix(".md").write_text(markdown(state))
    print(markdown(state))


if __name__ == "__main__":
    main()
