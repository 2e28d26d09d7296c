"""What is computed when it is first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class computed_once(Generic[Value]):  # noqa: N801 - used as functools.cached_property is
    """`functools.cached_property` without a lock, which all instances share before Python 3.12.

    Threads that ask one instance at the same time may each compute it, and all get the same value.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> computed_once[Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...

    def __get__(self, instance: object | None, owner: type) -> computed_once[Value] | Value:
        if instance is None:
            return self
        # The instance's own dictionary, which comes before this from now on; frozen dataclasses have one too.
        kept: Value = instance.__dict__.setdefault(self._name, self._compute(instance))
        return kept
