"""Everything that decoupe raises on purpose.

Each message is one line that says what is wrong, what was expected and what to do about it; the
command line prints it as it is, without a traceback.

    DecoupeError
    ├── InputError          a picture, mask or argument that cannot be used      (also a ValueError)
    │   └── TooLargeError        one that takes more pixels, frames or memory than allowed
    ├── OutputError         a result that cannot be written                      (also an OSError)
    ├── ModelError          something about a model
    │   ├── UnknownModelError    no model of that name                           (also a LookupError)
    │   ├── CheckpointError      a weights file that is broken, or another model's
    │   └── DownloadError        a download that failed, or whose hash does not match
    ├── ConfigError         a configuration that no model can be built from      (also a ValueError)
    ├── DeviceError         a device or precision that this machine cannot give
    ├── MissingExtraError   an optional dependency that is not installed         (also an ImportError)
    └── InstallationError   a dependency that is installed and does not work
"""

from __future__ import annotations

from collections.abc import Iterable


class DecoupeError(Exception):
    """The root of the tree: ``except decoupe.DecoupeError`` catches all that decoupe raises on purpose."""


class InputError(DecoupeError, ValueError):
    """A picture, mask or argument that cannot be used."""


class TooLargeError(InputError):
    """A picture, or what is to be made of it, that takes more pixels, frames or memory than allowed."""


class OutputError(DecoupeError, OSError):
    """A result that cannot be written."""


class ModelError(DecoupeError):
    """Something about a model: its name, its weights, its download."""


class UnknownModelError(ModelError, LookupError):
    """No model of that name in the catalogue, and no weights file of that name."""


class CheckpointError(ModelError):
    """A weights file that is broken, or that belongs to another model."""


class DownloadError(ModelError):
    """A download that failed, was refused, or whose hash does not match."""


class ConfigError(DecoupeError, ValueError):
    """A configuration that no model can be built from."""


class DeviceError(DecoupeError):
    """A device or precision that was asked for and that this machine cannot give."""


class MissingExtraError(DecoupeError, ImportError):
    """An optional dependency that is not installed; the message names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        """Say that ``what`` (a command, a model, a feature) needs the extra called ``extra``."""
        super().__init__(what, extra)  # what it is made of again in another process

    def __str__(self) -> str:
        what, extra = self.args
        libraries = {"torch": "PyTorch", "export": "onnx and onnxscript", "openvino": "OpenVINO"}
        needed = libraries.get(extra, f"the extra {extra!r}")
        return f"{what} needs {needed}: pip install 'decoupe[{extra}]'"


class InstallationError(DecoupeError):
    """A dependency that is installed and cannot be imported; the message says why."""

    def __init__(self, library: str, error: Exception | str) -> None:
        """Say that importing ``library`` ended in ``error``."""
        super().__init__(library, (str(error).strip().splitlines() or [type(error).__name__])[0])

    def __str__(self) -> str:
        library, reason = self.args
        return (
            f"{library} is installed and does not work ({reason}): "
            f"reinstall it, pip install --force-reinstall {library}"
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The line for a name that a dict does not hold: ``unknown model 'x'; did you mean 'y'?``."""
    import difflib  # only where a line is written: every start would pay for it

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    return f"unknown {kind} {name!r}; {remedy}"
