"""Pixel losses of figure-ground segmentation, each a plain function of two maps.

Unless told otherwise ``prediction`` ``(…, N, 1, H, W)`` holds probabilities in [0, 1] (the sigmoid of the
logits), ``target`` ``(N, 1, H, W)`` the ground truth of each of these maps, and the result is a scalar; the
maps of several levels, stacked in front, enter a mean or a sum like those of a larger batch. The terms and
weights of BiRefNet's training are those of Zheng et al. 2024, section III-E, and of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from decoupe.errors import ConfigError, unknown
from decoupe.layers.blocks import resize
from decoupe.layers.pyramid import reduce

GradientMask = Literal["prediction", "dilated"]


def enlarged(x: Tensor, size: Sequence[int], *, align_corners: bool = True) -> Tensor:
    """`decoupe.layers.blocks.resize`, for maps of one channel that become much larger.

    Enlarging is separable: a matrix product a side takes half as long on a CPU, forwards and backwards.

    Args:
        x: ``(..., h, w)``.
        size: ``(H, W)``.
        align_corners: whether the outermost pixels' centres stay the outermost, or their outlines do.
    """
    if 2 * x.shape[-2] > size[0] or 2 * x.shape[-1] > size[1]:
        return resize(x, size, align_corners=align_corners)
    rows, columns = (
        interpolation(old, new, x, align_corners=align_corners)
        for old, new in zip(x.shape[-2:], size, strict=True)
    )
    return rows @ x @ columns.T


def interpolation(old: int, new: int, like: Tensor, *, align_corners: bool) -> Tensor:
    """The matrix ``(new, old)`` that interpolates a line of ``old`` pixels linearly at ``new`` places."""
    place = torch.arange(new, dtype=like.dtype, device=like.device)
    if align_corners:
        place = place * ((old - 1) / max(new - 1, 1))
    else:
        place = ((place + 0.5) * (old / new) - 0.5).clamp(0, old - 1)
    pixels = torch.arange(old, dtype=like.dtype, device=like.device)
    return (1 - (place[:, None] - pixels).abs()).clamp_min(0)


class _ProbabilityErrors(torch.autograd.Function):
    """Cross entropy of each probability; torch's own takes its logarithms one by one on a CPU."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(prediction, target)
        # Logarithms end at -100, as torch's do: a certain mistake costs much, but not everything.
        miss, hit = ((1 - prediction).log_().clamp_min_(-100), prediction.log().clamp_min_(-100))
        return miss.neg_().addcmul_(target, hit.add_(miss), value=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        prediction, target = ctx.saved_tensors
        slope = (prediction * (1 - prediction)).clamp_min_(1e-12)
        return (prediction - target).mul_(gradient).div_(slope), None


class _LogitErrors(torch.autograd.Function):
    """Cross entropy of each logit, with its derivative: softplus(x) − x·target, and sigmoid(x) − target."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        prediction = logits.sigmoid()
        ctx.save_for_backward(prediction, target)
        # softplus(x) is max(x, 0) and a rest, the logarithm of a number from 1/2 to 1. Its log1p form is ten
        # times slower on a CPU, and no more exact beside the linear part.
        rest = torch.maximum(prediction, 1 - prediction).log_()
        return logits.clamp_min(0).sub_(rest).addcmul_(logits, target, value=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        prediction, target = ctx.saved_tensors
        return (prediction - target).mul_(gradient), None


def bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, mean over pixels."""
    errors: Tensor = _ProbabilityErrors.apply(prediction, target)
    return errors.mean()


def logit_errors(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of each pixel, before the sigmoid; no gradient flows into the target."""
    errors: Tensor = _LogitErrors.apply(logits, target)
    return errors


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return (prediction - target).abs().mean()


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return ((prediction - target) ** 2).mean()


def iou(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union of each map, *summed* over all.

    An empty picture whose matte is empty too counts as a perfect match, not as 0/0.
    """
    intersection = (prediction * target).sum(dim=(-3, -2, -1))
    union = prediction.sum(dim=(-3, -2, -1)) + target.sum(dim=(-3, -2, -1)) - intersection
    tiny = torch.finfo(union.dtype).tiny
    return torch.where(union > tiny, 1 - intersection / union.clamp_min(tiny), 0).sum()


def patch_iou(prediction: Tensor, target: Tensor, *, size: int = 64) -> Tensor:
    """`iou` of every window of ``size`` pixels, averaged over the windows and summed over the batch.

    The windows tile the whole picture; those at the right and bottom edges may be smaller.
    """
    height, width = target.shape[-2:]
    rows, columns = range(0, height, size), range(0, width, size)
    windows = [(..., slice(y, y + size), slice(x, x + size)) for y in rows for x in columns]
    return torch.stack([iou(prediction[window], target[window]) for window in windows]).mean()


def ssim(prediction: Tensor, target: Tensor, *, size: int = 11, sigma: float = 1.5) -> Tensor:
    """1 − (1 + SSIM)/2, with the structural similarity of Wang et al. 2004 under a Gaussian window.

    Args:
        prediction: probabilities.
        target: ground truth.
        size: side of the window in pixels; outside the picture the window sees zeros.
        sigma: its standard deviation in pixels.
    """
    window = gaussian(size, sigma)
    mean_p, mean_t = blurred(prediction, window), blurred(target, window)
    covariance = blurred(prediction * target, window) - mean_p * mean_t
    squares = mean_p**2 + mean_t**2
    variances = blurred(prediction**2 + target**2, window) - squares  # of both together
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_p * mean_t + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return 1 - (1 + similarity.mean()) / 2


def gaussian(size: int, sigma: float) -> tuple[float, ...]:
    """A window's weights from its middle outwards, ``size // 2 + 1`` of them; the whole window sums to 1."""
    half = [math.exp(-(distance**2) / (2 * sigma**2)) for distance in range(size // 2 + 1)]
    total = half[0] + 2 * sum(half[1:])
    return tuple(weight / total for weight in half)


def blurred(x: Tensor, window: tuple[float, ...]) -> Tensor:
    """``x`` ``(…, H, W)`` under a symmetric window along both sides, zeros outside the picture.

    Args:
        x: maps.
        window: weights of a line, from its middle outwards.
    """
    result: Tensor = _Blur.apply(x, window)
    return result


class _Blur(torch.autograd.Function):
    """Shifted sums: on a CPU faster than a matrix product a side, and than convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[float, ...]) -> Tensor:
        ctx.window = window
        for side in (-1, -2):
            line = x * window[0]
            for distance, weight in enumerate(window[1 : x.shape[side]], start=1):
                length = x.shape[side] - distance
                line.narrow(side, distance, length).add_(x.narrow(side, 0, length), alpha=weight)
                line.narrow(side, 0, length).add_(x.narrow(side, distance, length), alpha=weight)
            x = line
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return blurred(gradient, ctx.window), None  # a symmetric window is its own adjoint


def contour(prediction: Tensor, target: Tensor, *, length_weight: float = 10.0) -> Tensor:
    """Active-contour loss (Chen et al., CVPR 2019, equations 11 and 12): contour length and regions."""
    down = prediction.diff(dim=-2)[..., 1:, :-2] ** 2  # (…, N, 1, H-2, W-2)
    right = prediction.diff(dim=-1)[..., :-2, 1:] ** 2
    length = torch.sqrt(down + right + 1e-8).mean()  # 1e-8 keeps the root differentiable on flat ground
    regions = (prediction * (target - 1) ** 2).mean() + ((1 - prediction) * target**2).mean()
    return length_weight * length + regions


def threshold_regulariser(prediction: Tensor, target: Tensor) -> Tensor:
    """Pulls each pixel to 0 or 1 whatever the truth: ``mean(1 − (p² + (p − 1)²))``."""
    del target
    return (1 - (prediction**2 + (prediction - 1) ** 2)).mean()


def boundary_weight(target: Tensor, *, size: int = 31) -> Tensor:
    """1 + 5·|local mean − target| over windows of ``size`` pixels, zeros outside the picture.

    Pixels near an outline weigh up to six times more.
    """
    # A box is separable: one matrix product a side, on a CPU faster than pooling.
    rows, columns = (box_band(length, size, target) for length in target.shape[-2:])
    return 1 + 5 * (rows @ target @ columns - target).abs()


def box_band(length: int, size: int, like: Tensor) -> Tensor:
    """The symmetric ``(length, length)`` matrix that averages a line of pixels, zeros outside."""
    position = torch.arange(length, device=like.device)
    near = (position[:, None] - position).abs() <= size // 2
    return near.to(like.dtype) / size


def structure(logits: Tensor, target: Tensor) -> Tensor:
    """Boundary-weighted BCE plus boundary-weighted IoU (Wei et al., "F³Net", AAAI 2020). Takes *logits*.

    Intersection and union are the smaller and the larger of prediction and truth (Wang et al., "Jaccard
    metric losses", NeurIPS 2023). On hard masks that is what the paper's product gives; on soft ones the
    product is best where every alpha below one half is 0, and this where prediction is the truth.

    Args:
        logits: before the sigmoid, ``(…, N, 1, H, W)``.
        target: ground truth.
    """
    weight = boundary_weight(target)
    weighted_bce = (weight * logit_errors(logits, target)).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1))
    prediction = logits.sigmoid()
    intersection = (weight * torch.minimum(prediction, target)).sum(dim=(-2, -1))
    union = (weight * torch.maximum(prediction, target)).sum(dim=(-2, -1))
    weighted_iou = 1 - (intersection + 1) / (union + 1)
    return (weighted_bce + weighted_iou).mean()


def picture_gradient(image: Tensor) -> Tensor:
    """The 5×5 Laplacian of the channel mean: image ``(N, 3, H, W)`` -> ``(N, 1, H, W)``.

    The kernel is all ones but −24 in the middle, over the sum of its magnitudes; edges are mirrored.
    """
    grey = image.mean(dim=1, keepdim=True)
    around = blurred(F.pad(grey, (2, 2, 2, 2), mode="reflect"), (1.0, 1.0, 1.0))[..., 2:-2, 2:-2]
    return (around - 25 * grey) / 48


def gradient_label(gradient: Tensor, side_logits: Tensor, *, mask: GradientMask = "prediction") -> Tensor:
    """What the outward reference learns: the picture's gradients where the subject is.

    Args:
        gradient: `picture_gradient` of the normalised picture, ``(N, 1, H, W)``.
        side_logits: of the same level, ``(…, N, 1, h, w)``.
        mask: ``"prediction"`` multiplies the gradients by the resized logits, as the released code does;
            ``"dilated"`` by a morphological dilation of the predicted mask, so that detail just outside
            is kept (Zheng et al. 2024, section III-D).

    Returns:
        A label *before the sigmoid*, ``(…, N, 1, H, W)``.
    """
    if mask not in get_args(GradientMask):
        raise ConfigError(unknown("gradient mask", mask, get_args(GradientMask)))
    where = enlarged(side_logits, gradient.shape[-2:])
    if mask == "dilated":
        size = 2 * (max(gradient.shape[-2:]) // 64) + 1
        maps = where.sigmoid().flatten(0, -4)
        where = F.max_pool2d(maps, size, stride=1, padding=size // 2).view_as(where)
    return gradient * where


def gradient_bce(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of predicted gradient maps against their labels; both are given before the sigmoid.

    A label is a target: no gradient flows into it.
    """
    return logit_errors(logits, label.detach().sigmoid()).mean()


def boundary_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy times `boundary_weight`, mean over pixels: not divided by the weights. Takes *logits*.

    The target may be soft, as the coarser levels of a mask's pyramid are.
    """
    return (boundary_weight(target) * logit_errors(logits, target)).mean()


def pixel_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union of each *pixel*, both plus one, mean over pixels."""
    intersection = prediction * target
    union = prediction + target - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def pyramid_consistency(coarse: Tensor, fine: Tensor) -> Tensor:
    """Mean difference between a map and the finer one reduced to its size (Kim et al. 2022, section 3.2).

    Args:
        coarse: logits ``(N, 1, ceil(H/2), ceil(W/2))``.
        fine: logits ``(N, 1, H, W)``: the example to follow, so no gradient flows into it.
    """
    return F.l1_loss(coarse, reduce(fine).detach())
