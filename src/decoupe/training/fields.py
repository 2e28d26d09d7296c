"""Frozen dataclasses as plain data and back: what recipes are printed, saved, loaded and changed with."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from decoupe.errors import ConfigError, unknown

T = TypeVar("T")

_NUMBER = re.compile(
    r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d+(?:[eE][-+]?\d+)?)$"
)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as text, and everybody writes it."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own
        **yaml.SafeLoader.yaml_implicit_resolvers,
        **{
            mark: [
                *yaml.SafeLoader.yaml_implicit_resolvers.get(mark, []),
                ("tag:yaml.org,2002:float", _NUMBER),
            ]
            for mark in "-+0123456789."
        },
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader above would read as a number, such as the name of a folder ``1e5``."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, all the way down; what JSON and YAML can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(
    kind: type[T], data: object, *, narrowed: Mapping[str, Any] | None = None, where: str = ""
) -> T:
    """The dataclass ``kind`` that plain data describe; what they leave out has its default.

    Args:
        kind: a dataclass whose fields are numbers, strings, booleans, literals, tuples, other dataclasses, or
            one of these or None.
        data: a mapping of its fields.
        narrowed: the types of fields whose annotation is wider than what is wanted.
        where: dotted name of the value, for messages.

    Raises:
        ConfigError: a key that is no field, with the nearest suggested; a value of another type; a field that
            has no default and is left out; or what ``kind`` itself refuses.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'a recipe'} is {data!r}, expected its settings by name")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # a dataclass
    names = [field.name for field in fields]
    hints = {**get_type_hints(kind), **(narrowed or {})}
    for key in data:
        if key not in names:
            raise ConfigError(unknown(f"setting of {where}" if where else "setting", str(key), names))
    values = {key: _value(hints[key], value, _join(where, key)) for key, value in data.items()}
    required = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
    if missing := [_join(where, name) for name in required if name not in values]:
        raise ConfigError(f"{', '.join(missing)} is not set: it has no default")
    return kind(**values)


def _value(kind: Any, data: Any, where: str) -> Any:
    """``data`` as a value of the annotation ``kind``."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_plain(kind, data, where=where)
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and types.NoneType in options:
            return None
        (kind,) = (option for option in options if option is not types.NoneType)
        return _value(kind, data, where)
    if origin is Literal:
        if data not in options:
            raise ConfigError(unknown(where, str(data), map(str, options)))
        return data
    if origin is tuple:
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise ConfigError(f"{where} is {data!r}, expected a list")
        endless = options[-1] is Ellipsis
        if not endless and len(data) != len(options):
            raise ConfigError(f"{where} is {data!r}, expected {len(options)} values")
        each = [options[0]] * len(data) if endless else options
        return tuple(
            _value(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(each, data, strict=True))
        )
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    counts = not isinstance(data, float) or math.isfinite(data)
    if not (counts and isinstance(data, kind)) or (kind in (int, float) and isinstance(data, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise ConfigError(f"{where} is {data!r}, expected {words[kind]}")
    return data


def override(plain: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain data with ``KEY=VALUE`` settings: dotted keys reach inside, values are written as in YAML.

    ``augmentation.flip=0.2`` changes one number of a part; ``sets[0].repeats=3`` one of a list.

    Raises:
        ConfigError: no ``=``, a value that is no YAML, or a key inside something that has no parts.
    """
    changed: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain))  # a deep copy of plain data
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set is {setting!r}, expected KEY=VALUE such as batch_size=8")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of --set {setting} is not YAML: quote it") from error
        *parents, last = key.replace("[", ".[").split(".")
        place: Any = changed
        for depth, name in enumerate(parents):
            place = _step(place, name, ".".join(parents[: depth + 1]), setting)
        if isinstance(place, list):
            _step(place, last, key, setting)
            place[int(last.strip("[]"))] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise ConfigError(f"--set {setting}: {'.'.join(parents)} is {place!r}, it has no parts to set")
    return changed


def _step(place: Any, name: str, path: str, setting: str) -> Any:
    """What is called ``name`` in plain data."""
    if isinstance(place, dict):
        if name in place:
            return place[name]
        raise ConfigError(f"--set {setting}: {unknown('setting', name, map(str, place))}")
    index = name.strip("[]")
    if isinstance(place, list) and index.isdecimal() and int(index) < len(place):
        return place[int(index)]
    raise ConfigError(f"--set {setting}: there is no {path}")


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Plain data as YAML, in their own order, short lists on one line."""
    text: str = yaml.dump(
        dict(plain), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )
    return text


def from_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        ConfigError: it is no YAML, or no mapping; the message names the line.
    """
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line} is not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name} holds {type(data).__name__}, expected settings by name")
    return data


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
