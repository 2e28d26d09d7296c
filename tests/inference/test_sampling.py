from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from decoupe.inference import sampling
from decoupe.inference.sampling import on_threads


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
