from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decoupe.errors import InputError
from decoupe.training.augment import Augmentation, beside
from decoupe.training.data import (
    MatteDataset,
    Sample,
    Schedule,
    find_pairs,
    fingerprint,
    fingerprints,
    near_duplicate_groups,
    read_pair,
    split,
    spread,
)

PLAIN = Augmentation(
    empty=0, paste=0, brightness=0, contrast=0, saturation=0, grey=0, blur=0, noise=0, jpeg=0
)
NOTHING = (np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))


def test_pairs_are_found_by_name(discs: Path) -> None:
    pairs = find_pairs(discs)
    assert len(pairs) == 24
    assert all(pair.image.stem == pair.mask.stem for pair in pairs)


def test_other_folder_names(discs: Path) -> None:
    (discs / "im").rename(discs / "Imgs")
    (discs / "gt").rename(discs / "masks")
    assert len(find_pairs(discs)) == 24


def test_a_missing_mask_is_named(discs: Path) -> None:
    (discs / "gt" / "disc03.png").unlink()
    with pytest.raises(InputError, match=r"1 photographs of .* have no mask, disc03.jpg first"):
        find_pairs(discs)


def test_a_folder_without_a_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no matte set: expected"):
        find_pairs(tmp_path)


def test_sizes_that_differ_are_told(discs: Path) -> None:
    pair = find_pairs(discs)[0]
    Image.new("L", (48, 64)).save(pair.mask)
    with pytest.raises(InputError, match=r"48×64, its photograph 64×48: make them the same"):
        read_pair(pair)


def test_a_broken_picture_is_named(discs: Path) -> None:
    pair = find_pairs(discs)[0]
    pair.image.write_bytes(pair.image.read_bytes()[:200])
    for read in (read_pair, fingerprint):
        with pytest.raises(InputError, match=rf"{pair.image.name} cannot be read"):
            read(pair)


def test_hidden_files_are_no_pictures(discs: Path) -> None:
    (discs / "im" / ".DS_Store").write_bytes(b"of another system")
    assert len(find_pairs(discs)) == 24


def test_near_duplicates_never_stand_on_both_sides(discs: Path) -> None:
    for kind, suffix in (("im", "jpg"), ("gt", "png")):
        shutil.copy(discs / kind / f"disc05.{suffix}", discs / kind / f"disc05b.{suffix}")
    with Image.open(discs / "im" / "disc05b.jpg") as opened:
        opened.save(discs / "im" / "disc05b.jpg", quality=60)
    pairs = find_pairs(discs)
    group = near_duplicate_groups(fingerprints(pairs), bits=4)
    row = {pair.image.stem: i for i, pair in enumerate(pairs)}
    assert group[row["disc05"]] == group[row["disc05b"]]
    for seed in range(10):
        train, held_out = split(pairs, 4, seed=seed)
        assert len(held_out) == 4
        assert not set(train) & set(held_out)
        names = {pair.image.stem for pair in held_out}
        if names & {"disc05", "disc05b"}:
            assert not {pair.image.stem for pair in train} & {"disc05", "disc05b"}


def test_a_part_of_a_set_is_taken_from_all_of_it(discs: Path) -> None:
    pairs = find_pairs(discs)
    assert spread(pairs, 5) == [pairs[index] for index in (0, 4, 9, 14, 19)]
    assert spread(pairs, 24) == spread(pairs, 99) == pairs


def test_split_is_a_function_of_its_seed(discs: Path) -> None:
    pairs = find_pairs(discs)
    assert split(pairs, 5, seed=1) == split(pairs, 5, seed=1)
    assert split(pairs, 5, seed=1) != split(pairs, 5, seed=2)


def test_samples_are_a_function_of_seed_and_position(discs: Path) -> None:
    dataset = MatteDataset(find_pairs(discs), Augmentation(), seed=3, longest=64)
    first = dataset[Sample(4, 11, 32)]
    assert all(torch.equal(a, b) for a, b in zip(first, dataset[Sample(4, 11, 32)], strict=True))
    assert not torch.equal(first[0], dataset[Sample(4, 12, 32)][0])


