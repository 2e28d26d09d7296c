"""Cut the subject out of any picture, down to the hair.

>>> decoupe.cut("photo.jpg").save("photo.png")  # doctest: +SKIP
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing calls it, which takes a while to import
if TYPE_CHECKING:
    from decoupe.errors import (
        CheckpointError,
        ConfigError,
        DecoupeError,
        DeviceError,
        DownloadError,
        InputError,
        InstallationError,
        MissingExtraError,
        ModelError,
        OutputError,
        TooLargeError,
        UnknownModelError,
    )
    from decoupe.inference.predictor import Predictor, Segmenter, cut, load
    from decoupe.inference.results import Matte
    from decoupe.inference.segments import Segment, Segments
    from decoupe.notices import CompileWarning, FramesWarning, LabelWarning, SizeWarning, VideoWarning
    from decoupe.weights.registry import Preprocessing, catalogue

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "CompileWarning",
    "ConfigError",
    "DecoupeError",
    "DeviceError",
    "DownloadError",
    "FramesWarning",
    "InputError",
    "InstallationError",
    "LabelWarning",
    "Matte",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Predictor",
    "Preprocessing",
    "Segment",
    "Segmenter",
    "Segments",
    "SizeWarning",
    "TooLargeError",
    "UnknownModelError",
    "VideoWarning",
    "__version__",
    "catalogue",
    "cut",
    "load",
]

# Each is imported when it is first asked for: the command has to answer Ctrl-C before NumPy has been loaded.
_HOMES = {
    "errors": [name for name in __all__ if name.endswith("Error")],
    "inference.predictor": ["Predictor", "Segmenter", "cut", "load"],
    "inference.results": ["Matte"],
    "inference.segments": ["Segment", "Segments"],
    "notices": [name for name in __all__ if name.endswith("Warning")],
    "weights.registry": ["Preprocessing", "catalogue"],
}


if not TYPE_CHECKING:  # which would take every misspelt name for one that there is

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f"decoupe.{home}"), name)
                return found
        raise AttributeError(f"module 'decoupe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
