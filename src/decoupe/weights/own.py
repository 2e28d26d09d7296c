"""Models that a user has given names of their own.

They stand in ``~/.config/decoupe/config.ini``::

    [models]
    mugs = ~/runs/mugs/best.safetensors

``DECOUPE_CONFIG`` names another file. What does not begin at the root lies beside the file.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from decoupe.errors import ConfigError
from decoupe.weights.registry import CATALOGUE, weights_in


def config_file() -> Path:
    """Where the names stand, whether the file exists or not."""
    if chosen := os.environ.get("DECOUPE_CONFIG"):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "decoupe" / "config.ini"


def own_models() -> dict[str, Path]:
    """Name -> file; empty where there is no such file of names.

    Raises:
        ConfigError: the file cannot be read, takes a name of the catalogue, or leads to nobody's home.
    """
    file = config_file()
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their capitals
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check its permissions") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ConfigError(f"{file} is not understood ({line}): expected [models], and NAME = FILE") from None
    if not parser.has_section("models"):
        return {}
    try:
        found = {name: file.parent / Path(place).expanduser() for name, place in parser.items("models")}
    except RuntimeError as error:
        raise ConfigError(f"{file} has a ~ that cannot be followed ({error}): write the whole path") from None
    for name in found:
        if name in CATALOGUE:
            raise ConfigError(f"{file} calls a model {name!r}, as the catalogue does: choose another name")
    return found


def resolved(model: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The file behind a name of `own_models`; anything else as it is. What holds weights goes first."""
    if model is None or Path(model).is_file() or weights_in(Path(model)) is not None:
        return model
    return own_models().get(os.fspath(model), model)
