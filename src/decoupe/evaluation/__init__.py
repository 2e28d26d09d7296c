"""Measures of predictions against truth: accumulators, NumPy in, plain numbers out. Imports no PyTorch."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

Own = TypeVar("Own", bound="Metric")


class Metric(Protocol):
    """One measure, or several that go together, over any number of pictures.

    What several processes have seen apart is merged to the result that one would have.
    """

    def update(self, prediction: Any, truth: Any) -> None:
        """Enter one picture."""

    def merge(self: Own, other: Own) -> None:
        """Enter what another accumulator of this kind has seen."""

    def result(self) -> dict[str, float]:
        """The measures by name, over all pictures so far.

        Raises:
            InputError: there were none.
        """
