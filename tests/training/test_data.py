from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.datasets.scenes import Scene
from decoupe.datasets.segment_sets import MatteSegments
from decoupe.datasets.sets import find_pairs
from decoupe.training import data
from decoupe.training.augment import POCKET
from decoupe.training.data import (
    Batches,
    MatteDataset,
    Sample,
    SegmentBatch,
    SegmentDataset,
    dynamic_size,
    normalised,
)
from decoupe.training.segment_augment import PLAIN
from decoupe.weights.registry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SMALL, LARGE = (32, 32), (64, 96)


def test_samples_are_a_function_of_seed_and_position(discs: Path) -> None:
    dataset = MatteDataset(find_pairs(discs), POCKET, seed=3, longest=64)
    first = dataset[Sample(4, 11, SMALL)]
    again = dataset[Sample(4, 11, SMALL)]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[3] == "disc04"
    assert not torch.equal(first[0], dataset[Sample(4, 12, SMALL)][0])


def test_what_does_not_fit_in_memory_is_read_anew_with_the_same_result(
    discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = MatteDataset(find_pairs(discs), POCKET, seed=3, longest=48)
    monkeypatch.setattr(data, "KEPT_SHARE", 0.0)
    anew = pickle.loads(pickle.dumps(MatteDataset(find_pairs(discs), POCKET, seed=3, longest=48)))
    assert isinstance(kept.read(0), tuple)
    assert kept.read(0) is kept.read(0)
    assert anew.read(0) is not anew.read(0)
    for position in range(6):
        one, other = (dataset[Sample(position, position, SMALL)] for dataset in (kept, anew))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("pictures", "processes", "kept"), [(48, 1, (True, True)), (47, 1, (True, False)), (48, 2, (True, False))]
)
def test_photographs_and_backgrounds_share_the_memory_of_a_machine_s_processes(
    discs: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, processes: int, kept: tuple[bool, bool]
) -> None:
    """24 of each, where there is room for so many ``pictures``."""
    monkeypatch.setattr(data, "KEPT_SHARE", 0.5)
    monkeypatch.setattr(data, "free", lambda device: 2 * pictures * data.decoded_size(1, 48))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    pairs = find_pairs(discs)
    dataset = MatteDataset(pairs, POCKET, seed=3, longest=48, backgrounds=[pair.image for pair in pairs])
    assert (
        dataset.read(0) is dataset.read(0),
        dataset.read_background(0) is dataset.read_background(0),
    ) == kept


