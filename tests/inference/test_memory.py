"""The plan of what fits in memory, and pictures seen in tiles."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from decoupe import InputError, ModelError, Predictor, SizeWarning
from decoupe.inference.pictures import Picture, read_image
from decoupe.inference.tiles import near_outlines, tile_side, tile_weights, tiled
from decoupe.memory import Footprint, container_free, free, parse_memory, plan, shown
from decoupe.models.footprint import HELD, footprint, peak
from decoupe.weights.registry import Preprocessing

PREPROCESSING = Preprocessing((64, 64), fit="keep", size_range=(32, 512), multiple=16)
PLENTY = 10**13


class Known:
    """A runtime that takes 1000 bytes a pixel and sees red; it remembers its batches."""

    name, engine, device, dtype = "known", "hand", "cpu", "float32"
    notes, normalises = (), False
    preprocessing = PREPROCESSING

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def footprint(self) -> Footprint:
        return Footprint(100_000, 1000)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images.shape)
        alpha: np.ndarray = 1 / (1 + np.exp(-8 * images[:, :1]))
        return alpha


def disc(side: int = 256) -> np.ndarray:
    """A red disc on blue."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    inside = np.hypot(rows, columns)[..., None] < side / 4
    return np.where(inside, [230, 20, 20], [20, 20, 230]).astype(np.uint8)


@pytest.fixture
def holding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds one megabyte."""
    monkeypatch.setattr("decoupe.memory.held", lambda device: 1_000_000)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (123, 123),
        ("4GB", 4_000_000_000),
        ("4g", 4_000_000_000),
        (" 800 MB ", 800_000_000),
        ("1.5GiB", 1_610_612_736),
        ("64 ki", 65_536),
    ],
)
def test_budgets_are_read(written: int | str, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize("written", ["", "much", "-4GB", "0", 0, -3, "4 apples", "4TBB", "GB", "1e9"])
def test_what_is_no_budget_is_refused(written: int | str) -> None:
    with pytest.raises(InputError, match="expected bytes or a size: such as 4GB or 800MB"):
        parse_memory(written)


def test_sizes_are_shown_for_a_reader() -> None:
    assert [shown(size) for size in (3_140_000_000, 160_000_000, 42_000_000, -5)] == [
        "3.1 GB",
        "0.2 GB",
        "42 MB",
        "0 MB",
    ]


@pytest.mark.usefixtures("holding")
@pytest.mark.parametrize(
    ("budget", "batch"),
    # 64×64 pixels take 4.1 MB each and 0.1 MB once, beside the megabyte that is held.
    [(PLENTY, 5), (22_000_000, 5), (14_000_000, 3), (5_200_000, 1), (5_100_000, 0), (900_000, 0)],
)
def test_as_many_pictures_at_once_as_fit(budget: int, batch: int) -> None:
    found = plan(Known(), 64 * 64, 5, budget)
    assert found.batch == batch
    assert found.needed in (None, 100_000 + 64 * 64 * 1000)
    if found.batch:
        assert batch * 64 * 64 <= found.pixels


@pytest.mark.usefixtures("holding")
def test_what_comes_of_the_pictures_has_its_room_too() -> None:
    assert plan(Known(), 64 * 64, 5, 22_000_000, results=8_000_000).batch == 3
    # A photograph of 10 megapixels: 80 MB for its matte, and while it is enlarged.
    photograph = np.zeros((2500, 4000, 3), np.uint8)
    with pytest.raises(ModelError, match="no size fits"):
        Predictor(Known(), memory="70MB")(photograph)
    assert Predictor(Known(), memory="90MB")(photograph).alpha.shape == (2500, 4000)


def test_nothing_is_found_out_where_there_is_plenty() -> None:
    class Unknown(Known):
        def footprint(self) -> Footprint:
            raise AssertionError("measured for nothing")

    assert plan(Unknown(), 64 * 64, 5, PLENTY).batch == 5


@pytest.mark.usefixtures("holding")
def test_a_group_is_computed_in_batches_that_fit_and_gives_the_same() -> None:
    pictures = [disc(64) // (index + 1) for index in range(5)]
    whole, parts = Known(), Known()
    wanted = list(Predictor(whole, memory=PLENTY).map(pictures))
    found = list(Predictor(parts, memory="10MB").map(pictures))
    assert [batch[0] for batch in whole.batches] == [5]
    assert [batch[0] for batch in parts.batches] == [2, 2, 1]
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one.alpha, other.alpha)


@pytest.mark.usefixtures("holding")
def test_a_picture_that_does_not_fit_is_seen_in_tiles() -> None:
    whole, tiles = Known(), Known()
    wanted = Predictor(whole, size=256, memory=PLENTY)(disc()).alpha
    with pytest.warns(
        SizeWarning,
        match=r"known takes about 66 MB of memory at 256×256, 18 MB may be taken: seen in tiles of 112×112",
    ) as told:
        found = Predictor(tiles, size=256, memory="20MB")(disc()).alpha
    assert told[0].filename == __file__
    assert tiles.batches[0] == (1, 3, 64, 64)  # the glance, at the model's own size
    assert {batch[2:] for batch in tiles.batches[1:]} == {(112, 112)}  # three beside each other
    assert np.abs(found - wanted).max() < 0.02


@pytest.mark.usefixtures("holding")
def test_what_fits_nowhere_is_told_with_a_remedy() -> None:
    with pytest.raises(
        ModelError,
        match=r"takes about 66 MB of memory at 256×256, 0 MB may be taken beside the 1 MB that the process "
        r"holds; no size fits: choose a smaller model, or allow more \(memory=, --memory\)",
    ):
        Predictor(Known(), size=256, memory="1MB")(disc())


def test_what_fits_only_by_itself_is_computed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mattes of a batch are in memory together: those of eight such pictures take 4.7 MB."""
    monkeypatch.setattr("decoupe.memory.free", lambda device: 8_300_000)
    runtime = Known()
    assert len(list(Predictor(runtime).map([disc(360)] * 8, batch_size=8))) == 8
    assert runtime.batches == [(1, 3, 64, 64)] * 8


