from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoupe.inference.compositing import composited, in_bits, shadow_of, straight, without_ground
from decoupe.inference.results import Matte

BITS = st.sampled_from([np.uint8, np.uint16])


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """A subject, a background, alpha and shade of any size, at the ends of their ranges as well."""
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kinds = [draw(BITS) for _ in range(2)]
    pictures = [rng.integers(0, np.iinfo(kind).max + 1, (height, width, 3)).astype(kind) for kind in kinds]
    alpha, shade = rng.uniform(-0.3, 1.3, (2, height, width)).clip(0, 1).astype(np.float32)
    return {"colours": pictures[0], "below": pictures[1], "alpha": alpha, "shade": shade}


def shares(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels.astype(np.float64) / np.iinfo(pixels.dtype).max


@given(layers(), BITS, st.booleans())
def test_over_a_background(of: dict[str, Any], bits: Any, shaded: bool) -> None:
    shade = of["shade"] if shaded else None
    made = composited(of["colours"], of["below"], of["alpha"], shade=shade, bits=bits)
    below = shares(of["below"]) * (1 - (of["shade"] if shaded else 0 * of["shade"])[..., None])
    expected = below + of["alpha"][..., None] * (shares(of["colours"]) - below)
    assert (made.dtype, made.shape) == (bits, of["colours"].shape)
    # Half a level of rounding, and as much again where 16 bits become 8 first.
    assert np.abs(shares(made) - expected).max() <= 1.001 / np.iinfo(bits).max + 1e-6


@given(layers(), BITS)
def test_on_transparent_ground_over_a_shadow_all_is_as_the_layers_would_be_seen(
    of: dict[str, Any], bits: Any
) -> None:
    made = straight(of["colours"], of["alpha"], shade=of["shade"], bits=bits)
    seen = shares(made[..., :3]) * shares(made[..., 3:])
    assert np.abs(seen - of["alpha"][..., None] * shares(of["colours"])).max() <= 2 / 255
    covered = 1 - (1 - of["alpha"]) * (1 - of["shade"])
    assert np.abs(shares(made[..., 3]) - covered).max() <= 1.5 / 255
    assert not made[made[..., 3] == 0].any()


@given(layers(), BITS)
def test_nothing_of_the_background_is_left_where_alpha_is_0(of: dict[str, Any], bits: Any) -> None:
    made = straight(of["colours"], of["alpha"], bits=bits)
    kept = straight(of["colours"], of["alpha"], bits=bits, keep_hidden=True)
    hidden = made[..., 3] == 0
    assert not made[hidden].any()
    assert np.array_equal(kept[..., :3], in_bits(of["colours"], bits))
    assert np.array_equal(made[~hidden], kept[~hidden])


def test_a_colour_covers_the_whole_picture() -> None:
    alpha = np.zeros((5, 7), np.float32)
    made = composited(np.zeros((5, 7, 3), np.uint8), np.array([[[9, 8, 7]]], np.uint8), alpha)
    assert np.array_equal(made, np.broadcast_to(np.array([9, 8, 7]), (5, 7, 3)))


def test_depths_are_changed_and_back_without_loss() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(in_bits(in_bits(levels, np.uint16), np.uint8), levels)
    assert in_bits(levels, np.uint16)[-1] == 65535
    assert in_bits(levels, np.uint8) is levels


@pytest.mark.parametrize("bits", [np.uint8, np.uint16])
def test_the_photograph_below_a_cut_out_is_as_translucent_as_it_was(bits: Any) -> None:
    """As a layer it showed the grey that the model sees below it."""
    step, opacity = np.iinfo(bits).max // 255, np.full((6, 8), 0.5, np.float32)
    opacity[:2] = 0
    seen = np.full((6, 8, 3), 160 * step, bits)  # of 192, over 128
    assert (without_ground(seen, opacity)[2:] == 192 * step).all()
    photograph = np.asarray(Matte(opacity, seen, opacity=opacity).layers()["photograph"])
    assert photograph[3, 3].tolist() == [192, 192, 192, 128]
    assert not photograph[0].any()
    whole = Matte(np.ones((6, 8), np.float32), seen)
    assert whole.layers()["photograph"].mode == "RGB"


def test_a_shadow_of_nothing_is_none() -> None:
    assert not shadow_of(np.zeros((9, 9), np.float32), 1).any()
