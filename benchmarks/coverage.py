"""Nineteen kinds of network, each explained, checked and timed: conservation, batches against single images, cost.

    python benchmarks/coverage.py                        # goes on where it stopped; results in coverage.jsonl
    python benchmarks/coverage.py --only densenet121     # these networks again
    python benchmarks/coverage.py --speed                # time those that are checked, in turns with plain gradients
    python benchmarks/coverage.py --table                # the results so far, as Markdown

224 px, two images, random weights made sane as in `survey.py`. "gap" is the largest leak at any layer, as a share of
the relevance there, for the default composite; "absorbed" what a rule takes away by its own account. "batch against
single" is how far the second image's map in the batch is from the same image explained alone, relative, in float64.
"gradients" is the time of an explanation of one image, books included, in plain gradients (forward and backward to the
image) of the same model: runs alternate in one process on one thread, and the ratio is of medians. Each network
runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conservation import Functional
from survey import sane
from torch import Tensor, nn
from turns import by_turns

Row = dict[str, Any]

NETWORKS = (
    "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "regnet_y_400mf", "mobilenet_v2",
    "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t", "googlenet", "vgg16_bn", "timm:resnet50d",
    "timm:seresnet50", "timm:resnetv2_50", "functional block", "traced resnet18", "compiled resnet18",
)  # fmt: skip

#: the most that an explanation may cost, and a gap be
GRADIENTS, GAP, GAP64, APART = 2.5, 1e-5, 1e-12, 1e-9


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def made(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network with random weights that relevance can flow through."""
    torch.manual_seed(0)
    kind, _, inner = name.partition(" ")
    if kind == "traced":
        return torch.jit.trace(made(inner, dtype), images().to(dtype), check_trace=False)  # type: ignore[no-any-return]
    if kind == "compiled":
        return torch.compile(made(inner, dtype))  # type: ignore[return-value]
    if name == "functional block":
        return Functional().eval().requires_grad_(False).to(dtype)
    if name.startswith("timm:"):
        import timm

        model: nn.Module = timm.create_model(name.removeprefix("timm:"))
    else:
        import torchvision

        options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, **options)
    return sane(model.eval().requires_grad_(False), images()).to(dtype)


def checked(name: str) -> Row:
    """Explain two images in both precisions, and one alone."""
    import relprop

    row: Row = {}
    for dtype, suffix in ((torch.float32, ""), (torch.float64, "64")):
        lrp, x = relprop.LRP(made(name, dtype)), images().to(dtype)
        result = lrp(x)
        assert result.ledger is not None
        alone = lrp(x[1:], target=result.target[1:]).relevance
        row[f"gap{suffix}"], row[f"absorbed{suffix}"] = result.ledger.gap, result.ledger.absorbed
        row[f"apart{suffix}"] = float((alone - result.relevance[1:]).abs().sum() / alone.abs().sum())
        row |= {"composite": result.composite}
    return row


def timed(name: str, repeats: int) -> Row:
    """Median times of an explanation, of a gradient and of a forward run, one image."""
    import relprop

    model, x = made(name), images(1)
    plain: nn.Module = getattr(model, "_orig_mod", model)  # compiling speeds both up alike, given time
    lrp = relprop.LRP(model)

    def gradient() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(plain(leaf).amax(1).sum(), leaf)

    def forward() -> None:
        with torch.no_grad():
            plain(x)

    runs: dict[str, Callable[[], Any]] = {"lrp": lambda: lrp(x), "gradient": gradient, "forward": forward}
    median = by_turns(runs, repeats)
    ratios = {"gradients": median["lrp"] / median["gradient"], "forward": median["forward"] / median["gradient"]}
    return {**ratios, "seconds": median["lrp"], "repeats": repeats}


def rows(out: Path) -> list[Row]:
    """What is known of each network, later lines over earlier ones."""
    found: dict[str, Row] = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        row = json.loads(line)
        known = {} if "gap" in row or "error" in row else found.get(row["network"], {})
        found[row["network"]] = known | row
    checked = [found[name] for name in NETWORKS if name in found]
    return [row for row in checked if "gap" in row or "error" in row]


def holds(row: Row) -> bool:
    """Whether a network meets every bound that was measured."""
    return (
        "error" not in row
        and row["gap"] <= GAP
        and row["gap64"] <= GAP64
        and row["absorbed"] <= GAP
        and row["apart64"] <= APART
        and row.get("gradients", 0.0) <= GRADIENTS
    )


def table(found: list[Row]) -> str:
    """Markdown, in the order of the list."""
    lines = [f"{sum(map(holds, found))} of {len(found)} networks meet every bound.", ""]
    lines += ["| network | gap, float32 | gap, float64 | absorbed | batch against single | gradients |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for row in found:
        if "error" in row:
            lines.append(f"| {row['network']} | {row['error'][:200]} | | | | |")
            continue
        cost = f"{row['gradients']:.2f}" if "gradients" in row else ""
        exact = f"{row['gap']:.1e} | {row['gap64']:.1e} | {row['absorbed']:.1g} | {row['apart64']:.1e}"
        lines.append(f"| {row['network']} | {exact} | {cost} |")
    return "\n".join(lines)


def one(name: str, options: argparse.Namespace) -> Row:
    """One network in this process; its failure is its row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        return timed(name, options.repeats) if options.speed else checked(name)
    except Exception as error:  # whatever a network raises
        return {"error": f"{type(error).__name__}: {error}"[:600]}


def main() -> None:
    """Check or time what is not known yet, and print the table; fail if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, metavar="NETWORK")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options)))
        return
    known = {row["network"] for row in rows(options.out) if ("gradients" if options.speed else "gap") in row}
    for name in () if options.table else options.only or [name for name in NETWORKS if name not in known]:
        extra = ["--speed", "--repeats", str(options.repeats)] if options.speed else []
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout.strip().splitlines()
        row = json.loads(said[-1]) if said else {"error": (done.stderr.strip().splitlines() or ["no reason"])[-1][:600]}
        with options.out.open("a") as file:
            file.write(json.dumps({"network": name, **row}) + "\n")
        print(name, row, flush=True)
    found = rows(options.out)
    print(table(found))
    sys.exit(0 if found and all(map(holds, found)) else 1)


if __name__ == "__main__":
    main()
