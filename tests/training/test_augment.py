from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoupe.errors import ConfigError
from decoupe.training.augment import (
    BIREFNET,
    GREY,
    INSPYRENET,
    MATTING,
    NONE,
    POCKET,
    Array,
    Augmentation,
    affine,
    beside,
)

SIZE = (48, 64)
MOVES = {
    "area": Augmentation(area=(0.2, 0.5), stretch=1.5),
    "trim": Augmentation(trim=1),
    "smaller": Augmentation(scale=(0.5, 0.7)),
    "larger": Augmentation(scale=(1.5, 2)),
    "flip": Augmentation(flip=1),
    "rotate": Augmentation(rotate=40, rotating=1),
    "all": Augmentation(area=(0.5, 1), stretch=1.3, scale=(0.75, 1.25), flip=0.5, rotate=15, rotating=1),
}
COLOURS = {
    "brightness": Augmentation(brightness=(0.3, 0.6)),
    "contrast": Augmentation(contrast=(0.1, 0.4)),
    "saturation": Augmentation(saturation=(2, 3)),
    "sharpness": Augmentation(sharpness=(3, 4)),
    "grey": Augmentation(grey=1),
    "blur": Augmentation(blur=1),
    "noise": Augmentation(noise=1),
    "pepper": Augmentation(pepper=0.01),
    "jpeg": Augmentation(jpeg=1),
}


