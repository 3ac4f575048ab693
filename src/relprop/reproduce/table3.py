"""Table 3: with and without Heat Quantization.

The paper does not say for which variant. Its numbers with quantization equal those of (i) of Table 2, symmetric and not
at identity joins; that they are of (i) is our inference, and any variant can be shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.errors import UsageError
from relprop.reproduce.maps import Map, alike, controls, proposed, quantization
from relprop.reproduce.published import Against, published
from relprop.reproduce.table2 import VARIANTS

if TYPE_CHECKING:
    from relprop.reproduce.setting import Setting

NOTE = (
    "The paper does not say which variant Table 3 is of. That it is (i) of Table 2, symmetric and not at identity "
    "joins, is our inference from equal numbers; --variants shows others."
)


def maps(setting: Setting, against: Against = "imagenet") -> tuple[Map, ...]:
    """Rows of Table 3 for each variant, then the controls without and with quantization: what that does to them.

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
