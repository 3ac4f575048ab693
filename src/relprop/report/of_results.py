"""A report of what `relprop explain` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.errors import InputError
from relprop.report.of_comparisons import report_of_comparisons
from relprop.report.saved import read_comparisons, results_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from relprop.report.document import Report


def report_of_results(paths: Sequence[Path]) -> Report:
    """Make the report of saved results; those of one picture and class stand side by side.

    Args:
        paths: folders that `relprop explain --out` wrote, or single results in them.

    Raises:
        InputError: one of them holds no result, or one that cannot be read.
    """
    folders: list[Path] = []
    for path in paths:
        found = results_in(path)
        if not found:
            raise InputError(f"{path} holds no saved result; `relprop explain --out {path.name}` makes one")
        folders += found
    comparisons, commands = read_comparisons(list(dict.fromkeys(folders)))
    return report_of_comparisons(comparisons, commands)
