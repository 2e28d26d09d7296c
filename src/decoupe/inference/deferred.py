"""Parts of a library that are not wanted: left out while it is imported, loaded when something calls them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def deferred(modules: Iterable[str]) -> Iterator[None]:
    """Let what is imported in this block do without these modules until a function of theirs is called.

    Args:
        modules: by their whole names. What others import from them has to be functions or classes, not called
            until the block has ended. Those of a library that has been imported before are let be.
    """
    standing = {name: _stand_in(name) for name in modules if name.partition(".")[0] not in sys.modules}
    sys.modules.update(standing)
    try:
        yield
    finally:
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    def member(of: str) -> Any:
        if of.startswith("__"):  # which are asked of any module, and are not its own
            raise AttributeError(of)
        return partial(_called, name, of)

    module = ModuleType(name)
    module.__getattr__ = member  # type: ignore[method-assign]  # PEP 562
    return module


def _called(name: str, member: str, *arguments: Any, **named: Any) -> Any:
    """Call what a module has, which is loaded now if it has not been."""
    found = getattr(importlib.import_module(name), member)
    # A package gets a module that is loaded as an attribute, and had a function of the same name there.
    setattr(sys.modules[name.rpartition(".")[0]], member, found)
    return found(*arguments, **named)
