"""What decoupe warns of. It is told where decoupe was called, not where in decoupe it arose.

What libraries beneath it log of their own work is not told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")
Place = tuple[str, int]

_PACKAGE = str(Path(__file__).parent) + os.sep
_place: ContextVar[Place | None] = ContextVar("place", default=None)


class FramesWarning(UserWarning):
    """A picture of several frames or pages, of which the first was read."""


class VideoWarning(UserWarning):
    """A video that is shorter than it tells, of which what there is was read; damaged sound; interlacing."""


class SizeWarning(UserWarning):
    """A prediction at a size at which the weights are not known to work, or that is seen in tiles."""


class LabelWarning(UserWarning):
    """A picture of which some of the labels that were asked for were cut, and others are not seen in it."""


class CompileWarning(UserWarning):
    """A model that is being compiled, which takes its time, or that cannot be."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn of what the caller of decoupe should know."""
    filename, line = _place.get() or caller()
    warnings.warn_explicit(message, category, filename, line)


def caller() -> Place:
    """File and line from which decoupe was called."""
    place = "decoupe", 1
    for frame, line in traceback.walk_stack(sys._getframe()):
        place = frame.f_code.co_filename, line
        if not place[0].startswith(_PACKAGE):
            break
    return place


def called_here(function: Callable[P, Result]) -> Callable[P, Result]:
    """``function`` for another thread; what it warns of is told where decoupe is called now."""
    place = _place.get() or caller()

    def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        _place.set(place)
        return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def hushed(logger: str | None = None) -> Iterator[None]:
    """Without the advice that a library logs, None on the root logger, of what is right as it is."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
