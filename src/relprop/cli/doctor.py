"""`relprop doctor`: what is installed here, and whether it works."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from typing import Any

from relprop.cli import console, options
from relprop.errors import how_to_add, version_of

LIBRARIES = ("relprop", "torch", "torchvision")
_NOT_FOR_USERS = ("all", "bench", "dev", "docs")


def doctor(device: options.Device = "auto", json: options.Json = False) -> int:
    """Say which versions, extras and devices are here, and explain a small network to see that it works.

    The network is a ResNet-20 of random weights from a fixed seed: the relevance of every layer is compared with the
    probability that it started with.

    Exit code 1 if it cannot be explained, or relevance leaks.
    """
    import torch

    device = options.choose_device(device)
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}
    extras, tested = missing_by_extra(), self_test(device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    machine = {"device": device, "name": name, "cores": cores(), "threads": torch.get_num_threads()}
    if json:
        console.print_json({"versions": versions, "extras": extras, "machine": machine, "self_test": tested})
    else:
        _print(versions, extras, machine, tested)
    return 0 if tested["passed"] else 1


def missing_by_extra() -> dict[str, list[str]]:
    """For each extra that users can ask for, the distributions that it needs and that are not installed."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("relprop") or ():
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"""extra == ['"]([\w-]+)""", requirement)
        if name is None or extra is None or extra[1] in _NOT_FOR_USERS:
            continue
        missing = found.setdefault(extra[1], [])
        if version_of(name[0]) is None:
            missing.append(name[0])
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def self_test(device: str) -> dict[str, Any]:
    """Explain a small network, random from a fixed seed: whether it could be, the gap, and what the map sums to."""
    import torch

    from relprop.cifar import cifar_resnet
    from relprop.core.lrp import LRP

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, x = cifar_resnet(20).eval(), torch.rand(1, 3, 32, 32)
        result = LRP(model.to(device))(x.to(device))
        assert result.ledger is not None  # LRP keeps a ledger by default
        said = result.ledger.conservation()
        return {
            "passed": not said.leaks(1e-5) and said.conserves_score,
            "gap": result.ledger.gap,
            "sum": float(result.heatmap.double().sum()),
            "score": float(result.score[0]),
            "error": None,
        }
    except Exception as error:  # a broken installation of torch or of a driver can raise anything
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {"passed": False, "gap": None, "sum": None, "score": None, "error": text}


def _print(versions: dict[str, Any], extras: dict[str, list[str]], machine: dict[str, Any], tested: Any) -> None:
    console.heading(" · ".join(f"{name} {version or 'not installed'}" for name, version in versions.items()))
    console.out.print("device {device} ({name}), {cores} cores, {threads} threads".format(**machine), soft_wrap=True)
    made = console.table("extra", "state")
    for extra, missing in extras.items():
        absent = f"{', '.join(missing)} not installed; to add: {how_to_add(extra)}"
        made.add_row(extra, "installed" if not missing else console.escape(absent))
    console.show(made)
    if tested["error"] is not None:
        console.out.print(f"[{console.BAD}]✗ self-test: {console.escape(tested['error'])}[/]", soft_wrap=True)
        return
    text = "self-test: largest leak {gap:.1e}, relevance sums to {sum:.6f} of {score:.6f}".format(**tested)
    console.out.print(console.verdict(tested["passed"], text, text), soft_wrap=True)
