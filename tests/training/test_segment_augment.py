from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.datasets.scenes import Scene
from decoupe.errors import ConfigError
from decoupe.training.augment import GREY
from decoupe.training.segment_augment import ADE20K, COCO, PLAIN, SegmentAugmentation


def scene(height: int = 40, width: int = 60, *, segments: int = 5, seed: int = 0) -> Scene:
    """A photograph whose red tells the segment: 40 times its number, and its class is three more."""
    rng = np.random.default_rng(seed)
    numbers = np.kron(rng.integers(-1, segments, (height // 10 + 1, width // 10 + 1)), np.ones((10, 10)))
    numbers = numbers[:height, :width].astype(np.int32)
    red = np.where(numbers < 0, 250, 40 * numbers)
    image = np.stack([red, 0 * red, 0 * red + 255], -1).astype(np.uint8)
    return Scene(image, numbers, np.arange(segments, dtype=np.int64) + 3, np.zeros(segments, bool))


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    preset=st.sampled_from([ADE20K, COCO, PLAIN]),
    segments=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_every_preset_takes_any_scene(
    height: int, width: int, size: tuple[int, int], preset: SegmentAugmentation, segments: int, seed: int
) -> None:
    shape = 32 * size[0], 32 * size[1]
    one = scene(height, width, segments=segments, seed=seed)
    image, numbers, classes = preset(one, shape, np.random.default_rng(seed))
    assert (image.shape, image.dtype) == ((3, *shape), torch.uint8)
    assert (numbers.shape, numbers.dtype) == (shape, torch.int32)
    assert classes.dtype == torch.int64
    # Every segment that is left has pixels, its own class, and no number of another.
    assert sorted(set(numbers.unique().tolist()) - {-1}) == list(range(len(classes)))
    assert set(classes.tolist()) <= set(one.classes.tolist())
    assert len(set(classes.tolist())) == len(classes)
    again = preset(one, shape, np.random.default_rng(seed))
    assert all(torch.equal(a, b) for a, b in zip((image, numbers, classes), again, strict=True))


@pytest.mark.parametrize(
    "moves",
    [
        SegmentAugmentation(flip=1),
        SegmentAugmentation(scale=(0.4, 0.6)),
        SegmentAugmentation(scale=(1.5, 2), fit="fills", flip=0.5),
        SegmentAugmentation(scale=(0.7, 2), flip=0.5),
    ],
)
def test_photograph_and_segments_move_together(moves: SegmentAugmentation) -> None:
    one = scene()
    for seed in range(6):
        image, numbers, classes = moves(one, (64, 96), np.random.default_rng(seed))
        told = numbers >= 0
        red = image[0].int()
        expected = 40 * (torch.cat([classes, torch.tensor([0])])[numbers.long()] - 3)
        # Inside the blocks the colours are exact; between them they mix.
        exact = (red == expected) & told
        assert exact.sum() > 0.7 * told.sum()
        beyond = (image.permute(1, 2, 0) == torch.tensor(GREY)).all(-1)
        assert not (beyond & told).any()


def test_the_picture_itself() -> None:
    one = scene(64, 96)
    image, numbers, classes = PLAIN(one, (64, 96), np.random.default_rng(0))
    assert np.array_equal(image.permute(1, 2, 0), one.image)
    assert np.array_equal(torch.cat([classes, torch.tensor([-1])])[numbers.long()] >= 0, one.segments >= 0)


def test_crowds_are_not_learnt() -> None:
    one = scene(64, 96)
    crowd = np.arange(len(one.classes)) == 2
    _, numbers, classes = PLAIN(one._replace(crowd=crowd), (64, 96), np.random.default_rng(0))
    assert classes.tolist() == [3, 4, 6, 7]
    assert np.array_equal(numbers < 0, (one.segments < 0) | (one.segments == 2))


def test_a_picture_that_does_not_fill_the_sample_is_surrounded_by_grey() -> None:
    image, numbers, _ = SegmentAugmentation(scale=(0.5, 0.5))(scene(), (40, 60), np.random.default_rng(1))
    outside = (image.permute(1, 2, 0) == torch.tensor(GREY)).all(-1)
    assert outside.sum() == 40 * 60 - 20 * 30
    assert (numbers[outside] == -1).all()


def test_crops_of_one_class_only_are_drawn_anew() -> None:
    """Nine tenths are one class: nearly every crop of a quarter is, unless it is drawn anew."""
    numbers = np.zeros((40, 200), np.int32)
    numbers[:, :20] = 1
    one = Scene(np.zeros((40, 200, 3), np.uint8), numbers, np.array([4, 5]), np.zeros(2, bool))
    mixed = {}
    for share in (1.0, 0.75):
        crops = SegmentAugmentation(fit="fills", one_class=share)
        samples = [crops(one, (40, 40), np.random.default_rng(seed))[2] for seed in range(60)]
        mixed[share] = sum(len(classes) == 2 for classes in samples)
    assert mixed[1.0] < 12
    assert mixed[0.75] > 24


def test_colours_change_and_segments_do_not() -> None:
    colours = SegmentAugmentation(brightness=32, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=0.05)
    coloured = Scene(
        np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8),
        np.zeros((32, 32), np.int32),
        np.array([1]),
        np.zeros(1, bool),
    )
    results = [colours(coloured, (32, 32), np.random.default_rng(seed)) for seed in range(12)]
    assert len({image.sum().item() for image, _, _ in results}) > 8
    assert all(numbers.eq(0).all() for _, numbers, _ in results)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fit": "outside"}, "fit is 'outside', expected 'inside' or 'fills'"),
        ({"scale": (0.0, 1.0)}, r"scale is \[0.0, 1.0\], expected least and largest, from 0.01"),
        ({"hue": 0.7}, "hue is 0.7, expected from 0 to 0.5"),
    ],
)
def test_impossible_augmentations_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentAugmentation(**setting)
