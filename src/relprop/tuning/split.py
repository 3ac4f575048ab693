"""Images to choose on, and images to report: never the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relprop.data.sampling import balanced
from relprop.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from relprop.data import Sample


def split_samples(
    samples: Sequence[Sample], selection: int, report: int, seed: int = 0
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Deal samples to selection and to report, each with equally many of each class as far as that goes.

    Raises:
        UsageError: there are not enough samples for both.
    """
    if selection + report > len(samples):
        raise UsageError(
            f"{selection} images to choose on and {report} others to report on are more than the {len(samples)} there "
            "are; ask for fewer, no image can be both"
        )
    chosen = balanced(samples, selection, seed)
    used = {sample.id for sample in chosen}
    rest = [sample for sample in samples if sample.id not in used]
    return chosen, balanced(rest, report, seed)


def require_disjoint(selection: Iterable[str], report: Iterable[str]) -> None:
    """Refuse to report on images that a choice was made on.

    Raises:
        UsageError: ids are in both; the message names some.
    """
    both = sorted(set(selection) & set(report))
    if both:
        raise UsageError(
            f"{len(both)} image(s) would be reported that the choice was made on, such as {', '.join(both[:3])}; what "
            "was chosen on an image looks better there than it is: report others"
        )
