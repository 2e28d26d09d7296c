"""Types of arrays that many modules share."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.intp]
Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""RGB or grey values of 8 or 16 bits."""
Box: TypeAlias = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` in pixels; x1 and y1 are just outside."""
