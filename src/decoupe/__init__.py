"""Cut the subject out of any picture, down to the hair.

>>> decoupe.cut("photo.jpg").save("photo.png")  # doctest: +SKIP
"""

from decoupe.errors import (
    CheckpointError,
    ConfigError,
    DecoupeError,
    DeviceError,
    DownloadError,
    InputError,
    MissingExtraError,
    ModelError,
    OutputError,
    TooLargeError,
    UnknownModelError,
)
from decoupe.inference.opened import SizeWarning
from decoupe.inference.predictor import Predictor, Segmenter, cut, load
from decoupe.inference.preprocess import FramesWarning
from decoupe.inference.results import Matte
from decoupe.inference.segments import Segment, Segments
from decoupe.notices import CompileWarning
from decoupe.weights.registry import catalogue

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
    "Matte",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Predictor",
    "Segment",
    "Segmenter",
    "Segments",
    "SizeWarning",
    "TooLargeError",
    "UnknownModelError",
    "__version__",
    "catalogue",
    "cut",
    "load",
]
