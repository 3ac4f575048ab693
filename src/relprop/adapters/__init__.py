"""relprop in the words of other libraries: change an import, keep the rest.

Each module stands for one library and imports it only where its own classes are needed: `captum` (a true
`captum.attr.Attribution`), `quantus` (an `explain_func`), `zennit` (an attributor; zennit itself is not needed), and
`torchcam` (an `explain` whose result saves pictures). Each is imported when it is first named.
"""

from typing import Any

__all__ = ["captum", "quantus", "torchcam", "zennit"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'relprop.adapters' has no attribute {name!r}; there are {', '.join(__all__)}")
    return import_module(f"{__name__}.{name}")
