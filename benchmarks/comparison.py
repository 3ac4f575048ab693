"""One photograph explained by captum, zennit, pytorch-grad-cam, torchcam and relprop: code, time, memory, and the sum.

    python benchmarks/comparison.py > table.md          # about fifteen minutes; --rounds 1 for a look

The code is that of `peers.py`, as it stands there: its lines are counted, printed, and run. Each contender explains the
predicted class of the bundled photograph in a process of its own, one thread, as often as there are rounds, in turns. A
process says

- how long it took from its start to the first map: Python, the imports, the network, the explanation;
- how long of this the explainer took to be made, its library to be imported, and the first map to be there;
- what the process held at most by then;
- how long later maps take, medians, interleaved with a gradient of the same network;
- the gap |ΣR - s| / |s|, with s what the method says that its map sums to; nothing where it makes no such claim.

Seconds are those of the processor, since all run in one thread: what else the machine does hardly counts.

ResNet-50 has random weights from seed 0, and statistics of its batch norms from the three bundled photographs. The gaps
are also measured on a trained network, the demo's EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

RESNET, TRAINED = "resnet50", "tf_efficientnet_lite0"
MAKERS: dict[str, peers.Peer] = {
    "gradient": peers.gradient,
    "relprop LRP": peers.lrp,
    "relprop lrp-cuts": peers.lrp_cuts,
    "zennit EpsilonPlusFlat": peers.zennit,
    "captum LRP": peers.captum_lrp,
    f"captum Integrated Gradients, {peers.STEPS} steps": peers.integrated_gradients,
    "pytorch-grad-cam Grad-CAM": peers.grad_cam,
    "torchcam Grad-CAM": peers.torchcam,
}
#: what each map sums to, by its method, of (logits of the image, logits of a black image, class)
CLAIMS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "relprop LRP": lambda y, _, target: y.softmax(0)[target],
    "relprop lrp-cuts": lambda y, _, target: y.softmax(0)[target],
    "zennit EpsilonPlusFlat": lambda y, _, target: torch.ones(()),  # it starts with the gradient that it is given
    "captum LRP": lambda y, _, target: y[target],
    f"captum Integrated Gradients, {peers.STEPS} steps": lambda y, zero, target: (y - zero)[target],
}
LATER = 5


def network(name: str) -> nn.Module:
    if name == TRAINED:
        from relprop import demo

        loaded: nn.Module = demo.model().model
        return loaded.requires_grad_(False)
    model = peers.build(name, torch.empty(0))
    state = Path(os.environ["COMPARISON_TASK"]) / "norms.pt"
    if state.exists():
        model.load_state_dict(torch.load(state), strict=False)
    return model


def prepare(folder: Path) -> None:
    """Write the photograph as an input, and the batch norms' statistics, so that no contender needs relprop."""
    from relprop import demo
    from relprop.images import Preprocess

    x = torch.stack([Preprocess()(demo.photograph(name)) for name in ("chelsea", "coffee", "rocket")])
    torch.save(x[:1].clone(), folder / f"{RESNET}.pt")
    loaded = demo.model()
    torch.save(loaded.preprocess(demo.photograph("chelsea"))[None], folder / f"{TRAINED}.pt")
    model = peers.build(RESNET, x)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    torch.save({k: v for k, v in model.state_dict().items() if "running" in k}, folder / "norms.pt")


def one(name: str, task: str) -> dict[str, Any]:
    """What one process measures of one contender."""
    model, x = network(task), torch.load(Path(os.environ["COMPARISON_TASK"]) / f"{task}.pt")
    target = model(x).argmax(1)
    begun = time.process_time()
    run = MAKERS[name](model, x, target)
    found = run()
    row = {"fresh": time.process_time(), "first": time.process_time() - begun, "peak": peak()}
    row["clock"] = time.monotonic() - float(os.environ["COMPARISON_BEGUN"])
    total = as_map(found).double().sum()
    if name in CLAIMS:
        plain = network(task)
        with torch.no_grad():
            claim = CLAIMS[name](plain(x)[0].double(), plain(0 * x)[0].double(), int(target))
        row |= {"sum": float(total), "claim": float(claim), "gap": float((total - claim).abs() / claim.abs())}
    unit = peers.gradient(network(task), x, target)
    slow = "Integrated" in name  # whose first call is like all others
    unit()
    if not slow:
        run()
    times = [(seconds(unit), seconds(run)) for _ in range(1 if slow else LATER)]
    row["gradient"], row["later"] = (statistics.median(column) for column in zip(*times, strict=True))
    return row


def as_map(found: Any) -> Tensor:
    """The map, or the relevance before channels are summed, of whatever a library returns."""
    found = getattr(found, "relevance", found)
    found = found[1] if isinstance(found, tuple) else found
    return torch.as_tensor(found).detach()


def seconds(run: peers.Run) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def peak() -> float:
    """The most that this process has held, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, task: str, folder: str) -> dict[str, Any]:
    """Start a process for one contender; what it measured, or why it could not."""
    environment = os.environ | {
        "COMPARISON_TASK": folder,
        "COMPARISON_BEGUN": str(time.monotonic()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--one", name, "--task", task],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def code(name: str) -> str:
    return inspect.getsource(MAKERS[name])


def lines(name: str) -> int:
    """Lines of code, without that of the function's name, its description and empty ones."""
    body = code(name).split('"""')[-1] if '"""' in code(name) else code(name).split("\n", 1)[1]
    return sum(1 for line in body.splitlines() if line.strip())


def median(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each contender on ResNet-50."""
    head = "| | lines | fresh process to map, s | first map, s | later maps, gradients | memory, MiB | gap |"
    out = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    for name, rows in found.items():
        if "failed" in rows[0]:
            out.append(f"| {name} | {lines(name)} | {rows[0]['failed'][:90]} |||||")
            continue
        ratio = statistics.median(row["later"] / row["gradient"] for row in rows)
        times = f"{median(rows, 'fresh'):.1f} | {median(rows, 'first'):.2f} | {ratio:.2f} | {median(rows, 'peak'):.0f}"
        out.append(f"| {name} | {lines(name)} | {times} | {gap(rows[0])} |")
    return "\n".join(out)


def gap(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"][:90]
    return f"{row['gap']:.1e}" if "gap" in row else ""


def sums(found: dict[str, dict[str, Any]]) -> str:
    """Of those that claim a sum, on the trained network."""
    out = ["| | the map sums to | it should be | gap |", "|---|--:|--:|--:|"]
    for name, row in found.items():
        cells = "| |" if "failed" in row else f"{row['sum']:.5g} | {row['claim']:.5g} |"
        out.append(f"| {name} | {cells} {gap(row)} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=[*MAKERS], help=argparse.SUPPRESS)
    parser.add_argument("--task", default=RESNET, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(one(options.one, options.task)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPARISON_TASK"] = folder
        prepare(Path(folder))
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in MAKERS}
        for place in range(options.rounds):
            for name, rows in found.items():
                rows.append(measure(name, RESNET, folder))
                print(place, name, rows[-1], file=sys.stderr, flush=True)
        trained = {name: measure(name, TRAINED, folder) for name in CLAIMS}
    print(table(found), sums(trained), sep="\n\n")
    for name in MAKERS:
        print(f"\n### {name}\n\n```py\n{textwrap.dedent(code(name))}```")


if __name__ == "__main__":
    main()
