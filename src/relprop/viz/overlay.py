"""Draw relevance over the photograph it belongs to, on matplotlib axes.

Nothing here imports pyplot or changes matplotlib's settings: without axes a fresh `Figure` is made, which notebooks
show and `figure.savefig` writes.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from relprop.errors import InputError
from relprop.viz.colour import GROUND, PERCENTILE, Floats, Scale, as_map, scale_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

    from relprop.core.result.relevance import Relevance
    from relprop.models.classes import Names

INK, QUIET = "#1f1f1f", "#6b6b6b"
"""Colours of titles and names, and of everything else that is written but is not the picture."""

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709


def blend(image: Any, heatmap: Any, scale: Scale | None = None) -> Floats:
    """Colour the darkened grey photograph by its relevance.

    Args:
        image: the picture the network saw: PIL, (H, W, 3) or (H, W) array in uint8 or [0, 1], or a tensor
            (3, H, W) in [0, 1]; None for a plain ground.
        heatmap: (H, W).
        scale: colours; None chooses them with `scale_of`.

    Returns:
        RGB, (H, W, 3) in [0, 1]. Where relevance is zero it is the darkened grey photograph itself.

    Raises:
        InputError: the two differ in size.
    """
    values = as_map(heatmap)
    return (scale or scale_of(values)).over(values, ground_of(image, values.shape))


def ground_of(image: Any, shape: tuple[int, ...]) -> Floats:
    """Grey, darkened version (H, W, 3) of `image`, on which colour stands out; plain if there is none."""
    if image is None:
        return np.full((*shape, 3), GROUND)
    picture = as_picture(image)
    if picture.shape[:2] != shape:
        size = "{} x {}".format(*picture.shape[:2])
        raise InputError(
            f"the picture is {size} and the heatmap {shape[0]} x {shape[1]}; "
            "pass the picture as the network saw it (Preprocess.crop)"
        )
    return np.repeat(0.03 + 0.55 * (picture @ _LUMA)[..., None], 3, axis=-1)


def squares(values: Any, size: tuple[int, int]) -> Floats:
    """Enlarge a layer's map (h, w) to (H, W) for drawing: each value becomes a rectangle of its own colour."""
    small = as_map(values)
    rows, columns = (np.arange(side) * length // side for side, length in zip(size, small.shape, strict=True))
    return np.asarray(small[rows][:, columns], dtype=np.float64)


def as_picture(image: Any) -> Floats:
    """Return any kind of picture as RGB (H, W, 3) in [0, 1].

    Raises:
        InputError: values outside [0, 1] (a normalised tensor, most likely), or not a picture.
    """
    if hasattr(image, "detach"):
        image = image.detach().cpu().double().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    elif hasattr(image, "convert"):
        image = image.convert("RGB")
    array = np.asarray(image)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(np.float64)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise InputError(f"a picture has three colour channels or one; this array is {tuple(np.shape(image))}")
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):  # also true for NaN
        raise InputError(
            f"the picture's values run from {array.min():.3g} to {array.max():.3g}, not within [0, 1]; "
            "undo the network's normalisation first (Preprocess.denormalize)"
        )
    return np.asarray(np.clip(array, 0.0, 1.0), dtype=np.float64)