def test_every_epoch_shows_every_pair_as_often_as_it_should() -> None:
    schedule = list(Schedule((1, 2, 1, 3), [32] * 3 + [64] * 4, batch_size=3, seed=0))
    samples = [sample for batch in schedule for sample in batch]
    assert [sample.position for sample in samples] == list(range(21))
    epochs = [[sample.pair for sample in samples[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(epoch) == [0, 1, 1, 2, 3, 3, 3] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert {len({sample.size for sample in batch}) for batch in schedule} == {1}
    assert [batch[0].size for batch in schedule] == [32] * 3 + [64] * 4


def test_an_interrupted_schedule_goes_on_where_it_stopped() -> None:
    repeats, sizes = (1, 2, 1, 3), [32] * 9
    whole = list(Schedule(repeats, sizes, batch_size=4, seed=5))
    rest = Schedule(repeats, sizes, batch_size=4, seed=5, start=3)
    assert list(rest) == whole[3:]
    assert len(rest) == 6


@settings(max_examples=25, deadline=None)
@given(width=st.integers(8, 90), height=st.integers(8, 90), seed=st.integers(0, 2**32 - 1))
def test_photograph_and_mask_move_together(width: int, height: int, seed: int) -> None:
    """A picture that is its own mask stays its own mask through crop, stretch and flip."""
    rng = np.random.default_rng(seed)
    mask = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6), np.uint8)).resize((width, height)))
    picture = np.repeat(mask[..., None], 3, axis=2)
    pixels, matte = PLAIN(picture, mask, NOTHING, 32, rng)
    assert pixels.shape == (3, 32, 32)
    assert matte.shape == (1, 32, 32)
    assert int((pixels.int() - matte.int()).abs().max()) <= 1


def test_colours_change_and_the_mask_does_not() -> None:
    augmentation = Augmentation(
        area=(1, 1), stretch=1, flip=0, empty=0, paste=0, grey=1, noise=1, blur=1, jpeg=1
    )
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
    mask = rng.integers(0, 256, (32, 32), np.uint8)
    pixels, matte = augmentation(picture, mask, NOTHING, 32, rng)
    assert torch.equal(matte[0], torch.from_numpy(mask))
    assert not torch.equal(pixels, torch.from_numpy(picture).permute(2, 0, 1))


def disc(colour: int, ground: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey disc in the left half of a picture of another grey."""
    rows, columns = np.mgrid[:60, :90]
    mask = np.where((rows - 30) ** 2 + (columns - 22) ** 2 < 200, 255, 0).astype(np.uint8)
    return np.where(mask[..., None] > 0, colour, ground).astype(np.uint8).repeat(3, axis=2), mask


@pytest.mark.parametrize("seed", range(8))
def test_a_piece_beside_the_subject_has_an_empty_truth(seed: int) -> None:
    always = dataclasses.replace(PLAIN, empty=1.0)
    pixels, matte = always(*disc(250, 40), NOTHING, 32, np.random.default_rng(seed))
    assert not matte.any()
    assert (pixels == 40).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_pasted_subject_stands_on_the_other_background(seed: int) -> None:
    """Its own ground is gone, the other's subject does not come along, and the mask tells the truth."""
    always = dataclasses.replace(PLAIN, paste=1.0)
    pixels, matte = always(*disc(250, 40), disc(130, 90), 32, np.random.default_rng(seed))
    assert (pixels[:, matte[0] == 255] == 250).all()
    assert (pixels[:, matte[0] == 0] == 90).all()


def test_no_room_beside_the_subject() -> None:
    """A subject that fills the picture leaves no piece; an empty picture is one."""
    assert beside(np.full((20, 30), 255, np.uint8)) is None
    assert beside(np.zeros((20, 30), np.uint8)) == (slice(None), slice(None))
