"""One map of a result as a notebook shows it: a widget where anywidget is installed, a figure where it is not.

The widget fades between the photograph and the map, goes through the separator layers that were kept, and says which
share of the score a box holds. Its page is `widget.js`.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop.core.result.region import coverage, region_sum
from relprop.errors import InputError, MissingDependencyError, require
from relprop.explainers.post import Smooth
from relprop.viz.colour import Scale, scale_of
from relprop.viz.figure import is_map, one_of
from relprop.viz.grid import side_by_side
from relprop.viz.overlay import as_picture, blend, caption, encoded, names_of, overlay, uri_of

if TYPE_CHECKING:
    from torch import Tensor

    from relprop.core.result.relevance import Relevance
    from relprop.models.classes import Names

PIXELS = "pixels"
"""Name of the map at the image itself."""

_DPI = 80


def view(
    result: Relevance, over: Any = None, *, index: Any = 0, classes: Names | None = None, smooth: float = 1.0
) -> Any:
    """Show one map of a result: see `Relevance.show`."""
    if not is_map(result):
        raise InputError(f"only maps of images can be shown, not relevance of shape {tuple(result.relevance.shape)}")
    chosen = {name: one_of(result, found, index) for name, found in _maps(result).items()}
    _, score, target = chosen[PIXELS]
    title = caption(result, target, score, names_of(classes, result))
    maps = {name: found.detach().cpu().double() for name, (found, _, _) in chosen.items()}
    shown = Shown(title, float(score), maps, over, smooth)
    try:
        return _widget_class()(shown)
    except MissingDependencyError as missing:
        return Static(shown, f"The sliders and the sums of boxes need a library: {missing}")


def _maps(result: Relevance) -> dict[str, Tensor]:
    """Maps (N, H, W) or (N, K, H, W): at the pixels, then at each separator layer that was kept, towards the output."""
    separators = result.separators
    if separators is None:
        return {PIXELS: result.heatmap}
    names = [layer if side == "output" else f"{layer}@{side}" for layer, side in result.kept]
    names.sort(key=lambda name: "@" not in name)  # of a tensor that leaves one layer and enters another, the former
    positions = {separators.positions[name]: name for name in names if separators.positions.get(name)}
    return {PIXELS: result.heatmap} | {name: result.combine({name: 1.0}) for _, name in sorted(positions.items())}


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of one image."""

    title: str  # what is explained, and its score
    score: float  # the relevance that the backward pass started with
    maps: dict[str, Tensor]  # (H, W), float64, by the name of the layer, `PIXELS` first; each holds the same total
    over: Any = None  # the picture that the network saw, see `relprop.viz.blend`; None for the maps alone
    smooth: float = 0.0  # width in pixels of the Gaussian that the map at the pixels is drawn after

    @cached_property
    def drawn(self) -> dict[str, Tensor]:
        """The maps as they are drawn; those of layers are smooth as they are."""
        pixels = self.maps[PIXELS]
        return self.maps | ({PIXELS: Smooth(self.smooth)(pixels[None])[0]} if self.smooth else {})

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Colours of each map, on a scale of its own."""
        return {name: scale_of(values, score=self.score) for name, values in self.drawn.items()}

    def note(self, name: str) -> str:
        """What the colours of a map span, and what they leave out."""
        scale = self.scales[name]
        after = f"; drawn after a Gaussian of {self.smooth:g} px" if self.smooth and name == PIXELS else ""
        return f"{scale.note}{'; blue speaks against it' if scale.signed else ''}{after}"

    def held(self, name: str, box: Sequence[float]) -> float:
        """Relevance of a box (x0, y0, x1, y1) in the map of a layer."""
        return float(region_sum(self.maps[name][None], box)[0])

    def jpeg(self) -> bytes:
        """The map at the pixels as a figure, beside the photograph if there is one."""
        values, scale = self.drawn[PIXELS], self.scales[PIXELS]
        if self.over is None:
            figure: Any = overlay(None, values, scale=scale, title=self.title).figure
        else:
            after = f"drawn after a Gaussian of {self.smooth:g} px" if self.smooth else ""
            figure = side_by_side(self.over, values, scale=scale, title=self.title, subtitle=after)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="jpeg", dpi=_DPI, pil_kwargs={"quality": 85})
        return buffer.getvalue()

    def state(self) -> dict[str, Any]:
        """What `widget.js` reads."""
        height, width = self.maps[PIXELS].shape
        return {
            "title": self.title,
            "score": self.score,
            "size": [height, width],
            "names": list(self.maps),
            "notes": [self.note(name) for name in self.maps],
            "maps": np.stack([values.numpy() for values in self.maps.values()]).astype("<f8").tobytes(),
            "photograph": b"" if self.over is None else encoded(as_picture(self.over)),
            "overlays": [encoded(blend(self.over, values, self.scales[name])) for name, values in self.drawn.items()],
            "box": [0, 0, width, height],
        }


@dataclass(frozen=True, eq=False)
class Static:
    """The figure alone, and why there is no more."""

    shown: Shown
    why: str

    def _repr_html_(self) -> str:
        alt = html.escape(f"relevance of the pixels: {self.shown.title}")
        image = f'<img alt="{alt}" style="max-width: 100%" src="{uri_of(self.shown.jpeg(), "jpeg")}">'
        return f"<div>{image}<p>{html.escape(self.why)}</p></div>"

    def __repr__(self) -> str:
        return f"{self.shown.title}. {self.why}"


@cache
def _widget_class() -> Any:
    """The class of the widget, made when it is first asked for: anywidget is optional and takes long to import."""
    anywidget: Any = require("anywidget", "notebook")
    traitlets: Any = require("traitlets", "notebook")

    def synced(kind: Any, *arguments: Any) -> Any:
        return kind(*arguments).tag(sync=True)

    class RelevanceWidget(anywidget.AnyWidget):  # type: ignore[misc]
        """A map over its image, as `Relevance.show` describes it; `fade`, `layer` and `box` follow its page."""

        _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        title = synced(traitlets.Unicode)
        score = synced(traitlets.Float)
        size = synced(traitlets.List)
        names = synced(traitlets.List)
        notes = synced(traitlets.List)
        maps = synced(traitlets.Bytes)
        photograph = synced(traitlets.Bytes)
        overlays = synced(traitlets.List)
        fade = traitlets.Float(0.85, min=0.0, max=1.0).tag(sync=True)
        layer = synced(traitlets.Int, 0)
        box = traitlets.List(traitlets.Int(), [0, 0, 1, 1], minlen=4, maxlen=4).tag(sync=True)
        _checked = traitlets.validate("layer", "box")(_fitting)

        def __init__(self, shown: Shown) -> None:
            super().__init__(**shown.state())
            self.shown = shown

        @property
        def relevance(self) -> float:
            """Relevance of the box in the map of the layer that is chosen."""
            return float(self.shown.held(self.names[self.layer], self.box))

        @property
        def share(self) -> float:
            """The same as a share of the score; NaN of a score of zero."""
            return float(self.relevance / self.score) if self.score else math.nan

        def __repr__(self) -> str:
            return f"{self.shown.title}. The box {self.box} holds {self.relevance:.4g}"

        def _repr_mimebundle_(self, **options: Any) -> Any:
            """The widget, and the figure for a page that cannot run it."""
            data, metadata = super()._repr_mimebundle_(**options)
            return data | {"image/jpeg": base64.b64encode(self.shown.jpeg()).decode("ascii")}, metadata

    return RelevanceWidget


def _fitting(widget: Any, proposal: Any) -> Any:
    """What was proposed for the layer or the box of a widget, if there is such a layer, or such a box of the image."""
    name, value = proposal["trait"].name, proposal["value"]
    if name == "layer" and not 0 <= value < len(widget.names):
        raise InputError(f"there is no layer {value}: they are numbered from 0 to {len(widget.names) - 1}")
    if name == "box":
        coverage(value, tuple(widget.size))
    return value
