"""Turns that threads take."""

from __future__ import annotations

import os
import threading


class Turns:
    """A lock that a forked process has of its own: ``with turns():``.

    The threads that held it when the process forked are not in the new one, and would never give it back.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def __call__(self) -> threading.Lock:
        """The lock of this process."""
        return self._locks.setdefault(os.getpid(), threading.Lock())