def test_map_holds_no_more_than_a_budget_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that it reads ahead are no reason to see one in tiles that fits by itself."""
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()

    def read(source: Any, max_pixels: int) -> Picture:
        picture = read_image(source, max_pixels)
        alive.add(picture)
        return picture

    def held(device: str) -> int:
        return 1_000_000 + sum(picture.pixels.nbytes for picture in list(alive))

    monkeypatch.setattr("decoupe.inference.opened.read_image", read)
    monkeypatch.setattr("decoupe.memory.held", held)
    pictures = [disc(600)] * 6
    # One megabyte is held, 4.2 are for computing, 1.1 for a picture, 2.9 for its matte while it is enlarged.
    runtime = Known()
    beside = [len(alive) for _ in Predictor(runtime, memory="10MB").map(iter(pictures), batch_size=4)]
    assert runtime.batches == [(1, 3, 64, 64)] * 6
    assert beside == [0] * 6
    # Room for two in each of three batches.
    runtime = Known()
    assert len(list(Predictor(runtime, memory="50MB").map(pictures, batch_size=4))) == 6
    assert runtime.batches == [(2, 3, 64, 64)] * 3
    runtime = Known()
    assert len(list(Predictor(runtime, memory=PLENTY).map(pictures, batch_size=4))) == 6
    assert [batch[0] for batch in runtime.batches] == [4, 2]


@pytest.mark.usefixtures("holding")
def test_map_under_a_budget_gives_what_comes_before_an_error() -> None:
    for budget in ("10MB", "50MB"):
        results = Predictor(Known(), memory=budget).map([disc(600), disc(600), b"broken", disc(600)])
        assert [next(results).alpha.shape for _ in range(2)] == [(600, 600)] * 2
        with pytest.raises(InputError, match="not a picture"):
            next(results)


def test_a_budget_that_is_none_is_refused_when_the_model_is_opened() -> None:
    with pytest.raises(InputError, match="memory is 'little'"):
        Predictor(Known(), memory="little")


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_tiles_cover_a_side_and_their_weights_sum_to_one(length: int, tile: int) -> None:
    tile = min(tile, length)
    total = np.zeros(length)
    for start, weight in tile_weights(length, tile):
        assert start + tile <= length
        assert weight.min() > 0
        total[start : start + tile] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(st.integers(1, 3000), st.integers(8, 400), st.sampled_from([1, 32]), st.integers(1, 300))
def test_tiles_are_no_larger_than_their_number_needs(
    length: int, most: int, multiple: int, least: int
) -> None:
    most = max(1, most // multiple) * multiple
    side = tile_side(length, most, multiple, least)
    assert side <= min(length, most)
    assert side >= min(length, most, least)
    assert len(tile_weights(length, side)) <= len(tile_weights(length, min(most, length)))


def test_two_tiles_of_a_side_just_beyond_one_overlap_by_a_quarter() -> None:
    assert tile_side(2048, 1536, 32) == 1184
    assert [start for start, _ in tile_weights(2048, 1184)] == [0, 864]


def test_neighbouring_tiles_share_a_quarter() -> None:
    starts = [start for start, _ in tile_weights(1000, 256)]
    assert starts[0] == 0
    assert starts[-1] == 1000 - 256
    assert max(np.diff(starts)) <= 192


def test_a_tile_that_lost_the_subject_is_not_believed() -> None:
    glance = np.zeros((64, 64), np.float32)
    glance[16:48, 16:48] = 1
    plain = np.asarray(Image.fromarray(glance).resize((256, 256), Image.Resampling.BILINEAR))
    found = tiled(lambda place: np.ones((96, 96), np.float32), (256, 256), glance, (96, 96))
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_tiles_are_seen_only_where_there_is_an_outline() -> None:
    seen = []

    def compute(place: tuple[slice, slice]) -> np.ndarray:
        seen.append(place)
        return np.zeros((64, 64), np.float32)

    glance = np.zeros((128, 128), np.float32)
    glance[30:34, 30:34] = 0.5
    tiled(compute, (512, 512), glance, (64, 64))
    assert 1 <= len(seen) <= 36  # of 121
    near = near_outlines(glance)
    assert near[31, 31] == pytest.approx(1, abs=1e-3)
    assert near[100, 100] == 0
    seen.clear()
    tiled(compute, (512, 512), np.ones((64, 64), np.float32), (64, 64))
    assert not seen


@pytest.mark.usefixtures("holding")
def test_tiles_take_the_room_that_they_are_planned_with() -> None:
    """Of a picture of six megapixels at its own size: its alpha twice, no copy of it as the model sees it."""
    image = np.zeros((2000, 3000, 3), np.uint8)
    image[500:1500, 1000:2000] = 230, 20, 20
    picture = read_image(image)
    predictor = Predictor(Known(), size="native", memory="800MB")
    tracemalloc.start()
    try:
        with pytest.warns(SizeWarning, match="seen in tiles"):
            predictor(picture)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12 * 2000 * 3000


@pytest.mark.usefixtures("holding")
def test_no_tile_is_smaller_than_the_weights_know() -> None:
    preprocessing = replace(PREPROCESSING, size_range=(96, 256))

    class Narrow(Known):
        def __init__(self) -> None:
            super().__init__()
            self.preprocessing = preprocessing

    runtime = Narrow()
    with pytest.warns(SizeWarning, match="seen in tiles of 96×96"):
        Predictor(runtime, size=160, memory="11.5MB")(disc(160))
    assert {batch[2:] for batch in runtime.batches[1:]} == {(96, 96)}


def test_tensors_alive_at_once_are_counted() -> None:
    model = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def run(side: int = 100) -> None:
        image = torch.zeros(1, 3, side, side)
        with torch.inference_mode():
            for _ in range(3):
                wide = model(image)  # the last one is alive while the next is made
                wide.flatten().view(8, -1)

    assert peak(model, run) == 4 * 100 * 100 * (3 + 8 + 8)
    found = footprint(model, run, (64, 128))
    assert found.fixed == HELD
    assert found.per_pixel == pytest.approx(1.15 * 4 * 19)
    assert found.of(100) == pytest.approx(HELD + 100 * found.per_pixel, abs=1)


def test_what_pytorch_keeps_on_a_device_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver counts it as taken: the second picture would be seen in tiles where the first fitted."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2, 24))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 20)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 3)
    assert free("cuda:0") == 2 + 17


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "inactive_file 300\n"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file 300\n"),
    ],
)
def test_a_containers_limit_is_observed(tmp_path: Path, limit: str, used: str, stat: str) -> None:
    assert container_free(tmp_path) == sys.maxsize
    for name, text in ((limit, "5000\n"), (used, "1200\n"), ("memory.stat", stat)):
        path = tmp_path / ("memory/" * limit.startswith("memory/") + name.rpartition("/")[2])
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert container_free(tmp_path) == 5000 - 1200 + 300
    (tmp_path / limit).write_text("max\n")
    assert container_free(tmp_path) == sys.maxsize


def test_what_another_thread_computes_in_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is free again when the turn comes: a picture's matte does not depend on what is beside it."""
    computing = threading.Event()
    monkeypatch.setattr("decoupe.memory.held", lambda device: 1_000_000 + 60_000_000 * computing.is_set())

    class Slow(Known):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            computing.set()
            time.sleep(0.3)
            computing.clear()
            return super().__call__(images)

    runtime = Slow()
    predictor = Predictor(runtime, size=256, memory="80MB")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(predictor, disc())
        assert computing.wait(20)
        second = pool.submit(predictor, disc())
        assert np.array_equal(first.result().alpha, second.result().alpha)
    assert runtime.batches == [(1, 3, 256, 256)] * 2
