"""What the page shows of a study, and the files that it offers for download."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from relprop import viz
from relprop.core.result.quantize import quantize
from relprop.explainers.post import Smooth
from relprop.report.book import Book
from relprop.report.pictures import common_scale, data_uri, half_on, shares, strip_of
from relprop.viz.colour import Floats, Scale, as_map, scale_of
from relprop.viz.overlay import as_picture, blend, squares

if TYPE_CHECKING:
    from PIL.Image import Image

    from relprop.report import Study
    from relprop.report.study import Stop


def result_document(study: Study, levels: int | None, smooth: float = 0.0) -> dict[str, Any]:
    """Return all that the page shows of a study, as JSON values; images are data URIs."""
    result = study.books[0][1]
    score, heatmap = float(result.score[0]), drawn(study, levels, smooth)
    scale = scale_of(heatmap, score=score, levels=levels is not None)
    assert result.ledger is not None  # Workbench.study always asks for one
    table = Book(depth=2)
    table.add(result.ledger)
    return {
        "name": study.name,
        "class": study.class_name,
        "target": study.target,
        "probability": study.probability,
        "score": score,
        "sum": float(result.relevance.double().sum()),
        "facts": [list(fact) for fact in study.facts],
        "top": [{"index": at, "name": name, "probability": p} for at, name, p in study.top],
        "original": data_uri(as_picture(study.picture)),
        "smooth": smooth,
        "overlay": data_uri(blend(study.picture, heatmap, scale)),
        "scale": _legend(scale),
        "half": half_on(as_map(result.heatmap[0])),
        "layers": [_layer_map(study.picture, layer, score) for layer in study.stops],
        "conservation": table.document(),
        "methods": _methods(study),
    }


def drawn(study: Study, levels: int | None, smooth: float = 0.0) -> Floats:
    """Return the heatmap as it is drawn: after a Gaussian of `smooth` pixels, and quantized, if that was asked for."""
    heatmap = study.books[0][1].heatmap
    heatmap = (Smooth(smooth)(heatmap) if smooth else heatmap)[0]
    return as_map(heatmap if levels is None else quantize(heatmap, levels))


def figure(study: Study, levels: int | None, smooth: float = 0.0) -> bytes:
    """Draw the image beside its relevance, with a colour bar, as PNG."""
    result = study.books[0][1]
    score, total = float(result.score[0]), float(result.relevance.double().sum())
    facts = dict(study.facts)
    caption = f"{facts['model']} · {facts['composite']} · relevance sums to {total:.6f} of {score:.6f}"
    size = f"{score:+.4f}" if study.probability is None else f"{100 * study.probability:.1f} %"
    made = viz.side_by_side(
        study.picture,
        drawn(study, levels, smooth),
        title=f"{study.class_name}   {size}",
        subtitle=f"{caption} · drawn after smooth:{smooth:g}" if smooth else caption,
        score=score,
        levels=levels is not None,
    )
    file = io.BytesIO()
    made.savefig(file, format="png")
    return file.getvalue()


def heatmap_npy(study: Study) -> bytes:
    """Return the raw heatmap (H, W), float32, never quantized, as .npy."""
    file = io.BytesIO()
    np.save(file, study.books[0][1].heatmap[0].float().numpy())
    return file.getvalue()


def relevance_npz(study: Study) -> bytes:
    """Return relevance (C, H, W), logits, target, score, the maps of other methods and of layers, as .npz."""
    result = study.books[0][1]
    arrays = {name: getattr(result, name)[0].numpy() for name in ("relevance", "logits", "target", "score")}
    arrays |= {f"method/{found.name}": found.heatmap.numpy() for found in study.maps if found.heatmap is not None}
    arrays |= {f"layer/{layer.name}": layer.heatmap.numpy() for layer in study.stops}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _layer_map(image: Image, layer: Stop, score: float) -> dict[str, Any]:
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


def _methods(study: Study) -> dict[str, Any]:
    """Return the maps of all methods on one scale."""
    row = strip_of(study)
    maps = [shares(found.heatmap) for found in study.maps if found.heatmap is not None]
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