def test_decoded_pictures_take_no_more_than_is_reckoned_with() -> None:
    """Of any shape: squares have the most pixels."""
    side = 48
    pair = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    assert data.decoded_size(2, side) == 2 * sum(one.nbytes for one in pair)
    scene = Scene(pair[0], np.zeros((side, side), np.int32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    assert data.decoded_size(1, side, 7) == scene.image.nbytes + scene.segments.nbytes


@pytest.mark.parametrize(("pixels", "kept"), [(6, False), (7, True)])
def test_scenes_are_kept_where_their_segments_fit_too(
    discs: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, kept: bool
) -> None:
    monkeypatch.setattr(data, "room_for_pictures", lambda: 24 * 48**2 * pixels)
    dataset = SegmentDataset(MatteSegments({"disc": find_pairs(discs)}), range(24), PLAIN, seed=3, longest=48)
    assert (dataset.read(0) is dataset.read(0)) is kept


def test_a_batch_of_mattes(discs: Path) -> None:
    dataset = MatteDataset(find_pairs(discs), POCKET, seed=3, longest=64)
    batch = dataset.collate([dataset[Sample(index, index, LARGE)] for index in range(3)])
    assert (batch.images.shape, batch.images.dtype) == ((3, 3, 64, 96), torch.uint8)
    assert (batch.masks.shape, batch.masks.dtype) == ((3, 1, 64, 96), torch.uint8)
    assert (batch.classes.tolist(), batch.names) == ([-1] * 3, ("disc00", "disc01", "disc02"))


def test_a_batch_of_segments_is_spread_into_masks(discs: Path) -> None:
    scenes = MatteSegments({"disc": find_pairs(discs)})
    dataset = SegmentDataset(scenes, range(8, 12), PLAIN, seed=3, longest=64)
    batch = dataset.collate([dataset[Sample(index, index, LARGE)] for index in range(2)])
    assert batch.names == ("disc08", "disc09")
    assert (batch.images.shape, batch.segments.shape) == ((2, 3, 64, 96), (2, 64, 96))
    for truth, segments, classes in zip(
        batch.truth(torch.device("cpu")), batch.segments, batch.classes, strict=True
    ):
        assert truth.masks.shape == (len(classes), 64, 96)
        assert torch.equal(truth.masks.sum(0), (segments >= 0).long())
        for number in range(len(classes)):
            assert torch.equal(truth.masks[number], segments == number)


def test_a_picture_without_segments_has_no_masks() -> None:
    batch = SegmentBatch(
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        torch.full((1, 4, 4), -1, dtype=torch.int32),
        (torch.zeros(0, dtype=torch.int64),),
        ("nothing",),
    )
    assert batch.truth(torch.device("cpu"))[0].masks.shape == (0, 4, 4)


def test_every_epoch_shows_every_picture_as_often_as_it_should() -> None:
    sizes = [SMALL] * 3 + [LARGE] * 4
    batches = list(Batches((1, 2, 1, 3), sizes.__getitem__, 7, batch_size=3, seed=0))
    samples = [sample for batch in batches for sample in batch]
    assert [sample.position for sample in samples] == list(range(21))
    epochs = [[sample.item for sample in samples[start : start + 7]] for start in (0, 7, 14)]
    assert all(sorted(epoch) == [0, 1, 1, 2, 3, 3, 3] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [batch[0].size for batch in batches] == sizes


def test_interrupted_batches_go_on_where_they_stopped() -> None:
    whole = list(Batches((1, 2, 1, 3), lambda step: SMALL, 9, batch_size=4, seed=5))
    rest = Batches((1, 2, 1, 3), lambda step: SMALL, 9, batch_size=4, seed=5, start=3)
    assert list(rest) == whole[3:]
    assert len(rest) == 6


@settings(max_examples=30, deadline=None)
@given(
    pictures=st.integers(1, 30),
    processes=st.integers(1, 4),
    parts=st.integers(1, 3),
    each=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_processes_and_parts_share_out_the_same_batches(
    pictures: int, processes: int, parts: int, each: int, seed: int
) -> None:
    batch_size = processes * parts * each

    def batches(parts: int, process: int, processes: int) -> list[list[Sample]]:
        return list(
            Batches(
                [1] * pictures,
                lambda step: SMALL,
                5,
                batch_size=batch_size,
                seed=seed,
                parts=parts,
                process=process,
                processes=processes,
            )
        )

    whole = batches(1, 0, 1)
    shared = [batches(parts, process, processes) for process in range(processes)]
    for step in range(5):
        together = [sample for part in range(parts) for one in shared for sample in one[step * parts + part]]
        assert together == whole[step]


@given(st.integers(0, 10_000))
def test_dynamic_sizes_are_multiples_within_their_limits(step: int) -> None:
    height, width = dynamic_size((256, 2304), 7, step)
    assert all(256 <= side <= 2304 and side % 32 == 0 for side in (height, width))
    assert dynamic_size((256, 2304), 7, step) == (height, width)


def test_dynamic_sizes_reach_both_ends() -> None:
    sides = {side for step in range(200) for side in dynamic_size((32, 96), 7, step)}
    assert sides == {32, 64, 96}


def test_pictures_are_normalised_as_the_network_will_see_them() -> None:
    images = torch.from_numpy(np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4))
    network = normalised(images, Preprocessing((32, 32)), torch.device("cpu"))
    for channel in range(3):
        expected = (images[0, channel] / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert torch.allclose(network[0, channel], expected)
    half = Preprocessing((32, 32), mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert torch.allclose(normalised(images, half, torch.device("cpu")), images / 255 - 0.5)
