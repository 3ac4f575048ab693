"""A report of what `relprop explain` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from relprop.errors import InputError
from relprop.models.classes import Names, read_classes, require_count
from relprop.report.document import Report
from relprop.report.of_comparisons import report_of_comparisons
from relprop.report.saved import read_comparisons, results_in
from relprop.sessions import Comparison


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
