from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from decoupe.inference import results
from decoupe.inference.once import computed_once
from decoupe.inference.results import Matte


@dataclass(frozen=True)
class Example:
    number: int

    @computed_once
    def double(self) -> list[int]:
        """Twice the number."""
        return [2 * self.number]


def test_it_is_computed_once_for_each_instance() -> None:
    three, four = Example(3), Example(4)
    assert (three.double, four.double) == ([6], [8])
    assert three.double is three.double
    assert three == Example(3)
    assert Example.double.__doc__ == "Twice the number."


def test_threads_find_foregrounds_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """functools.cached_property has one lock for all mattes before Python 3.12."""
    together = threading.Barrier(4)

    def estimate(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        together.wait(10)  # fails where the four do not meet
        return image

    monkeypatch.setattr(results, "estimate_foreground", estimate)
    mattes = [Matte(np.ones((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8)) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert [image.size for image in threads.map(Matte.cutout, mattes)] == [(2, 2)] * 4
