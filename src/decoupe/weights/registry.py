"""The catalogue: every model that decoupe knows by name. Plain data; imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input; saved with the weights.

    Attributes:
        size: the model's own input size ``(height, width)`` in pixels.
        fit: ``"stretch"`` resizes to exactly ``size``; ``"keep"`` keeps the aspect ratio, with the area of
            ``size``, each side rounded to ``multiple``.
        size_range: least and largest side in pixels at which the weights are known to work; predicting
            outside it warns.
        multiple: both sides of the input are multiples of this many pixels.
        mean: per-channel mean, subtracted from RGB in [0, 1].
        std: per-channel standard deviation, divided by.
    """

    size: tuple[int, int]
    fit: Literal["stretch", "keep"] = "stretch"
    size_range: tuple[int, int] = (32, 4096)
    multiple: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class ModelSpec:
    """One row of the catalogue.

    Attributes:
        name: what ``decoupe.load`` takes.
        family: ``"birefnet"`` (later also ``"inspyrenet"``, ``"maskformer"``).
        task: what it was trained for, in a few words that a user would search for.
        licence: SPDX name, or the licence's own name.
        commercial: whether the licence admits commercial use.
        preprocessing: how a picture becomes the model's input.
        megabytes: size of the weights file on disk, 10^6 bytes, rounded.
        repo: hub id ``owner/name``; None for weights that come with the package.
        file: file name in the repository, or in the package's ``weights`` folder.
        revision: the repository's commit, tag or branch.
        sha256: of the file, where it is known here; otherwise the hub's own announced hash is checked.
        backbone: name in `decoupe.backbones.BACKBONES`.
    """

    name: str
    family: str
    task: str
    licence: str
    commercial: bool
    preprocessing: Preprocessing
    megabytes: float
    repo: str | None
    file: str
    revision: str = "main"
    sha256: str | None = None
    backbone: str = ""
