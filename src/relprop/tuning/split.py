"""Images to choose on, and images to report: never the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from relprop.data import Sample
from relprop.data.sampling import balanced
from relprop.errors import UsageError


def split_samples(
    samples: Sequence[Sample], selection: int, report: int, seed: int = 0, used: Collection[str] = ()
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples into those for selection and to report, each with equally many of each class as far as that goes.

    Args:
        samples: of the data set.
        selection, report: how many.
        seed: of both draws.
        used: ids that may not be reported, since something that is compared was chosen on them.

    Raises:
        UsageError: there are not enough samples for both.
    """
    if selection > len(samples):
        raise UsageError(f"{selection} images to choose on are more than the {len(samples)} there are; ask for fewer")
    chosen = balanced(samples, selection, seed)
    taken = {sample.id for sample in chosen} | set(used)
    rest = [sample for sample in samples if sample.id not in taken]
    if report > len(rest):
        others = f", and layer weights among the references were chosen on {len(used)}" if used else ""
        raise UsageError(
            f"of {len(samples)} images {selection} are to choose on{others}: that leaves {len(rest)} to report on, not "
            f"{report}; ask for fewer, no image can be both"
        )
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
