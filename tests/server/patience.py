"""An event loop whose clock goes on only while nothing happens: who waits long is tested in no time.

Nor does it go on while the machine is busy with something else, so nothing here is late by accident.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

_ON_ITS_WAY = 0.005
"""Seconds, of the machine's clock, for what is on its way from one socket of this process to another."""


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # a thread will wake the loop, and no timer
            return super().select()
        found = super().select(min(timeout, _ON_ITS_WAY))
        if not found:
            self.now += max(timeout, 0)
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(scene: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, on that clock: for timers and sockets of this process, not for threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.events.new_event_loop", _Loop)
        return asyncio.run(scene)
