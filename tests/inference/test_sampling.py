from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.inference import sampling
from decoupe.inference.sampling import for_chunks, interpolated, on_threads


@pytest.fixture(params=[1, 4])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(sampling, "cores", lambda: request.param)
    sampling._threads.cache_clear()
    yield request.param
    sampling._threads.cache_clear()


def test_results_are_in_the_order_of_the_parts(cores: int) -> None:
    for count in (0, 1, 2, 50):
        assert on_threads(lambda part: part * part, range(count)) == [part * part for part in range(count)]


def test_callers_on_several_threads_do_not_wait_for_one_another(cores: int) -> None:
    """The first part of each of six callers waits until all six have begun."""
    together = threading.Barrier(6)

    def work(part: int) -> None:
        if part == 0:
            together.wait(10)

    with ThreadPoolExecutor(6) as callers:
        list(callers.map(lambda _: on_threads(work, range(2)), range(6)))


def test_where_no_thread_starts_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def submit(self, work: object) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(sampling, "_threads", lambda process: (Full(), 3))
    assert on_threads(abs, [-1, -2, -3]) == [1, 2, 3]


def test_work_may_be_divided_again(cores: int) -> None:
    assert on_threads(lambda part: sum(on_threads(abs, range(part))), range(9))[-1] == 28


def test_a_part_that_fails_is_told_and_ends_the_rest(cores: int) -> None:
    done = []

    def work(part: int) -> None:
        if part == 3:
            raise ValueError("part 3")
        done.append(part)

    with pytest.raises(ValueError, match="part 3"):
        on_threads(work, range(1000))
    assert on_threads(abs, [-1, 2]) == [1, 2]
    if cores == 1:
        assert done == [0, 1, 2]


sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(
    coarse=st.tuples(sides, sides),
    fine=st.tuples(sides, sides),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_single_pixels_are_those_of_the_whole_enlargement(
    coarse: tuple[int, int], fine: tuple[int, int], share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.random((2, *coarse), np.float32)
    whole = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], fine, mode="bilinear")[0]
    places = np.flatnonzero(rng.random(fine) <= share)
    seen = np.zeros((2, fine[0] * fine[1]), np.float32)

    def see(some: np.ndarray) -> None:
        seen[:, some] += interpolated(maps, some, fine)

    for_chunks(see, places, fine[1])
    np.testing.assert_allclose(seen[:, places], whole.reshape(2, -1)[:, places], atol=1e-5)


def test_a_few_pixels_of_a_tall_picture_are_not_all_of_its_rows() -> None:
    places, seen = np.arange(0, 9000 * 40, 40), []
    for_chunks(seen.append, places, 40)
    assert max(some[-1] // 40 - some[0] // 40 for some in seen) < sampling._BAND
    np.testing.assert_array_equal(np.concatenate(sorted(seen, key=lambda some: some[0])), places)
