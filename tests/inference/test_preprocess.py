from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decoupe.errors import InputError
from decoupe.inference.pictures import Picture
from decoupe.inference.preprocess import (
    LONGEST_ASPECT,
    from_network,
    network_size,
    part_to_network,
    to_network,
)
from inference.tiny import KEEP, STRETCH

sides = st.integers(1, 5000)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides)
def test_keep_holds_area_aspect_and_multiple(height: int, width: int) -> None:
    got = network_size((height, width), KEEP)
    assert all(side % KEEP.multiple == 0 and side >= KEEP.multiple for side in got)
    aspect = min(max(width / height, 1 / LONGEST_ASPECT), LONGEST_ASPECT)
    wanted = (64 / aspect**0.5, 64 * aspect**0.5)
    assert all(
        abs(a - b) <= KEEP.multiple / 2 + 1e-9 or a == KEEP.multiple for a, b in zip(got, wanted, strict=True)
    )
    assert network_size((height, width), STRETCH) == STRETCH.size


def test_sizes_by_hand() -> None:
    assert network_size((300, 400), KEEP, "native") == (304, 400)
    assert network_size((300, 400), STRETCH, 128) == (128, 128)
    assert network_size((300, 400), STRETCH, (64, 128)) == (64, 128)
    assert network_size((100, 100), KEEP, (64, 256)) == (128, 128)
    with pytest.raises(InputError, match="100×100, expected multiples of 16: use 96×96"):
        network_size((300, 400), STRETCH, 100)
    with pytest.raises(InputError, match="expected positive"):
        network_size((300, 400), KEEP, -32)
    for size in ("large", True, (True, True), 320.0, [320, 320], (320,)):
        with pytest.raises(InputError, match="expected a number"):
            network_size((300, 400), KEEP, size)
    assert network_size((300, 400), STRETCH, np.int64(128)) == (128, 128)
    assert network_size((300, 400), STRETCH, (np.int32(64), 128)) == (64, 128)


def test_input_is_pillow_bilinear_then_normalised() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    got = to_network(Picture(pixels), (32, 48), STRETCH)
    resized = np.asarray(Image.fromarray(pixels).resize((48, 32), Image.Resampling.BILINEAR))
    wanted = (resized / 255 - STRETCH.mean) / STRETCH.std
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize("wide", [False, True])
@given(
    own=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seen=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=60, deadline=None)
def test_a_part_is_that_of_the_whole(
    wide: bool, own: tuple[int, int], seen: tuple[int, int], corner: tuple[float, float]
) -> None:
    kind = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (*own, 3), endpoint=True).astype(kind)
    starts = [int(share * (side - 1)) for share, side in zip(corner, seen, strict=True)]
    place = tuple(slice(start, min(start + 24, side)) for start, side in zip(starts, seen, strict=True))
    part = part_to_network(Picture(pixels), seen, place, STRETCH)
    whole = to_network(Picture(pixels), seen, STRETCH)[(slice(None), *place)]
    # Of 8 bits Pillow rounds twice, along rows and along columns, and each time now and then the other way.
    assert np.abs(part - whole).max() <= (1e-5 if wide else 2.01 / 255 / min(STRETCH.std))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_way_back_has_the_pictures_size_and_never_overshoots(height: int, width: int) -> None:
    step = np.zeros((16, 16), np.float32)
    step[:, 8:] = 1
    alpha = from_network(step, Picture(np.zeros((height, width, 3), np.uint8)))
    assert alpha.shape == (height, width)
    assert alpha.dtype == np.float32
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert (np.diff(alpha, axis=1) >= -1e-6).all()
