"""Results that others have published, each with where it stands, to be printed beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from decoupe.errors import InputError, unknown

_ZOO = "README of github.com/ZhengPeng7/BiRefNet, commit 05739d6, table “Models trained with customed data”"
_CARD = "huggingface.co/ZhengPeng7/BiRefNet_512x512, model card, table “Performance”, in half precision"


@dataclass(frozen=True)
class Published:
    """One row of a table.

    Attributes:
        model: as its authors call it.
        dataset: the test set.
        size: of the network's input, where it is told.
        scores: by the names of `decoupe.evaluation.measures.COLUMNS`.
        source: where it stands.
    """

    model: str
    dataset: str
    size: str
    scores: Mapping[str, float]
    source: str

    @property
    def label(self) -> str:
        """For a table's first column."""
        return f"{self.model}, {self.dataset}" + (f", {self.size}" if self.size else "")


def _card(model: str, *scores: float) -> Published:
    names = ("maxF", "wF", "MAE", "S", "meanE", "HCE", "maxE", "meanF", "adpE", "adpF", "mBA")
    return Published(model, "DIS-VD", "512×512", dict(zip(names, scores, strict=True)), _CARD)


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "birefnet": (
        Published("BiRefNet-general", "DIS-VD", "", {"S": 0.911, "wF": 0.875, "HCE": 1069}, _ZOO),
        _card(
            "BiRefNet-general-epoch_244",
            0.834, 0.789, 0.050, 0.860, 0.891, 1589, 0.905, 0.817, 0.902, 0.816, 0.708,
        ),
    ),
    "birefnet-lite": (
        Published("BiRefNet-lite", "DIS-VD", "", {"S": 0.882, "wF": 0.830, "HCE": 1175}, _ZOO),
    ),
    "birefnet-512": (
        _card(
            "BiRefNet_512x512-epoch_216",
            0.879, 0.840, 0.040, 0.888, 0.931, 1526, 0.941, 0.864, 0.938, 0.857, 0.732,
        ),
    ),
    "birefnet-dis5k-tr-tes": (
        Published("BiRefNet, DIS5K-TR and TEs", "DIS-VD", "", {"S": 0.907, "wF": 0.865, "HCE": 1059}, _ZOO),
    ),
    "birefnet-matting": (
        Published("BiRefNet-matting", "TE-P3M-500-NP", "", {"S": 0.979, "wF": 0.988}, _ZOO),
    ),
    "birefnet-portrait": (
        Published("BiRefNet-portrait", "P3M-500-P", "", {"S": 0.983, "wF": 0.989}, _ZOO),
    ),
}  # fmt: skip
"""By decoupe's name of the model."""


def published(name: str) -> tuple[Published, ...]:
    """What is known of a model; InputError suggests the nearest name."""
    if name not in PUBLISHED:
        raise InputError(unknown("published result", name, PUBLISHED))
    return PUBLISHED[name]
