"""Models by name or file, with their weights: the catalogue, downloads, and checkpoints of every kind.

Importing this package imports no PyTorch; `load_model` needs it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from decoupe.errors import InputError, InstallationError, MissingExtraError, UnknownModelError
from decoupe.weights.own import config_file, own_models, resolved
from decoupe.weights.registry import CATALOGUE, IN_FOLDERS, WEIGHTS_SUFFIXES, ModelSpec, spec, weights_in

if TYPE_CHECKING:
    from decoupe.weights.checkpoint import LoadedModel
    from decoupe.weights.registry import Preprocessing

__all__ = ["available_models", "load_model", "located"]


def available_models() -> tuple[str, ...]:
    """The names that `load_model` and ``decoupe.load`` take, the embedded default first."""
    return tuple(CATALOGUE)


def located(model: str | os.PathLike[str]) -> Path | ModelSpec:
    """What a user calls a model: its file, or else its row of the catalogue or one made up for a hub id.

    Args:
        model: weights or exported file, a folder that transformers wrote, name in the catalogue or of
            `decoupe.weights.own.own_models`, or hub id ``owner/name``. What is on this machine goes first,
            so that nobody can supply weights for a folder's name.

    Raises:
        ConfigError: the file of own names cannot be used.
        UnknownModelError: a file that does not exist, a folder that holds no weights, or no known name; the
            message suggests the nearest.
    """
    name, path = os.fspath(model), Path(resolved(model) or model)
    if path.is_file():
        return path
    if (weights := weights_in(path)) is not None:
        return weights
    if path.is_dir() and name not in CATALOGUE:
        if any((path / f"{one}.index.json").is_file() for one in IN_FOLDERS):
            raise UnknownModelError(
                f"{path} holds weights in several files, expected one: write them as one, with transformers' "
                "save_pretrained(FOLDER, max_shard_size='100GB')"
            )
        raise UnknownModelError(f"{path} is a folder: name the .onnx, .safetensors or .pth file in it")
    own = own_models()
    if name in own:
        raise UnknownModelError(f"{name} is your own model, and {path} does not exist: check {config_file()}")
    if path.is_absolute() or path.suffix.lower() in WEIGHTS_SUFFIXES:
        raise UnknownModelError(f"model file {path} does not exist: check the path")
    return spec(name, own)


def load_model(
    name_or_path: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> LoadedModel:
    """A PyTorch model with its weights, downloaded where they are not yet here.

    Args:
        name_or_path: weights file or any other that `located` takes.
        preprocessing: how a picture becomes the input of a reference's file, which does not tell.

    Raises:
        InputError: a preprocessing for a file that holds its own, or for a model of the catalogue.
        UnknownModelError: neither a file nor a known model; the message suggests the nearest name.
        DownloadError: the download failed or its hash is wrong.
        CheckpointError: the file is broken, or another model's.
        MissingExtraError: PyTorch is not installed.
    """
    from decoupe.weights import checkpoint, download

    model = located(name_or_path)
    if isinstance(model, Path):
        return checkpoint.read_model(model, preprocessing=preprocessing)
    listed = model.name in CATALOGUE
    if listed and preprocessing is not None:
        raise InputError(f"the catalogue tells how {model.name} is fed: leave size, mean and std out")
    require_torch(f"the model {model.name!r}")
    if model.file.endswith(".onnx"):
        from decoupe.weights.embedded import read_embedded

        return read_embedded(model, download.fetch(model))
    known = model.preprocessing if listed else preprocessing
    return checkpoint.read_model(download.fetch(model), model.family, known)


def require_torch(what: str) -> None:
    """Raise what is wrong where PyTorch is not installed or does not work, before anything is downloaded."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError(what, "torch") from None
    except (ImportError, OSError) as error:  # a library of the system's, or a part of its own, is missing
        raise InstallationError("torch", error) from error