def scene(height: int = 60, width: int = 90, *, seed: int = 0) -> tuple[Array, Array]:
    """A photograph whose red is its mask: whatever moves one without the other is seen."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((x / width - rng.uniform(0.4, 0.6)) / 0.25) ** 2 + ((y / height - 0.5) / 0.3) ** 2 < 1
    mask = (255 * inside).astype(np.uint8)
    waves = (60 + 50 * np.sin(x / 5) * np.sin(y / 7)).astype(np.uint8)
    return np.stack([mask, waves, 255 - waves], -1), mask


def together(image: Tensor, mask: Tensor) -> None:
    """The red channel is the mask still, but for rounding; beyond the photograph it is grey and empty."""
    red, truth = image[0].int(), mask[0].int()
    difference = (red - truth).abs()
    grey = (image.permute(1, 2, 0) == torch.tensor(GREY)).all(-1)
    # Bilinear mixtures with grey stand along the border of what is beyond.
    border = torch.nn.functional.max_pool2d(grey[None].float(), 3, 1, 1)[0] > 0
    assert difference[~border].max() <= 2
    assert truth[grey].sum() == 0


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("shape", [(60, 90), (90, 40)])
def test_photograph_and_mask_move_together(name: str, shape: tuple[int, int]) -> None:
    image, mask = scene(*shape)
    whole = NONE(image, mask, SIZE, np.random.default_rng(0))
    together(*whole)
    moved = 0
    for seed in range(8):
        sample = MOVES[name](image, mask, SIZE, np.random.default_rng(seed))
        assert [(one.shape, one.dtype) for one in sample] == [
            ((3, *SIZE), torch.uint8),
            ((1, *SIZE), torch.uint8),
        ]
        together(*sample)
        moved += not torch.equal(sample[1], whole[1])
    assert moved >= 7


@pytest.mark.parametrize("name", COLOURS)
def test_colours_change_and_the_mask_does_not(name: str) -> None:
    image, mask = scene()
    whole = NONE(image, mask, SIZE, np.random.default_rng(0))
    for seed in range(4):
        photograph, matte = COLOURS[name](image, mask, SIZE, np.random.default_rng(seed))
        assert torch.equal(matte, whole[1])
        assert not torch.equal(photograph, whole[0])
        assert photograph.dtype == torch.uint8


def test_what_changes_nothing_draws_the_picture_itself() -> None:
    image, mask = scene(*SIZE)
    photograph, matte = NONE(image, mask, SIZE, np.random.default_rng(0))
    assert np.array_equal(photograph.permute(1, 2, 0), image)
    assert np.array_equal(matte[0], mask)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    level=st.sampled_from([0, 1, 128, 255]),
    preset=st.sampled_from([POCKET, BIREFNET, INSPYRENET, MATTING]),
    seed=st.integers(0, 9),
)
def test_every_preset_takes_any_picture(
    height: int, width: int, size: tuple[int, int], level: int, preset: Augmentation, seed: int
) -> None:
    certain = dataclasses.replace(
        preset, empty=0.5, paste=0.5, replace=0.5, synthesis=0.5, camouflage=0.5, hair=0.7, jpeg=1, blur=1
    )
    image = np.full((height, width, 3), 77, np.uint8)
    mask = np.full((height, width), level, np.uint8)
    mask[: height // 2, : width // 2] = 255
    shape = (32 * size[0], 32 * size[1])
    samples = [
        certain(
            image,
            mask,
            shape,
            np.random.default_rng(seed),
            other=lambda: scene(),
            background=lambda: scene()[0],
        )
        for _ in range(2)
    ]
    for photograph, matte in samples:
        assert (photograph.shape, matte.shape) == ((3, *shape), (1, *shape))
    assert all(torch.equal(one, other) for one, other in zip(*samples, strict=True))


def test_backgrounds_are_replaced_and_the_subject_stays() -> None:
    image, mask = scene()
    ground = np.full((30, 30, 3), (0, 250, 0), np.uint8)
    whole, matte = NONE(image, mask, SIZE, np.random.default_rng(0))
    changed = Augmentation(replace=1)
    photograph, same = changed(image, mask, SIZE, np.random.default_rng(0), background=lambda: ground)
    assert torch.equal(same, matte)
    inside, outside = matte[0] == 255, matte[0] == 0
    assert torch.equal(photograph[:, inside], whole[:, inside])
    assert (torch.tensor([0, 250, 0]) == photograph[:, outside].T).all()
    assert torch.equal(changed(image, mask, SIZE, np.random.default_rng(0))[0], whole)  # no folder was given


@pytest.mark.parametrize("width", [3, 16], ids=["outline", "hair"])
def test_soft_edges_do_not_keep_the_old_background(width: int) -> None:
    """A red subject on blue, its edge half of each: set on green, nothing of the edge is blue."""
    alpha = np.clip((40 - np.abs(np.arange(96) - 48)) / width, 0, 1)
    alpha = np.broadcast_to(alpha, (64, 96))[..., None]
    image = (alpha * (255, 0, 0) + (1 - alpha) * (0, 0, 255)).astype(np.uint8)
    mask = (255 * alpha[..., 0]).astype(np.uint8)
    green = np.full((64, 96, 3), (0, 255, 0), np.uint8)
    photograph, _ = Augmentation(replace=1)(
        image, mask, (64, 96), np.random.default_rng(0), background=lambda: green
    )
    expected = alpha * (255, 0, 0) + (1 - alpha) * (0, 255, 0)
    assert np.abs(photograph.permute(1, 2, 0).numpy() - expected).max() < 12
    naive = alpha * image + (1 - alpha) * green
    assert naive[..., 2].max() > 50


def test_a_subject_is_pasted_beside_the_subject_of_another_photograph() -> None:
    image, mask = scene()
    other, other_mask = np.zeros((60, 90, 3), np.uint8), np.zeros((60, 90), np.uint8)
    other[:, :30], other[:, 30:], other_mask[:, 30:] = (9, 99, 199), (255, 255, 255), 255
    photograph, matte = Augmentation(paste=1)(
        image, mask, SIZE, np.random.default_rng(0), other=lambda: (other, other_mask)
    )
    assert (torch.tensor([9, 99, 199]) == photograph[:, matte[0] == 0].T).all()
    full = lambda: (other, np.full((60, 90), 255, np.uint8))  # noqa: E731
    whole = NONE(image, mask, SIZE, np.random.default_rng(0))
    stays = Augmentation(paste=1)(image, mask, SIZE, np.random.default_rng(0), other=full)
    assert torch.equal(stays[0], whole[0])


def test_synthesised_backgrounds_are_of_one_colour_of_three_kinds() -> None:
    image, mask = scene()
    kinds = {"grey": 0, "near": 0, "any": 0}
    mean = image[mask == 255].mean(0)
    for seed in range(60):
        photograph, matte = Augmentation(synthesis=1)(image, mask, SIZE, np.random.default_rng(seed))
        colours = photograph[:, matte[0] == 0].T.unique(dim=0)
        assert len(colours) == 1
        colour = colours[0].numpy().astype(float)
        grey = np.ptp(colour) == 0
        near = np.abs(colour - mean).max() < 50
        kinds["grey" if grey else "near" if near else "any"] += 1
    assert kinds["grey"] > 12
    assert kinds["near"] > 12
    assert kinds["any"] > 3


def test_camouflage_gives_a_background_the_colour_of_a_part_of_the_subject() -> None:
    """Half of it black, half white: grey, its mean, is no colour of its own."""
    image, mask = np.full((96, 96, 3), 60, np.uint8), np.zeros((96, 96), np.uint8)
    mask[24:72, 8:88], image[24:72, 8:48], image[24:72, 48:88] = 255, 20, 230
    ground = np.random.default_rng(0).integers(100, 140, (96, 96, 3), np.uint8)
    found = {"black": 0, "white": 0, "between": 0}
    for seed in range(40):
        photograph, matte = Augmentation(replace=1, camouflage=1)(
            image, mask, (96, 96), np.random.default_rng(seed), background=lambda: ground
        )
        behind = photograph[:, matte[0] == 0].float()
        assert behind.std() > 2, "the background has kept its texture"
        mean = float(behind.mean())
        found["black" if abs(mean - 20) < 4 else "white" if abs(mean - 230) < 4 else "between"] += 1
    assert min(found["black"], found["white"]) > 10
    assert found["between"] < 14  # spots on both sides of the middle


def test_hairs_have_the_subject_s_colours_and_stand_in_the_truth() -> None:
    """Red is the mask: hairs grow out of what is solid red, and the more of one, the redder the pixel."""
    image, mask = scene(120, 180)
    photograph, matte = NONE(image, mask, (120, 180), np.random.default_rng(0))
    grown = soft = 0
    for seed in range(8):
        changed, truth = Augmentation(hair=1)(image, mask, (120, 180), np.random.default_rng(seed))
        assert (changed[0].int() - truth[0].int()).abs().max() <= 2
        assert (truth >= matte).all()
        untouched = (truth == 0)[0]
        assert torch.equal(changed[:, untouched], photograph[:, untouched])
        grown += int((truth > matte).sum())
        soft += int(((truth > 0) & (truth < 255)).sum())
    assert grown > 1000
    assert soft > 1000


@pytest.mark.parametrize("level", [0, 200, 255], ids=["none", "nowhere solid", "all of it"])
def test_what_has_no_outline_grows_no_hair(level: int) -> None:
    image, mask = scene()
    mask[:] = level
    whole = NONE(image, mask, SIZE, np.random.default_rng(0))
    haired = Augmentation(hair=1)(image, mask, SIZE, np.random.default_rng(0))
    assert torch.equal(haired[0], whole[0])
    assert torch.equal(haired[1], whole[1])


def test_a_piece_beside_the_subject_has_an_empty_truth() -> None:
    image, mask = scene()
    mask[:, :40] = 0
    mask[:, 40:] = 255
    photograph, matte = Augmentation(empty=1)(image, mask, SIZE, np.random.default_rng(0))
    assert matte.max() == 0
    assert photograph.shape == (3, *SIZE)
    mask[:] = 255
    assert Augmentation(empty=1)(image, mask, SIZE, np.random.default_rng(0))[1].min() == 255
    assert beside(np.zeros((4, 4), np.uint8)) == (slice(None), slice(None))


def test_a_scaled_and_turned_point_lands_where_geometry_says() -> None:
    """A picture half as large, turned by a quarter, moved: the map takes its pixels back."""
    a, b, c, d, e, f = affine((100, 100), scale=0.5, angle=90, shift=(10, 5))
    for x, y in itertools.product((0.0, 25.0, 50.0), repeat=2):
        # Forward: about the middle, counterclockwise on a screen whose y points down.
        turned = ((y - 50) * 0.5, -(x - 50) * 0.5)
        there = (turned[0] + 60, turned[1] + 55)
        back = (a * there[0] + b * there[1] + c, d * there[0] + e * there[1] + f)
        assert back == pytest.approx((x, y))


def test_colours_are_changed_by_the_factors_that_were_drawn() -> None:
    image, mask = np.full((32, 32, 3), (40, 80, 120), np.uint8), np.zeros((32, 32), np.uint8)
    image[:, 16:] = 120, 80, 40

    def changed(**limits: tuple[float, float]) -> Tensor:
        photograph, _ = Augmentation(**limits)(image, mask, (32, 32), np.random.default_rng(0))  # type: ignore[arg-type]
        return photograph[:, 0, 0].float()

    own = torch.tensor([40.0, 80, 120])
    grey = 0.299 * 40 + 0.587 * 80 + 0.114 * 120
    mean = (grey + 0.299 * 120 + 0.587 * 80 + 0.114 * 40) / 2
    near = {"rtol": 0, "atol": 1}  # rounded
    torch.testing.assert_close(changed(brightness=(1.5, 1.5)), 1.5 * own, **near)
    torch.testing.assert_close(changed(contrast=(0.5, 0.5)), (own + mean) / 2, **near)
    torch.testing.assert_close(changed(saturation=(0, 0)), torch.full((3,), grey), **near)
    both = changed(brightness=(2.2, 2.2), contrast=(0.5, 0.5))
    torch.testing.assert_close(both, 1.1 * (own + mean), **near)  # blue at 264 is not clipped in between


def test_pepper_hits_the_share_it_says() -> None:
    image = np.full((100, 100, 3), 77, np.uint8)
    photograph, _ = Augmentation(pepper=0.02)(image, image[..., 0], (100, 100), np.random.default_rng(0))
    changed = photograph[:, (photograph != 77).any(0)]
    assert 180 <= changed.shape[1] <= 200
    assert set(changed.unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"flip": 2.0}, "flip is 2.0, expected a probability from 0 to 1"),
        ({"area": (0.5, 1.5)}, r"area is \[0.5, 1.5\], expected least and largest, from 0.01 to 1.0"),
        ({"brightness": (2.0, 1.0)}, r"brightness is \[2.0, 1.0\], expected least and largest"),
        ({"contrast": (0.5, math.inf)}, r"contrast is \[0.5, inf\], expected least and largest"),
        ({"stretch": 0.5}, "stretch is 0.5, expected a factor of at least 1"),
        ({"stretch": math.inf}, "stretch is inf, expected a factor of at least 1"),
        ({"rotate": math.inf}, "rotate is inf, expected degrees from 0 to 180"),
    ],
)
def test_impossible_augmentations_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**setting)


def test_noise_darkens_nothing() -> None:
    """Values are rounded: cut off, every picture would lose half a grey level."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    means = [
        float(
            Augmentation(noise=1.0)(grey, grey[..., 0], (64, 64), np.random.default_rng(i))[0].double().mean()
        )
        for i in range(20)
    ]
    assert np.mean(means) == pytest.approx(100, abs=0.1)
