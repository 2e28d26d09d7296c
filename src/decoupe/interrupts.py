"""What Ctrl-C does to the command: before and after its work it leaves at once, in between it interrupts.

Little is imported here, since nothing is caught before this is.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells count it: 128 and the signal's number."""


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # An exception would be lost or made another one in modules of C that are just being imported.
    os._exit(INTERRUPTED)


def leave_at_once() -> None:
    """Let Ctrl-C end the process, which has nothing to put away; not where it is ignored, as behind nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def interrupt_again() -> bool:
    """Undo `leave_at_once`: Ctrl-C raises KeyboardInterrupt, as elsewhere. Whether it was undone."""
    leaving = signal.getsignal(signal.SIGINT) is _leave
    if leaving:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return leaving


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a module of C that is imported makes an ImportError of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
