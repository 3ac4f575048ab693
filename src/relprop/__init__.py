"""Layer-wise relevance propagation through residual networks, with every unit of relevance counted.

    result = relprop.explain(model, x)
    result.heatmap, result.score, result.ledger.gap

Names are loaded when they are first used, so that `relprop --help` does not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relprop import adapters as adapters
    from relprop import clusters as clusters
    from relprop import text as text
    from relprop import viz as viz
    from relprop.core import targets as targets
    from relprop.core.backward.ledger import Ledger as Ledger
    from relprop.core.composites.composite import Composite as Composite
    from relprop.core.composites.presets import attnlrp as attnlrp
    from relprop.core.composites.presets import epsilon as epsilon
    from relprop.core.composites.presets import epsilon_alpha2_beta1_flat as epsilon_alpha2_beta1_flat
    from relprop.core.composites.presets import epsilon_gamma_box as epsilon_gamma_box
    from relprop.core.composites.presets import epsilon_plus_flat as epsilon_plus_flat
    from relprop.core.composites.presets import gamma as gamma
    from relprop.core.composites.presets import original as original
    from relprop.core.composites.presets import paper as paper
    from relprop.core.composites.presets import released as released
    from relprop.core.composites.presets import transformer as transformer
    from relprop.core.composites.presets import two_sided as two_sided
    from relprop.core.lrp import LRP as LRP
    from relprop.core.lrp import explain as explain
    from relprop.core.result.quantize import quantize as quantize
    from relprop.core.result.relevance import Relevance as Relevance
    from relprop.core.result.several import Relevances as Relevances
    from relprop.core.rules import rule as rule
    from relprop.evaluation.memory import evaluate as evaluate
    from relprop.evaluation.rows import Rows as Rows

_COMPOSITES = [
    "attnlrp",
    "epsilon",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus_flat",
    "gamma",
    "original",
    "paper",
    "released",
    "transformer",
    "two_sided",
]
_HOME = {
    **dict.fromkeys(_COMPOSITES, "core.composites.presets"),
    "Composite": "core.composites.composite",
    "LRP": "core.lrp",
    "Ledger": "core.backward.ledger",
    "Relevance": "core.result.relevance",
    "Relevances": "core.result.several",
    "Rows": "evaluation.rows",
    "evaluate": "evaluation.memory",
    "explain": "core.lrp",
    "quantize": "core.result.quantize",
    "rule": "core.rules",
}
_MODULES = {"adapters": "adapters", "clusters": "clusters", "targets": "core.targets", "text": "text", "viz": "viz"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module, metadata

    if name == "__version__":
        value: Any = metadata.version("relprop")
    elif name in _HOME:
        value = getattr(import_module(f"relprop.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"relprop.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'relprop' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES, "__version__"})
