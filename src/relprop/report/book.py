"""Where `Book` was: it is `relprop.report.conservation.ConservationTable`."""

from relprop.report.conservation import ConservationTable as Book

__all__ = ["Book"]
