"""What a recipe's augmentation makes of a set, to be looked at before a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from decoupe.datasets.scenes import SegmentSet
from decoupe.datasets.segment_sets import MatteSegments, find_segment_set, is_segment_set
from decoupe.datasets.sets import find_pairs, names_of, pictures_in, spread
from decoupe.evaluation.pictures import Array, contact_sheet, labelled, tinted
from decoupe.training.augment import Augmentation
from decoupe.training.data import MatteDataset, Sample, SegmentDataset
from decoupe.training.recipe import Recipe
from decoupe.training.tasks import check_backgrounds

ACROSS = 4
"""Samples in a row of the sheet."""


def preview(
    recipe: Recipe, folders: Sequence[Path], *, count: int = 24, backgrounds: Path | None = None
) -> Image.Image:
    """Augmented samples of a set, each beside its truth, as the recipe's training would see them.

    Args:
        recipe: whose augmentation and size are shown.
        folders: of sets.
        count: samples, evenly from all of them.
        backgrounds: folder of photographs to set subjects on.

    Raises:
        ConfigError: backgrounds that the recipe does not use.
        InputError: a folder that holds no set.
    """
    check_backgrounds(recipe, backgrounds)
    if isinstance(recipe.augmentation, Augmentation):
        cells = _mattes(recipe, recipe.augmentation, folders, count, backgrounds)
    else:
        cells = _segments(recipe, folders, count)
    rows = [cells[first : first + ACROSS] for first in range(0, len(cells), ACROSS)]
    return contact_sheet([[picture for cell in row for picture in cell] for row in rows], side=192)


def _mattes(
    recipe: Recipe,
    augmentation: Augmentation,
    folders: Sequence[Path],
    count: int,
    backgrounds: Path | None,
) -> list[tuple[Array, Array]]:
    pairs = spread([pair for folder in folders for pair in find_pairs(folder)], count)
    size = _size(recipe)
    dataset = MatteDataset(
        pairs,
        augmentation,
        seed=recipe.seed,
        longest=2 * max(size),
        backgrounds=spread(pictures_in(backgrounds), count) if backgrounds else (),
    )
    cells = []
    for index in range(len(pairs)):
        image, mask, _, _ = dataset[Sample(index, index, size)]
        cells.append((_picture(image), tinted(_picture(image), mask[0].numpy())))
    return cells


def _segments(recipe: Recipe, folders: Sequence[Path], count: int) -> list[tuple[Array, Array]]:
    scenes: SegmentSet
    if len(folders) == 1 and is_segment_set(folders[0]):
        scenes = find_segment_set(folders[0])
    else:
        scenes = MatteSegments(dict(zip(names_of(folders), map(find_pairs, folders), strict=True)))
    assert not isinstance(recipe.augmentation, Augmentation)
    size = _size(recipe)
    indices = spread(range(len(scenes)), count)
    dataset = SegmentDataset(scenes, indices, recipe.augmentation, seed=recipe.seed, longest=2 * max(size))
    cells = []
    for index in range(len(indices)):
        image, segments, classes, _ = dataset[Sample(index, index, size)]
        names = [scenes.vocabulary.names[label] for label in classes.tolist()]
        cells.append((_picture(image), labelled(_picture(image), segments.numpy(), names)))
    return cells


def _size(recipe: Recipe) -> tuple[int, int]:
    """``(height, width)`` of the samples at the end of a run; that of a checkpoint is not opened for it."""
    if recipe.stages:
        return recipe.stages[-1].size
    return recipe.preprocessing.size if recipe.preprocessing else (512, 512)


def _picture(image: Tensor) -> Array:
    """uint8 ``(3, H, W)`` -> ``(H, W, 3)``."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
