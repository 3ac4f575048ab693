"""Which map stands in which row of the paper's tables: its methods and the controls, as specs of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relprop.errors import UsageError
from relprop.reproduce.published import Against, published

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from relprop.reproduce.setting import Setting

RELEASED, FAIR = "paper-protocol", "fair"
LEVELS = 8
CONTROLS = {"constant": "constant", "random": "random", "gaussian": "centred Gaussian", "sobel": "Sobel edges"}
VARIANTS = {"i": ("symmetric", False), "ii": ("symmetric", True), "iii": ("ratio", False), "iv": ("ratio", True)}
"""Rows of Table 2: the split, and whether identity joins share."""
TABLE3_NOTE = (
    "The paper does not say which variant Table 3 is of. That it is (i) of Table 2, symmetric and not at identity "
    "joins, is our inference from equal numbers; --variants shows others."
)


@dataclass(frozen=True)
class Map:
    """What one row of a table measures."""

    name: str  # of the row
    # explainer and post-processing under each protocol. They differ where the release reads a map in a way of its own:
    # of maps of three channels its metric takes the first alone
    specs: dict[str, tuple[str, str]]
    key: str | None = None  # of the published row; None for what the paper does not have


def alike(name: str, explainer: str, post: str = "none", key: str | None = None) -> Map:
    """Make a row that is the same under both protocols."""
    return Map(name, {RELEASED: (explainer, post), FAIR: (explainer, post)}, key)


def proposed(setting: Setting, split: str = "ratio", identity: bool = True) -> str:
    """Spec of the paper's method, or of one of its ablations."""
    return f"lrp:composite={setting.composite}:split={split}:identity={str(identity).lower()}"


def quantization(setting: Setting) -> str:
    """Spec of Heat Quantization with Q = 8: Eq. 8, or as the release computes it."""
    return f"quantize:levels={LEVELS}:edges={'release' if setting.composite == 'released' else 'equation'}"


def baselines(setting: Setting) -> dict[str, dict[str, str]]:
    """Explainer of each baseline under each protocol, by its key."""
    layer = "" if setting.cam_layer is None else f":layer={setting.cam_layer}"
    # the release scores whatever finite map captum's LRP returns
    gradients = {"lrp": "captum-lrp:limit=inf"}
    gradients |= {name: name for name in ("integrated-gradients", "guided-backprop")}
    cams = {name: name + layer for name in ("grad-cam", "score-cam")}
    # the release has a Score-CAM of its own, without a softmax over the channels
    cams["score-cam"] += ":weights=probability" * (setting.composite == "released") + ":amp=true" * setting.amp
    red = {key: {RELEASED: f"{spec}:channels=red", FAIR: spec} for key, spec in gradients.items()}
    return red | {key: {RELEASED: spec, FAIR: spec} for key, spec in cams.items()}


def controls(post: str, names: Sequence[str] = tuple(CONTROLS)) -> tuple[Map, ...]:
    """Maps that look at no network, with the post-processing of the method that they stand beside.

    A constant map stays what it is under any.
    """
    quantized = " + HQ" if post != "none" else ""
    return tuple(
        alike(CONTROLS[name], name) if name == "constant" else alike(CONTROLS[name] + quantized, name, post)
        for name in names
    )


def chosen(keys: Sequence[str], setting: Setting) -> tuple[str, ...]:
    """Return those of `keys` that `--methods` leaves.

    Raises:
        UsageError: one that is not among them.
    """
    if unknown := [name for name in setting.methods if name not in keys]:
        raise UsageError(f"--methods {', '.join(unknown)}: there is no such row; there are {', '.join(keys)}")
    return tuple(key for key in keys if not setting.methods or key in setting.methods)


def table1(setting: Setting, against: Against) -> tuple[Map, ...]:
    """Table 1, the method against five others: `lrp-cuts`, those of `--also`, and controls, quantized too, follow."""
    rows = {row.key: row.name for row in published("table1", against).rows}
    other, post = baselines(setting), quantization(setting)
    found = []
    for key in chosen(tuple(rows), setting):
        if key == "proposed":
            found.append(alike(f"{rows[key]} (HQ)", proposed(setting), post, key))
        else:
            found.append(Map(rows[key], {where: (spec, "none") for where, spec in other[key].items()}, key))
    also = (alike(spec, spec + ":amp=true" * (setting.amp and spec.startswith("rise"))) for spec in setting.also)
    return (*found, alike("lrp-cuts", "lrp-cuts"), *also, *controls(post))


def table2(setting: Setting, against: Against) -> tuple[Map, ...]:
    """Table 2, the splits with and without identity joins, all quantized; then the controls, quantized too."""
    post = quantization(setting)
    rows = published("table2", against).rows
    found = [alike(row.name, proposed(setting, *VARIANTS[row.key]), post, row.key) for row in rows]
    return (*found, *controls(post))


def table3(setting: Setting, against: Against) -> tuple[Map, ...]:
    """Table 3, without and with Heat Quantization, for each variant asked for (`TABLE3_NOTE`), and of the controls.

    Raises:
        UsageError: a variant that Table 2 does not have.
    """
    if unknown := [name for name in setting.variants if name not in VARIANTS]:
        raise UsageError(f"--variants {', '.join(unknown)}: Table 2 has {', '.join(VARIANTS)}")
    post = quantization(setting)
    without, with_it = published("table3", against).rows
    found = []
    for name in setting.variants:
        spec = proposed(setting, *VARIANTS[name])
        if name == "i":
            found += [alike(without.name, spec, "none", without.key), alike(with_it.name, spec, post, with_it.key)]
        else:
            found += [alike(f"({name}) of Table 2{end}", spec, step) for end, step in (("", "none"), (" + HQ", post))]
    return (*found, *controls("none"), *controls(post, ("random", "gaussian", "sobel")))


TABLES: Mapping[str, Callable[[Setting, Against], tuple[Map, ...]]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
}
