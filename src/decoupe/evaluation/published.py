"""Results that others have published, each with where it stands, to be printed beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from decoupe.errors import InputError, unknown

_ZOO = "README of github.com/ZhengPeng7/BiRefNet, commit 05739d6, table “Models trained with customed data”"
_CARD = "huggingface.co/ZhengPeng7/BiRefNet_512x512, model card, table “Performance”, in half precision"
_SEGMENTS = "MODEL_ZOO.md of github.com/facebookresearch/MaskFormer, commit 335d778, table “{}”"


@dataclass(frozen=True)
class Published:
    """One row of a table.

    Attributes:
        model: as its authors call it.
        dataset: the test set.
        size: of the network's input, where it is told.
        scores: by the names of `decoupe.evaluation.measures.COLUMNS` or `decoupe.evaluation.scenes.COLUMNS`;
            shares are parts of one, as ours.
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


def _semantic(backbone: str, size: str, percent: float) -> Published:
    source = _SEGMENTS.format("ADE20K Semantic Segmentation") + ", single scale"
    return Published(f"MaskFormer {backbone}", "ADE20K", size, {"mIoU": percent / 100}, source)


def _stuff(backbone: str, percent: float) -> Published:
    source = _SEGMENTS.format("COCO-Stuff-10K Semantic Segmentation") + ", single scale"
    return Published(f"MaskFormer {backbone}", "COCO-Stuff-10K", "", {"mIoU": percent / 100}, source)


def _panoptic(backbone: str, percent: float) -> Published:
    source = _SEGMENTS.format("COCO Panoptic Segmentation")
    return Published(f"MaskFormer {backbone}", "COCO panoptic", "", {"PQ": percent / 100}, source)


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
    "maskformer-swin-tiny-ade": (_semantic("Swin-T", "512×512", 46.7),),
    "maskformer-swin-small-ade": (_semantic("Swin-S", "512×512", 49.8),),
    "maskformer-swin-base-ade": (_semantic("Swin-B", "640×640", 52.7),),
    "maskformer-swin-large-ade": (_semantic("Swin-L", "640×640", 54.1),),
    "maskformer-resnet50-ade": (_semantic("R50", "512×512", 44.5),),
    # The released files do not tell which of the two they are.
    "maskformer-resnet101-ade": (_semantic("R101", "512×512", 45.5), _semantic("R101c", "512×512", 46.0)),
    "maskformer-resnet101-coco-stuff": (_stuff("R101", 38.1), _stuff("R101c", 38.0)),
    "maskformer-swin-tiny-coco": (_panoptic("Swin-T", 47.7),),
    "maskformer-swin-small-coco": (_panoptic("Swin-S", 49.7),),
    "maskformer-swin-base-coco": (_panoptic("Swin-B", 51.8),),
    "maskformer-swin-large-coco": (_panoptic("Swin-L", 52.7),),
}  # fmt: skip
"""By decoupe's name of the model."""

Row = tuple[str, dict[str, float], str]
"""A row of a table that comes from elsewhere: label, scores by column, source."""


def rows_beside(names: Iterable[str], columns: Sequence[str]) -> list[Row]:
    """What is known of models, to stand in a table of these columns.

    Raises:
        InputError: nothing is known of a name, or nothing of these columns.
    """
    rows: list[Row] = []
    for name in names:
        known = published(name)
        told = list(dict.fromkeys(column for row in known for column in row.scores))
        if not set(told) & set(columns):
            raise InputError(
                f"of {name} was published {', '.join(told)}, none of it in a table of {', '.join(columns)}: "
                "choose another --protocol"
            )
        rows += [(row.label, dict(row.scores), row.source) for row in known]
    return rows


def published(name: str) -> tuple[Published, ...]:
    """What is known of a model; InputError suggests the nearest name."""
    if name not in PUBLISHED:
        raise InputError(unknown("published result", name, PUBLISHED))
    return PUBLISHED[name]
