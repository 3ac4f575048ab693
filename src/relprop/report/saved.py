"""What `relprop explain` leaves in a folder, read back as comparisons, and a report of it.

OUT/NAME/relevance.safetensors, manifest.json   the result (`Relevance.save`)
OUT/NAME/picture.png, about.json                what the network saw, and what a reader will want to know
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from relprop.core.result.combine import parse_weights
from relprop.core.result.region import sentence
from relprop.core.result.relevance import Relevance
from relprop.documents import read_object
from relprop.errors import InputError
from relprop.files import write_json
from relprop.images import read_image
from relprop.models.classes import Names, read_classes, require_count
from relprop.report.document import Report
from relprop.report.of_comparisons import report_of_comparisons
from relprop.sessions import Comparison, Map

PICTURE, ABOUT, MANIFEST = "picture.png", "about.json", "manifest.json"


def annotate(folder: Path, picture: Image, about: dict[str, Any]) -> None:
    """Put beside a saved result the picture that the network saw, and facts about it."""
    picture.save(folder / PICTURE)
    write_json(folder / ABOUT, about)


def is_run(path: Path) -> bool:
    """Whether a path is a run of `relprop evaluate`."""
    return (path / MANIFEST).is_file() and (path / "shards").is_dir()


def results_in(path: Path) -> list[Path]:
    """List the saved results that a path names: itself, or the folders in it. Empty if there are none."""
    if _is_result(path):
        return [path]
    return sorted(entry for entry in path.iterdir() if _is_result(entry)) if path.is_dir() else []


def read_comparison(folder: Path) -> tuple[Comparison, dict[str, Any]]:
    """Read one saved result as a comparison with one map, and the facts beside it.

    Raises:
        InputError: it cannot be read, holds more than one explanation, or has no picture beside it.
    """
    result = Relevance.load(folder)
    if result.target.numel() != 1 or result.relevance.dim() != 4:
        raise InputError(f"{folder} holds {result.target.numel()} explanations; a report reads results of one each")
    if not (folder / ABOUT).exists():
        raise InputError(
            f"{folder} holds a result without {ABOUT}, so its picture is not known; run `relprop explain` again"
        )
    about = read_object(folder / ABOUT, InputError)
    label = str(about.get("composite", result.composite or folder.parent.name))
    heatmap = result.heatmap[0]
    if "combine" in about:
        label, heatmap = f"{label} · {about['combine']}", result.combine(parse_weights(str(about["combine"])))[0]
    comparison = Comparison(
        folder.name,
        read_image(folder / PICTURE),
        int(result.target[0]),
        str(about.get("class", f"class {int(result.target[0])}")),
        None if result.what else float(result.probability[0]),
        (Map(label, heatmap),),
        results=((label, result),),
        top=_top(folder, about.get("top", [])),
        facts=tuple((key, str(about[key])) for key in ("model", "weights", "start") if key in about),
        regions=_regions(folder, about.get("regions", [])),
    )
    return comparison, about


def _top(folder: Path, found: Any) -> tuple[tuple[int, str, float], ...]:
    try:
        return tuple((int(at), str(name), float(p)) for at, name, p in found)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{folder / ABOUT} lists the likeliest classes as {repr(found)[:60]}") from None


def _regions(folder: Path, found: Any) -> tuple[str, ...]:
    """What `relprop explain --box` measured, in sentences."""
    try:
        return tuple(map(sentence, found))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{folder / ABOUT} lists regions as {repr(found)[:60]}") from None


def read_comparisons(folders: Sequence[Path]) -> tuple[list[Comparison], list[str]]:
    """Read saved results; those of one picture and class become one comparison, with a map each.

    Returns:
        The comparisons, and the commands that made them.

    Raises:
        InputError: one of them cannot be read.
    """
    found: dict[tuple[str, int, bytes], Comparison] = {}
    commands: dict[str, None] = {}
    for folder in folders:
        comparison, about = read_comparison(folder)
        if "command" in about:
            commands[str(about["command"])] = None
        key = (comparison.name, comparison.target, comparison.picture.tobytes())
        found[key] = _joined(found[key], comparison) if key in found else comparison
    return list(found.values()), list(commands)


def _joined(one: Comparison, other: Comparison) -> Comparison:
    """Set the other's map beside those of the first; a name that is there already gets a number."""
    taken = {found.name for found in one.maps}
    name, count = other.maps[0].name, 2
    while name in taken:
        name, count = f"{other.maps[0].name} ({count})", count + 1
    results = (*one.results, (name, other.results[0][1]))
    return replace(one, maps=(*one.maps, replace(other.maps[0], name=name)), results=results)


def _is_result(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / "relevance.safetensors").is_file()


def report_of_results(paths: Sequence[Path], *, classes: Names | None = None) -> Report:
    """Make the report of saved results; those of one picture and class stand side by side.

    Args:
        paths: folders that `relprop explain --out` wrote, or single results in them.
        classes: names of the model's outputs, as `relprop.models.load_model` takes them; by default those saved with
            the results.

    Raises:
        InputError: one of them holds no result, or one that cannot be read.
        UsageError: no names can be read from `classes`.
        ModelError: there are more names or fewer than the model has outputs.
    """
    folders: list[Path] = []
    for path in paths:
        found = results_in(path)
        if not found:
            raise InputError(f"{path} holds no saved result; `relprop explain --out {path.name}` makes one")
        folders += found
    comparisons, commands = read_comparisons(list(dict.fromkeys(folders)))
    return report_of_comparisons(named(comparisons, classes), commands)


def named(comparisons: Sequence[Comparison], classes: Names | None) -> Sequence[Comparison]:
    """Call the classes of comparisons by other names, if any are given.

    Raises:
        UsageError: no names can be read from `classes`.
        ModelError: there are more names or fewer than the model has outputs.
    """
    if classes is None:
        return comparisons
    names = read_classes(classes)
    return [_named(comparison, names) for comparison in comparisons]


def _named(comparison: Comparison, names: Sequence[str]) -> Comparison:
    """Call the classes of a comparison by other names; what a contrast explained stays in the words it was saved in."""
    for _, result in comparison.results:
        require_count(comparison.name, names, result.logits.shape[1] if result.logits.dim() == 2 else None)
    top = tuple((at, names[at] if at < len(names) else name, p) for at, name, p in comparison.top)
    if comparison.probability is None:
        return replace(comparison, top=top)
    return replace(comparison, class_name=names[comparison.target], top=top)
