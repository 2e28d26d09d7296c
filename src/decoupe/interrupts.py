"""What Ctrl-C does to the command: in its work the first one interrupts; before, after and again, it leaves.

Little is imported here, since nothing is caught before this is.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells count it: 128 and the signal's number."""


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # An exception would be lost or made another one in modules of C that are just being imported.
    if "rich.progress" in sys.modules and os.isatty(2):
        os.write(2, b"\x1b[?25h\n")  # a bar hides the cursor
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # Threads are waited for now. One more exception would break that off, and Python would end under them.
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def leave_at_once() -> None:
    """Let Ctrl-C end the process, which has nothing to put away; not where it is ignored, as behind nohup."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        signal.signal(signal.SIGINT, _leave)


def interrupt_again() -> bool:
    """Undo `leave_at_once` until the next Ctrl-C, which raises KeyboardInterrupt. Whether it was undone."""
    leaving = signal.getsignal(signal.SIGINT) is _leave
    if leaving:
        signal.signal(signal.SIGINT, _interrupt)
    return leaving


def leave() -> NoReturn:
    """End the process after Ctrl-C: while Python ends by itself, one more would kill it."""
    import contextlib

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: it is None
            stream.flush()
    os._exit(INTERRUPTED)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a module of C that is imported makes an ImportError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
