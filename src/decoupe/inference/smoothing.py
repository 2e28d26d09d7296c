"""Mattes of successive frames that do not flicker where nothing moves, and do not lag where something does.

Each pixel has a Kalman filter (Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960)
whose process noise is what the picture says: where it differs from its own running mean by no more than its
noise, the matte's mean goes on; where it differs by more, something moved, and the new matte counts alone.
Matte and picture are averaged by the same gains, so slow motion adds up until it is seen. The noise is
estimated from the pictures themselves; `benchmarks/video.py` measures what it brings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from decoupe.arrays import Floats, Pixels
from decoupe.inference.edits import grown
from decoupe.inference.preprocess import resize_plane

LEAST_GAIN = 0.3
"""Of a new matte where nothing moves: the mean reaches back about six frames."""

_SIDE = 480  # change is looked for in pictures reduced to about this longer side, which lowers their noise
_LEAST_NOISE = 0.4  # of 255: compressed video has flat parts without any noise
_STILL, _MOVED = 1.3, 2.0  # mean squares of the change, in those of noise: below the first all is still


class Known(NamedTuple):
    """What is known after a frame.

    Attributes:
        alpha: the smoothed matte, ``(H, W)``.
        picture: the running mean of the reduced pictures, ``(h, w, 3)`` in 0 to 255.
        variance: of the means, in units of one frame's, ``(h, w)``.
    """

    alpha: Floats
    picture: Floats
    variance: Floats


class Smoother:
    """The matte of each frame in the light of those before: ``smoother(image, alpha)``, in their order.

    A frame of another size starts anew.

    Args:
        known: what another smoother knew, to go on from there.

    Attributes:
        known: what it knows; None before the first frame.
    """

    def __init__(self, known: Known | None = None) -> None:
        self.known = known

    def __call__(self, image: Pixels, alpha: Floats) -> Floats:
        """The smoothed matte of the next frame.

        Args:
            image: RGB ``(H, W, 3)``, uint8 or uint16.
            alpha: its matte, float32 ``(H, W)`` in [0, 1].

        Returns:
            float32 ``(H, W)`` in [0, 1].
        """
        picture = _reduced(image)
        if self.known is None or self.known.alpha.shape != alpha.shape:
            self.known = Known(alpha, picture, np.ones(picture.shape[:2], np.float32))
            return alpha
        before = self.known
        change = picture - before.picture
        moving = _moving(change, before.variance, noise_of(picture))
        gain = np.maximum(before.variance / (before.variance + 1), LEAST_GAIN)
        gain += moving * (1 - gain)
        everywhere = resize_plane(gain, alpha.shape).clip(0, 1)
        self.known = Known(
            alpha=(before.alpha + everywhere * (alpha - before.alpha)).clip(0, 1),
            picture=before.picture + gain[..., np.newaxis] * change,
            variance=gain,  # the filter's (1 − K)·P, where P is in units of the measurement's variance
        )
        return self.known.alpha


def noise_of(picture: Floats) -> float:
    """The standard deviation of a picture's ``(h, w, 3)`` noise, in its own units.

    Of second differences, which slow changes of colour do not reach (Immerkær, "Fast Noise Variance
    Estimation", 1996); their lower quartile, as outlines and texture lie above it.
    """
    across = picture[:, 2:] - 2 * picture[:, 1:-1] + picture[:, :-2]
    both = across[2:] - 2 * across[1:-1] + across[:-2]
    if both.size == 0:
        return _LEAST_NOISE
    # The quartile of |x| is at 0.3186 of a Gaussian's deviation; the filter multiplies that by 6.
    return max(_LEAST_NOISE, float(np.quantile(np.abs(both), 0.25)) / (0.3186 * 6))


def _reduced(image: Pixels) -> Floats:
    """``image`` as means of squares of pixels, ``(h, w, 3)`` in 0 to 255."""
    height, width = image.shape[:2]
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    factor = max(1, round(max(height, width) / _SIDE))
    return np.asarray(Image.fromarray(image).reduce(factor), np.float32)


def _moving(change: Floats, variance: Floats, noise: float) -> Floats:
    """How surely each pixel ``(h, w)`` of the reduced picture moved: 0 to 1."""
    square = (change**2).mean(axis=2)
    share = _near(_near(square / (noise**2 * (1 + variance))))
    moving = ((share - _STILL) / (_MOVED - _STILL)).clip(0, 1)
    return grown(moving.astype(np.float32), 1)


def _near(plane: Floats) -> Floats:
    """The means of ``plane`` over 3×3 pixels."""
    wide = np.pad(plane, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    means: Floats = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return means
