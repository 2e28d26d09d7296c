"""Scoring many pictures: over processes, each picture's failure told, memory that does not grow with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from decoupe.cores import pool_size
from decoupe.datasets.shards import Source
from decoupe.errors import InputError
from decoupe.evaluation.files import Match, fitted, read_matte
from decoupe.evaluation.mattes import MatteScores, Scores, score

WAITING = 8
"""Pictures for each process that are handed out before the first of them is back."""


class Job(NamedTuple):
    """A picture to score: its prediction is a file, has just been made, or could not be."""

    name: str
    prediction: Path | NDArray[np.uint8] | InputError
    truth: Source


class Outcome(NamedTuple):
    """What became of one picture.

    Attributes:
        name: of the picture.
        scores: None where it failed.
        problem: why, in one line.
        resized: whether the prediction had another size than its truth.
        soft: whether prediction and truth hold more than black and white.
        brightest: of the truth's pixels, from 0 to 1.
    """

    name: str
    scores: Scores | None
    problem: str = ""
    resized: bool = False
    soft: tuple[bool, bool] = (False, False)
    brightest: float = 0.0


@dataclass
class Evaluation:
    """The scores of many pictures.

    Attributes:
        scores: over all of them.
        names: of the pictures, in the order of ``scores.values``.
        problems: one line for each that could not be scored.
        notes: what a user should know of the rest.
    """

    scores: MatteScores
    names: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def jobs_of(pairs: Iterable[Match]) -> Iterator[Job]:
    """Files to score."""
    return (Job(pair.name, pair.prediction, pair.truth) for pair in pairs)


def evaluate(
    jobs: Iterable[Job],
    columns: Sequence[str],
    *,
    stretch: bool = False,
    workers: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Score pictures.

    Args:
        jobs: taken as the processes need them, so that predictions may be made on the way.
        columns: names in `decoupe.evaluation.measures.COLUMNS`.
        stretch: see `decoupe.evaluation.mattes.score`.
        workers: processes; 1 scores in this one. Several import the calling script anew, which
            therefore does its work under ``if __name__ == "__main__":``.
        advance: called after each picture.

    Raises:
        InputError: an unknown column.
    """
    evaluation = Evaluation(MatteScores(columns, stretch=stretch))
    resized, soft, brightest = [], [False, False], 0.0
    for outcome in _outcomes(jobs, partial(score_job, columns=tuple(columns), stretch=stretch), workers):
        if outcome.scores is None:
            evaluation.problems.append(outcome.problem)
        else:
            evaluation.scores.add(outcome.scores)
            evaluation.names.append(outcome.name)
        resized += [outcome.name] if outcome.resized else []
        soft = [was or now for was, now in zip(soft, outcome.soft, strict=True)]
        brightest = max(brightest, outcome.brightest)
        advance()
    if 0 < brightest <= 0.5:
        evaluation.notes.append(
            "no truth holds a subject, pixels above half of white: do they hold 0 and 1 instead of 0 and 255?"
        )
    if resized:
        evaluation.notes.append(f"{len(resized)} predictions were resized to their truth, {resized[0]} first")
    if soft == [False, True]:
        evaluation.notes.append(
            "every prediction is black and white, and truths are not: are the folders swapped?"
        )
    return evaluation


def score_job(job: Job, columns: Sequence[str], *, stretch: bool) -> Outcome:
    """Read and score one picture; what is wrong with it is told, not raised."""
    try:
        if isinstance(job.prediction, InputError):
            raise job.prediction
        truth = read_matte(job.truth)
        filed = isinstance(job.prediction, Path)
        prediction = read_matte(job.prediction) if isinstance(job.prediction, Path) else job.prediction
        soft = (_is_soft(prediction), _is_soft(truth))
        same = fitted(prediction, truth, str(job.prediction) if filed else job.name)
        scores = score(same, truth, columns, stretch=stretch)
        return Outcome(job.name, scores, "", same is not prediction, soft, _brightest(truth))
    except InputError as error:
        return Outcome(job.name, None, problem_of(job.name, error))


def problem_of(name: str, error: InputError) -> str:
    """What is wrong with a picture, in a line that names it: "one" is not in "none"."""
    line = str(error)
    return line if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line) else f"{name}: {line}"


def _is_soft(matte: NDArray[Any]) -> bool:
    return bool(((matte > 0) & (matte < np.iinfo(matte.dtype).max)).any())


def _brightest(matte: NDArray[Any]) -> float:
    return float(matte.max()) / np.iinfo(matte.dtype).max


def _outcomes(jobs: Iterable[Job], work: Callable[[Job], Outcome], workers: int) -> Iterator[Outcome]:
    """The outcomes in the jobs' order; a few jobs for each process are under way at any time."""
    if workers <= 1:
        yield from map(work, jobs)
        return
    jobs = iter(jobs)
    with ProcessPoolExecutor(
        pool_size(workers), get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        waiting: list[Future[Outcome]] = [
            pool.submit(work, job) for job in itertools.islice(jobs, WAITING * workers)
        ]
        try:
            while waiting:
                outcome = waiting.pop(0).result()
                waiting += [pool.submit(work, job) for job in itertools.islice(jobs, 1)]
                yield outcome
        finally:
            pool.shutdown(cancel_futures=True)
