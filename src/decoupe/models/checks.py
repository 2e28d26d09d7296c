"""What a model's configuration may hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from numbers import Real
from typing import Any

from decoupe.errors import ConfigError

MOST_LAYERS = 1000
"""Of one kind in a model; a file that tells of 10¹² would be built for ever."""


def check_fields(
    config: Any, least: Mapping[str, int] | None = None, *, layers: Collection[str] = ()
) -> None:
    """Refuse values of another type than their field's; they may come out of a file.

    Whole numbers are at least 1, floats are shares from 0 to below 1, pairs are of whole numbers, and
    whatever else is text.

    Args:
        config: a frozen dataclass whose annotations are text.
        least: the smallest value of whole numbers that may be another than 1, by their names.
        layers: names of those that count layers, at most `MOST_LAYERS`.

    Raises:
        ConfigError: the first value that cannot be.
    """
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        smallest = (least or {}).get(field.name, 1)
        if value is None and kind.endswith("| None"):
            continue
        if kind == "bool":
            fits, expected = isinstance(value, bool), "True or False"
        elif kind.startswith("int"):
            fits = _is_whole(value, smallest) and (field.name not in layers or value <= MOST_LAYERS)
            span = f"from {smallest} to {MOST_LAYERS}" if field.name in layers else f"of at least {smallest}"
            expected = f"a whole number {span}"
        elif kind == "float":
            real = isinstance(value, Real) and not isinstance(value, bool)
            fits, expected = real and 0 <= value < 1, "a share from 0 to below 1"
        elif kind.startswith("tuple"):
            pair = isinstance(value, tuple) and len(value) == 2
            fits = pair and all(_is_whole(side, 1) for side in value)
            expected = "two whole numbers above 0 in a tuple"  # a list has no hash
        else:
            fits, expected = isinstance(value, str), "a name"
        if not fits:
            raise ConfigError(f"{field.name} is {value!r}, expected {expected}")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
