"""Table 3: with and without Heat Quantization. Its numbers are those of the paper's variant (i) of Table 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.reproduce.maps import Map, alike, controls, proposed, quantization
from relprop.reproduce.published import Against, published
from relprop.reproduce.table2 import VARIANTS

if TYPE_CHECKING:
    from relprop.reproduce.setting import Setting


def maps(setting: Setting, against: Against = "imagenet") -> tuple[Map, ...]:
    """Rows of Table 3, then the controls without and with quantization: what it does to maps that know nothing."""
    spec, post = proposed(setting, *VARIANTS["i"]), quantization(setting)
    without, with_it = published("table3", against).rows
    found = [alike(without.name, spec, "none", without.key), alike(with_it.name, spec, post, with_it.key)]
    return (*found, *controls("none"), *controls(post, ("random", "gaussian", "sobel")))