def encoded(rgb: Floats, kind: str = "png", **options: Any) -> bytes:
    """Encode an RGB picture (H, W, 3) in [0, 1] as a file of that kind."""
    file = io.BytesIO()
    Image.fromarray(np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def uri_of(content: bytes, kind: str) -> str:
    """Write the bytes of a picture into a URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def overlay(
    image: Any,
    heatmap: Any,
    ax: Axes | None = None,
    *,
    score: float | None = None,
    scale: Scale | None = None,
    percentile: float | None = PERCENTILE,
    levels: bool = False,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a heatmap (H, W) over its picture; see `blend` and `scale_of` for the arguments.

    The line under the picture states what the colours span.
    """
    ax = ax or Figure(figsize=(5.2, 5.0), layout="constrained").add_subplot()
    scale = scale or scale_of(heatmap, score=score, percentile=percentile, levels=levels)
    picture(ax, blend(image, heatmap, scale), title=title)
    ax.set_xlabel(scale.note.replace("; ", ";\n"), fontsize=7, color=QUIET)
    if colorbar:
        draw_bar(ax, scale)
    return ax


def caption(result: Relevance, target: Any, score: Any, names: Sequence[str] = ()) -> str:
    """What a map explains, and what it sums to; the class by its name where `names` has one for each."""
    what = result.what or (names[int(target)] if names else f"class {int(target)}")
    return f"{what}, score {float(score):.3g}"


def names_of(classes: Names | None, result: Relevance) -> tuple[str, ...]:
    """Read names of classes for the captions of a result; none where none are given.

    Raises:
        UsageError: no names can be read from what was given.
        ModelError: there are more or fewer than the model has outputs.
    """
    if classes is None:
        return ()
    from relprop.models.classes import read_classes, require_count

    names = read_classes(classes)
    require_count("classes", names, result.logits.shape[1] if result.logits.dim() == 2 else None)
    return names


def picture(ax: Axes, rgb: Floats, title: str | None = None) -> None:
    """Put an RGB picture (H, W, 3) on axes without ticks or frame; small ones keep their pixels visible."""
    ax.imshow(rgb, interpolation="lanczos" if min(rgb.shape[:2]) >= 128 else "nearest", vmin=0, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)


def outline(ax: Axes, mask: Any, text: str = "") -> None:
    """Draw the edge of a region over a picture on `ax`, white on black, and a text at its upper left.

    Args:
        ax: where `picture` drew.
        mask: (H, W), 1 inside and 0 outside; values between are the edge's, whose half is drawn.
        text: short; nothing is drawn of a region that is empty.
    """
    inside = np.pad(np.asarray(mask, dtype=np.float64), 1)  # so that the outline closes at the picture's edge
    if inside.max() < 0.5:
        return
    rows, columns = (np.arange(-1, side - 1) for side in inside.shape)
    for colour, width in (("black", 3.0), ("white", 1.4)):
        ax.contour(columns, rows, inside, levels=[0.5], colors=colour, linewidths=width)
    down, right = (int(np.flatnonzero((inside >= 0.5).any(axis)).min()) for axis in (1, 0))
    ax.set_xlim(-0.5, inside.shape[1] - 2.5)
    ax.set_ylim(inside.shape[0] - 2.5, -0.5)
    if text:
        box = {"facecolor": "black", "edgecolor": "none", "pad": 1.5, "alpha": 0.75}
        ax.text(right + 0.5, down + 0.5, text, size=9, color="white", va="top", ha="left", bbox=box)


def draw_bar(ax: Any, scale: Scale, cax: Axes | None = None) -> None:
    """Add the colour bar of `scale` beside `ax`, one or an array of axes (or into `cax`), in the unit that it names."""
    colours, norm, extend = _bar_parts(scale)
    where: dict[str, Any] = {"ax": ax, "fraction": 0.046, "pad": 0.03}
    if np.size(ax) > 1:  # beside many pictures a bar of the usual proportions would be as wide as one
        where = {"ax": ax, "fraction": 0.1, "pad": 0.02, "aspect": 28, "shrink": min(1.0, 1.8 / np.shape(ax)[0])}
    if cax is not None:
        where = {"cax": cax}
    figure = np.ravel(ax)[0].get_figure(root=True)
    assert figure is not None  # axes always have one
    bar = figure.colorbar(
        ScalarMappable(norm, colours), extend=extend, extendfrac=0.03, spacing="uniform", drawedges=False, **where
    )
    if scale.levels is None:
        bar.locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}")
        bar.update_ticks()
    else:
        bar.minorticks_off()
        stride = -(-len(scale.levels) // 17)  # more labels than this would overlap
        ticks = range(0, len(scale.levels), stride)
        bar.set_ticks(list(ticks), labels=[f"{scale.printed(scale.levels[at]):.2g}" for at in ticks])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, colors=QUIET)
    bar.set_label(scale.unit, fontsize=8, color=QUIET)


def _bar_parts(scale: Scale) -> tuple[ListedColormap, Normalize, str]:
    """Colours, norm and arrow ends of a colour bar; a level is one block."""
    if scale.levels is not None:
        count = len(scale.levels)
        return scale.bar_colours(), BoundaryNorm(np.arange(count + 1) - 0.5, count), "neither"
    high = scale.high or 1.0
    norm = Normalize(scale.printed(-high if scale.signed else 0.0), scale.printed(high))
    above, below = scale.largest > scale.high, scale.smallest < scale.low and scale.signed
    return scale.bar_colours(), norm, {(1, 1): "both", (1, 0): "max", (0, 1): "min"}.get((above, below), "neither")
