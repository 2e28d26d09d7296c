"""Models by name or file, with their weights: the catalogue, downloads, and checkpoints of every kind.

Importing this package imports no PyTorch; `load_model` needs it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from decoupe.errors import InputError, InstallationError, MissingExtraError, UnknownModelError
from decoupe.weights.registry import CATALOGUE, WEIGHTS_SUFFIXES, spec, weights_in

if TYPE_CHECKING:
    from decoupe.weights.checkpoint import LoadedModel
    from decoupe.weights.registry import Preprocessing

__all__ = ["available_models", "load_model"]


def available_models() -> tuple[str, ...]:
    """The names that `load_model` and ``decoupe.load`` take, the embedded default first."""
    return tuple(CATALOGUE)


def load_model(
    name_or_path: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> LoadedModel:
    """A PyTorch model with its weights, downloaded where they are not yet here.

    Args:
        name_or_path: weights file, a folder that transformers wrote, name in the catalogue or of
            `decoupe.weights.own.own_models`, or hub id ``owner/name``. A file of that name goes first.
        preprocessing: how a picture becomes the input of a reference's file, which does not tell.

    Raises:
        InputError: a preprocessing for a file that holds its own, or for a model of the catalogue.
        UnknownModelError: neither a file nor a known model; the message suggests the nearest name.
        DownloadError: the download failed or its hash is wrong.
        CheckpointError: the file is broken, or another model's.
        MissingExtraError: PyTorch is not installed.
    """
    from decoupe.weights import checkpoint, download, own

    name_or_path = own.resolved(name_or_path) or name_or_path
    if Path(name_or_path).is_file() or weights_in(Path(name_or_path)) is not None:
        return checkpoint.read_model(name_or_path, preprocessing=preprocessing)
    if Path(name_or_path).suffix in WEIGHTS_SUFFIXES:
        raise UnknownModelError(f"the weights file {name_or_path} does not exist: check the path")
    if preprocessing is not None:
        raise InputError(f"the model {name_or_path!r} tells how it is fed: leave size, mean and std out")
    model = spec(os.fspath(name_or_path))
    require_torch(f"the model {model.name!r}")
    if model.file.endswith(".onnx"):
        from decoupe.weights.embedded import read_embedded

        return read_embedded(model, download.fetch(model))
    known = model.preprocessing if model.name in CATALOGUE else None
    return checkpoint.read_model(download.fetch(model), model.family, known)


def require_torch(what: str) -> None:
    """Raise what is wrong where PyTorch is not installed or does not work, before anything is downloaded."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError(what, "torch") from None
    except (ImportError, OSError) as error:  # a library of the system's, or a part of its own, is missing
        raise InstallationError("torch", error) from error
