"""What the page shows of a comparison, and the files that it offers for download."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from relprop import viz
from relprop.core.result.quantize import quantize
from relprop.explainers.post import Smooth
from relprop.report.conservation import ConservationTable
from relprop.report.pictures import common_scale, data_uri, half_on, row_of, shares
from relprop.sessions import Comparison, LayerMap, Map
from relprop.viz.colour import Floats, Scale, as_map, scale_of
from relprop.viz.overlay import as_picture, blend, encoded, squares

HEATMAPS = ("heatmap.npy", "lrp-cuts.npy")
"""Files of the two maps that the page shows side by side: under the rules that were chosen, and of lrp-cuts."""


def result_document(comparison: Comparison, levels: int | None, smooth: float = 0.0) -> dict[str, Any]:
    """Return all that the page shows of a comparison, as JSON values; images are data URIs."""
    result = comparison.results[0][1]
    score = float(result.score[0])
    assert result.ledger is not None  # Session.comparison always asks for one
    table = ConservationTable(depth=2)
    table.add(result.ledger)
    return {
        "name": comparison.name,
        "class": comparison.class_name,
        "target": comparison.target,
        "probability": comparison.probability,
        "score": score,
        "sum": float(result.relevance.double().sum()),
        "size": list(comparison.picture.size),
        "facts": [list(fact) for fact in comparison.facts],
        "top": [{"index": at, "name": name, "probability": p} for at, name, p in comparison.top],
        "original": data_uri(as_picture(comparison.picture)),
        "smooth": smooth,
        "maps": [_map(comparison, at, score, levels, smooth) for at in range(len(HEATMAPS))],
        "layers": [_layer_map(comparison.picture, layer, score) for layer in comparison.layers],
        "conservation": table.document(),
        "methods": _methods(comparison),
    }


def drawn(heatmap: Tensor, levels: int | None, smooth: float = 0.0) -> Floats:
    """Return a heatmap (H, W) as it is drawn: after a Gaussian of `smooth` pixels, and quantized, if that is asked."""
    smoothed = Smooth(smooth)(heatmap[None]) if smooth else heatmap[None]
    return as_map((smoothed if levels is None else quantize(smoothed, levels))[0])


def _map(comparison: Comparison, at: int, score: float, levels: int | None, smooth: float) -> dict[str, Any]:
    """One of the two large maps, with the file that holds its floats; without them where the method failed."""
    found = comparison.maps[at]
    words = "relevance of late layers and of pixels, combined" if at else "relevance of each pixel"
    about = {"title": title(comparison, found), "about": words, "file": HEATMAPS[at], "error": found.error}
    if found.heatmap is None:
        return about
    heatmap = drawn(found.heatmap, levels, smooth)
    scale = scale_of(heatmap, score=score, levels=levels is not None)
    overlay = data_uri(blend(comparison.picture, heatmap, scale))
    return about | {"overlay": overlay, "scale": _legend(scale), "half": half_on(as_map(found.heatmap))}


def title(comparison: Comparison, found: Map) -> str:
    """Name of a map, for people."""
    if found is not comparison.maps[0]:
        return found.name
    rules = dict(comparison.facts)["composite"]
    return "The paper's map" if rules == "paper" else f"LRP by {rules}"


def figure(comparison: Comparison, levels: int | None, smooth: float = 0.0) -> bytes:
    """Draw the image beside its two maps, with their colour bars, as PNG."""
    result = comparison.results[0][1]
    score, total = float(result.score[0]), float(result.relevance.double().sum())
    facts = dict(comparison.facts)
    caption = f"{facts['model']} · {facts['composite']} · relevance sums to {total:.6f} of {score:.6f}"
    size = f"{score:+.4f}" if comparison.probability is None else f"{100 * comparison.probability:.1f} %"
    first, *others = [found for found in comparison.maps[: len(HEATMAPS)] if found.heatmap is not None]
    made = viz.side_by_side(
        comparison.picture,
        drawn(result.heatmap[0], levels, smooth),
        title=f"{comparison.class_name}   {size}",
        subtitle=f"{caption} · drawn after smooth:{smooth:g}" if smooth else caption,
        score=score,
        levels=levels is not None,
        name=title(comparison, first),
        others=[(one.name, drawn(one.heatmap, levels, smooth), score) for one in others if one.heatmap is not None],
    )
    file = io.BytesIO()
    made.savefig(file, format="png")
    return file.getvalue()


def heatmap_npy(heatmap: Tensor) -> bytes:
    """Return a raw heatmap (H, W), float32, never quantized, as .npy."""
    file = io.BytesIO()
    np.save(file, heatmap.float().numpy())
    return file.getvalue()


def thumbnail(image: Image) -> bytes:
    """Return an image as a small JPEG."""
    image.thumbnail((240, 240))
    return encoded(as_picture(image), "jpeg", quality=85)


def relevance_npz(comparison: Comparison) -> bytes:
    """Return relevance (C, H, W), logits, target, score, the maps of other methods and of layers, as .npz."""
    result = comparison.results[0][1]
    arrays = {name: getattr(result, name)[0].numpy() for name in ("relevance", "logits", "target", "score")}
    arrays |= {f"method/{found.name}": found.heatmap.numpy() for found in comparison.maps if found.heatmap is not None}
    arrays |= {f"layer/{layer.name}": layer.heatmap.numpy() for layer in comparison.layers}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _layer_map(image: Image, layer: LayerMap, score: float) -> dict[str, Any]:
    """Relevance at one layer, each value as a square, over the image."""
    enlarged = squares(layer.heatmap, image.size[::-1])
    scale = scale_of(enlarged, score=score)
    size = " x ".join(map(str, layer.shape))
    return {
        "name": layer.name,
        "size": size,
        "sum": layer.total,
        "image": data_uri(blend(image, enlarged, scale)),
    }


def _methods(comparison: Comparison) -> dict[str, Any]:
    """Return the maps of all methods on one scale."""
    row = row_of(comparison)
    maps = [shares(found.heatmap) for found in comparison.maps if found.heatmap is not None]
    panels = [
        {"name": panel.caption, "image": panel.uri, "alt": panel.alt, "note": panel.note} for panel in row.panels[1:]
    ]
    return {"panels": panels, "scale": _legend(common_scale(maps)), "unit": row.unit}


def _legend(scale: Scale) -> dict[str, Any]:
    colours = np.asarray(scale.bar_colours()(np.linspace(0, 1, 32)))
    sign = "" if scale.score is None else " %"
    ends = [f"{scale.printed(value):.2g}{sign}" for value in (scale.low, scale.high)]
    return {
        "low": ends[0],
        "high": ends[1],
        "unit": scale.unit,
        "note": scale.note,
        "colours": ["#" + "".join(f"{round(255 * part):02x}" for part in row[:3]) for row in colours],
    }
