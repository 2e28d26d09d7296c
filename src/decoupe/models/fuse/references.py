"""BiRefNet's inward references as single convolutions of the picture."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import without_autocast
from decoupe.models.birefnet import BiRefNet, InwardReference

CHANNELS = 3
"""Colour channels of a picture."""


class CollapsedReference(nn.Module):
    """An inward reference at full resolution and the 1×1 head over it, as one 5×5 convolution.

    Two 3×3 convolutions without an activation between are one of 5×5, except in the outermost pixels: there
    the second reads zeros beyond the edge, where the first would have given something. The logits of a cell
    of 4×4 pixels are the channels of one strided convolution: processors compute 16 channels as fast as one.

    Args:
        plain: the reference, at stride 1.
        head: ``(1, C, 1, 1)``, its C channels' weights in the head.
    """

    CELL = 4

    def __init__(self, plain: InwardReference, head: Tensor) -> None:
        super().__init__()
        first, second = cast("tuple[nn.Conv2d, nn.Conv2d]", tuple(plain.convs))
        self.first = first
        self.second = nn.Parameter(torch.einsum("oc,cihw->oihw", head[:, :, 0, 0], second.weight))
        self.bias = nn.Parameter(head[:, :, 0, 0] @ cast(Tensor, second.bias))
        whole = F.conv_transpose2d(self.second, first.weight)  # (1, 3, 5, 5)
        slack = self.CELL - 1
        places = [(row, column) for row in range(self.CELL) for column in range(self.CELL)]
        shifted = [F.pad(whole, (x, slack - x, y, slack - y)) for y, x in places]
        self.kernel = nn.Parameter(torch.cat(shifted))  # (16, 3, 8, 8)
        constant = self.bias + self.second.sum(dim=(2, 3)) @ cast(Tensor, first.bias)
        self.constant = nn.Parameter(constant.repeat(len(places)))

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)``, sides multiples of 4 -> its part of the logits ``(N, 1, H, W)``."""
        # Each pixel goes straight into its logit, at hardly any cost: always in full precision.
        with without_autocast(image.device):
            out = self.collapsed(image)
            out[:, :, :1] = self.pair(image[:, :, :3])[:, :, :1]
            out[:, :, -1:] = self.pair(image[:, :, -3:])[:, :, -1:]
            out[..., :1] = self.pair(image[..., :3])[..., :1]
            out[..., -1:] = self.pair(image[..., -3:])[..., -1:]
        return out

    def collapsed(self, image: Tensor) -> Tensor:
        """The 5×5 convolution, right but for the outermost pixels."""
        cells = F.conv2d(image, self.kernel, self.constant, stride=self.CELL, padding=2)
        return F.pixel_shuffle(cells, self.CELL)

    def pair(self, image: Tensor) -> Tensor:
        """The two convolutions, one after the other."""
        return F.conv2d(self.first(image), self.second, self.bias, padding=1)


def collapse_tail(model: BiRefNet) -> None:
    """Replace the reference at full resolution, if there is one, and take its weights out of the head."""
    decoder = model.decoder
    last = decoder.inward[-1] if decoder.inward else None
    if not isinstance(last, InwardReference):
        return
    own = decoder.head.in_channels - cast(nn.Conv2d, last.convs[-1]).out_channels
    weight = decoder.head.weight.detach()
    decoder.inward[-1] = CollapsedReference(last, weight[:, own:])
    head = nn.Conv2d(own, 1, 1)
    head.weight, head.bias = nn.Parameter(weight[:, :own].clone()), decoder.head.bias
    decoder.head = head


class StridedReference(nn.Module):
    """An inward reference of unshuffled pixels, as a strided convolution of the picture itself.

    A 3×3 convolution over cells of r×r pixels, whose pixels lie on channels, is one of 3r×3r pixels that goes
    r pixels at a step: nothing is moved about before it. Its weights keep their name.

    Args:
        plain: the reference.
    """

    def __init__(self, plain: InwardReference) -> None:
        super().__init__()
        first, second = cast("tuple[nn.Conv2d, nn.Conv2d]", tuple(plain.convs))
        side = 3 * plain.stride
        conv = nn.Conv2d(
            CHANNELS, first.out_channels, side, plain.stride, padding=plain.stride, device="meta"
        )
        conv.weight, conv.bias = nn.Parameter(over_pixels(first.weight, plain.stride)), first.bias
        self.convs = nn.Sequential(conv, second)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(N, 3, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``."""
        out: Tensor = self.convs(image)
        return out


def over_pixels(weight: Tensor, stride: int) -> Tensor:
    """Weights over unshuffled cells ``(out, 3·r², 3, 3)`` -> over the pixels ``(out, 3, 3r, 3r)``."""
    out, side = len(weight), 3 * stride
    cells = weight.reshape(out, CHANNELS, stride, stride, 3, 3)
    return cells.permute(0, 1, 4, 2, 5, 3).reshape(out, CHANNELS, side, side)


def over_cells(weight: Tensor) -> Tensor:
    """What `over_pixels` undoes: ``(out, 3, 3r, 3r)`` -> ``(out, 3·r², 3, 3)``."""
    out, stride = len(weight), weight.shape[-1] // 3
    pixels = weight.reshape(out, CHANNELS, 3, stride, 3, stride)
    return pixels.permute(0, 1, 3, 5, 2, 4).reshape(out, CHANNELS * stride**2, 3, 3)


def stride_references(model: BiRefNet) -> None:
    """Replace every inward reference of unshuffled pixels, in place."""
    for index, reference in enumerate(model.decoder.inward):
        if isinstance(reference, InwardReference) and reference.kind == "unshuffle":
            model.decoder.inward[index] = StridedReference(reference)
