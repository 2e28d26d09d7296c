"""What is traced: a model between one batch of pictures and the arrays that a runtime gives."""

from __future__ import annotations

from torch import Tensor, nn

GRID = 32
"""Sides of what an exported model takes are multiples of this many pixels, as its deepest map wants it."""


class MatteGraph(nn.Module):
    """A matte model's logits and their sigmoid, nothing of its training outputs."""

    inputs: tuple[str, ...] = ("image",)
    outputs = ("alpha",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> alpha ``(N, 1, H, W)`` in [0, 1]."""
        alpha: Tensor = self.model(image).logits.sigmoid()
        return alpha


class TwoScaleGraph(MatteGraph):
    """An InSPyReNet that looks twice: at the whole, and closer (section 3.3 of its paper)."""

    inputs = ("image", "low")

    def forward(self, image: Tensor, low: Tensor) -> Tensor:  # type: ignore[override]  # one look more
        """``(N, 3, H, W)`` and ``(N, 3, h, w)`` -> alpha ``(N, 1, H, W)`` in [0, 1]."""
        alpha: Tensor = self.model(image, low).logits.sigmoid()
        return alpha


class SegmentGraph(nn.Module):
    """A MaskFormer's classes and masks."""

    inputs = ("image",)
    outputs = ("class_logits", "mask_logits")

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 3, H, W)`` -> class logits ``(N, Q, K + 1)``, mask logits ``(N, Q, H/4, W/4)``."""
        out = self.model(image)
        return out.class_logits, out.mask_logits


class Gridded(nn.Module):
    """A graph that takes each picture as a grid of `GRID`×`GRID` pixels: ``(N, 3, rows, 32, columns, 32)``.

    The tracer then knows that sides are multiples. Told so beside the sizes, it would carry every division
    and remainder on, for minutes.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *pictures: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the graph gives for the pictures."""
        found: Tensor | tuple[Tensor, ...] = self.inner(*(x.flatten(2, 3).flatten(3, 4) for x in pictures))
        return found
