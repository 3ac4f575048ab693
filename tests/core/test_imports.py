"""Imports run one way, the core pulls in torch alone, and its tests nothing that takes long to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import relprop

SOURCE, TESTS = Path(relprop.__file__).parent, Path(__file__).parent

#: lowest first; siblings in a tier do not import each other, but for the first, on which all else stands
TIERS = (
    {"errors", "documents", "registry", "images", "seeding", "cifar", "shortage", "explainer", "files", "tables"},
    {"core"},
    {"explainers", "metrics", "data", "models", "adapters", "text"},
    {"evaluation", "training", "tuning", "demo", "sessions", "clusters"},
    {"viz", "concepts"},
    {"report"},
    {"reproduce", "web"},
    {"cli"},
)
TIER = {name: k for k, names in enumerate(TIERS) for name in names}

#: the folders of the core in the order of the computation; a file imports from its own folder and those before it
ORDER = ("graph", "weights", "capture", "rules", "composites", "backward", "result", "targets", "lrp")

#: third-party modules that the core may import; safetensors only within save and load
CORE_MAY_IMPORT = {"torch", "safetensors"}


@cache
def parsed(path: Path) -> tuple[ast.Module, list[ast.AST]]:
    """A file, and all nodes of its syntax tree."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tree, [*ast.walk(tree)]


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top level) of each import in a file."""
    tree, nodes = parsed(path)
    top = set(map(id, tree.body))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            deeper = node.module in ("relprop", "relprop.core")
            names = [f"{node.module}.{alias.name}" for alias in node.names] if deeper else [node.module]
            found += [(name, id(node) in top) for name in names]
    return found


def part(name: str) -> str:
    """The part of relprop that a module belongs to: `relprop.core.graph.graph` -> core."""
    return name.split(".")[1] if "." in name else ""


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def violations(path: Path, own: str) -> list[str]:
    wrong = []
    for module, _ in imports(path):
        if not module.startswith("relprop"):
            continue
        other = part(module)
        if other in ("", own, "__version__"):
            continue
        if other not in TIER:  # a name of the public surface: it lives in the core
            other = "core" if other in relprop.__all__ else other
        if TIER.get(other, 99) > TIER[own] or (TIER.get(other) == TIER[own] != 0 and other != own):
            wrong.append(f"{own} imports {module}")
    return wrong


def test_imports_run_one_way():
    for path in FILES:
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        assert own in TIER, f"{own} has no place in the tiers of the architecture"
        assert violations(path, own) == [], path


def test_the_check_of_tiers_can_fail(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from relprop.cli import main\nimport relprop.viz\nfrom relprop import core, explain\n")
    assert violations(bad, "core") == ["core imports relprop.cli", "core imports relprop.viz"]
    assert violations(bad, "errors") == [
        "errors imports relprop.cli",
        "errors imports relprop.viz",
        "errors imports relprop.core",
        "errors imports relprop.explain",
    ]


def upwards(path: Path, own: str) -> list[str]:
    """Imports of a file in one folder of the core from a folder that comes later."""
    others = (module.split(".")[2] for module, _ in imports(path) if module.startswith("relprop.core."))
    return [f"{own} imports {other}" for other in others if ORDER.index(other) > ORDER.index(own)]


CORE = sorted(path for path in (SOURCE / "core").rglob("*.py") if path != SOURCE / "core" / "__init__.py")


def test_the_folders_of_the_core_run_one_way():
    for path in CORE:
        assert upwards(path, path.relative_to(SOURCE / "core").parts[0].removesuffix(".py")) == [], path


def test_the_check_of_folders_can_fail(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from relprop.core.lrp import LRP\nfrom relprop.core.graph.ops import AFFINE\n")
    assert upwards(bad, "rules") == ["rules imports lrp"]


def circles(files: list[Path]) -> list[tuple[str, str]]:
    """Pairs of modules that import each other, lazily or not."""
    name = {path: ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in files}
    known = {name[path]: {module for module, _ in imports(path)} for path in files}
    return sorted((a, b) for a in known for b in known[a] if a < b and a in known.get(b, ()))


def test_no_two_files_import_each_other():
    assert circles(FILES) == []


def test_the_core_imports_torch_and_the_standard_library():
    for path in (SOURCE / "core" / "__init__.py", *CORE):
        for module, at_top in imports(path):
            root = module.split(".")[0]
            if root in sys.stdlib_module_names or root == "relprop":
                continue
            assert root in CORE_MAY_IMPORT, path
            assert root == "torch" or not at_top, path


#: takes a second or more to import, or imports torch's compiler, which does
SLOW_TO_IMPORT = (
    "torchvision", "timm", "transformers", "relprop.models", "torch._dynamo", "torch._inductor", "torch.compile",
    "torch.export.export", "torch.fx.experimental.proxy_tensor",
)  # fmt: skip


def slow_to_import(path: Path) -> list[str]:
    """What a file imports, asks `importorskip` for, or names as an attribute, of all that is slow to import."""
    named = {module for module, _ in imports(path)}
    ends = {slow.rpartition(".")[2] for slow in SLOW_TO_IMPORT}
    for node in parsed(path)[1]:
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and node.attr in ends:
            named.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "importorskip":
            named.add(ast.literal_eval(node.args[0]))
    return sorted({slow for slow in SLOW_TO_IMPORT for name in named if f"{name}.".startswith(f"{slow}.")})


def with_helpers(files: list[Path]) -> list[Path]:
    """Some files of tests, and the modules beside them and in the folder above that they import, directly or not."""
    found, waiting = [], [*files]
    while waiting:
        path = waiting.pop()
        found.append(path)
        beside = [folder / f"{module}.py" for module, _ in imports(path) for folder in (TESTS, TESTS.parent)]
        waiting += [other for other in beside if other.is_file() and other not in (*found, *waiting)]
    return found


def test_files_of_tests_of_the_core_are_quick_to_import():
    """Each shall run by itself in five seconds, of which torch takes three: others are in `networks` and `compiler`."""
    files = with_helpers(sorted(TESTS.glob("*.py")))
    assert {"conftest.py", "core_nets.py", "tiny.py", "test_blocks.py"} <= {path.name for path in files}
    assert {path.name: slow for path in files if (slow := slow_to_import(path))} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import timm", "timm"),
        ("def f():\n    from torchvision.models import resnet18", "torchvision"),
        ("models = pytest.importorskip('torchvision.models')", "torchvision"),
        ("import torch._dynamo as compiler", "torch._dynamo"),
        ("made = torch.compile(model)", "torch.compile"),
        ("from torch import compile", "torch.compile"),
        ("program = torch.export.export(model, (x,))", "torch.export.export"),
    ],
)
def test_the_check_of_what_is_slow_to_import_can_fail(text, expected, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    assert slow_to_import(tmp_path / "bad.py") == [expected]


PROBE = """
import gc, sys
gc.disable()
import torch, torch.export
before = set(sys.modules)
{statement}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new - set(sys.stdlib_module_names) - {{"relprop", "torch"}}))
"""


def pulled_in(statement: str) -> list[str]:
    """Third-party packages that a statement imports in a fresh interpreter, torch's own apart."""
    out = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], capture_output=True, text=True, check=True
    )
    return out.stdout.split()


@pytest.mark.slow  # that its files name nothing else is in `test_the_core_imports_torch_and_the_standard_library`
def test_importing_the_core_pulls_in_torch_alone():
    everything = "import relprop.core.lrp, relprop.core.composites.presets, relprop.core.rules"
    assert pulled_in(f"{everything}; [getattr(relprop, name) for name in relprop.__all__]") == []


@pytest.mark.slow
def test_the_check_of_what_is_pulled_in_can_fail():
    assert "PIL" in pulled_in("import relprop.core, PIL.Image")


def test_importing_relprop_does_not_load_torch():
    probe = "import sys, relprop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.slow
def test_explaining_attention_and_branches_does_not_load_the_compiler():
    probe = """
import sys, torch, relprop
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
    def forward(self, x):
        h = nn.functional.interpolate(x, scale_factor=2, mode="bilinear").flatten(2).transpose(1, 2)
        h = h * 2 if h.mean() > 9 else h
        return self.fc((self.attention(h, h, h)[0] + torch.einsum("nij,nkj->nik", h, h).softmax(-1) @ h).mean(1))
assert relprop.explain(Net().eval(), torch.rand(2, 8, 4, 4)).ledger.gap < 1e-5
sys.exit("torch._dynamo" in sys.modules or "sympy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
