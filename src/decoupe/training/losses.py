"""Pixel losses of figure-ground segmentation, each a plain function of two maps.

Unless told otherwise ``prediction`` ``(N, 1, H, W)`` holds probabilities in [0, 1] (the sigmoid of the
logits), ``target`` the ground truth of the same shape, and the result is a scalar. The terms and weights
of BiRefNet's training are those of Zheng et al. 2024, section III-E, and of the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from decoupe.errors import ConfigError, unknown
from decoupe.layers.blocks import resize
from decoupe.layers.pyramid import reduce


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


def bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, mean over pixels."""
    return F.binary_cross_entropy(prediction, target)


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(prediction, target)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(prediction, target)


def iou(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the soft intersection over union of each picture, *summed* over the batch.

    An empty picture whose matte is empty too counts as a perfect match, not as 0/0.
    """
    intersection = (prediction * target).sum(dim=(1, 2, 3))
    union = prediction.sum(dim=(1, 2, 3)) + target.sum(dim=(1, 2, 3)) - intersection
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
    # One matrix product a side blurs every map at once; single-channel convolutions are far slower.
    rows, columns = (gaussian_band(length, size, sigma, target) for length in target.shape[-2:])
    moments = torch.cat([prediction, target, prediction**2, target**2, prediction * target], dim=1)
    mean_p, mean_t, square_p, square_t, product = (rows @ moments @ columns).unbind(dim=1)
    variance_p, variance_t = square_p - mean_p**2, square_t - mean_t**2
    covariance = product - mean_p * mean_t
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_p**2 + mean_t**2 + c1) * (variance_p + variance_t + c2))
    return 1 - (1 + similarity.mean()) / 2


def gaussian_band(length: int, size: int, sigma: float, like: Tensor) -> Tensor:
    """The symmetric ``(length, length)`` matrix that blurs a line of pixels, zeros outside."""
    position = torch.arange(length, dtype=like.dtype, device=like.device)
    distance = (position[:, None] - position).abs()
    offsets = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    total = torch.exp(-(offsets**2) / (2 * sigma**2)).sum()
    return torch.where(distance <= size // 2, torch.exp(-(distance**2) / (2 * sigma**2)) / total, 0)


def contour(prediction: Tensor, target: Tensor, *, length_weight: float = 10.0) -> Tensor:
    """Active-contour loss (Chen et al., CVPR 2019, equations 11 and 12): contour length and regions."""
    down = prediction.diff(dim=2)[:, :, 1:, :-2] ** 2  # (N, 1, H-2, W-2)
    right = prediction.diff(dim=3)[:, :, :-2, 1:] ** 2
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
    # A box is separable: one matrix product a side, 7 times faster on a CPU than pooling.
    rows, columns = (box_band(length, size, target) for length in target.shape[-2:])
    return 1 + 5 * (rows @ target @ columns - target).abs()


def box_band(length: int, size: int, like: Tensor) -> Tensor:
    """The symmetric ``(length, length)`` matrix that averages a line of pixels, zeros outside."""
    position = torch.arange(length, device=like.device)
    near = (position[:, None] - position).abs() <= size // 2
    return near.to(like.dtype) / size


def structure(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Boundary-weighted BCE plus boundary-weighted IoU (Wei et al., "F³Net", AAAI 2020). Takes *logits*.

    Args:
        logits: before the sigmoid, ``(N, 1, H, W)``.
        target: ground truth.
        weight: `boundary_weight` of the target, where it has been computed already.
    """
    weight = boundary_weight(target) if weight is None else weight
    errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weighted_bce = (weight * errors).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    prediction = logits.sigmoid()
    intersection = (prediction * target * weight).sum(dim=(2, 3))
    total = ((prediction + target) * weight).sum(dim=(2, 3))
    weighted_iou = 1 - (intersection + 1) / (total - intersection + 1)
    return (weighted_bce + weighted_iou).mean()


def picture_gradient(image: Tensor) -> Tensor:
    """The 5×5 Laplacian of the channel mean: image ``(N, 3, H, W)`` -> ``(N, 1, H, W)``.

    The kernel is all ones but −24 in the middle, over the sum of its magnitudes; edges are mirrored.
    """
    kernel = torch.ones(1, 1, 5, 5, dtype=image.dtype, device=image.device)
    kernel[..., 2, 2] = -24
    grey = F.pad(image.mean(dim=1, keepdim=True), (2, 2, 2, 2), mode="reflect")
    return F.conv2d(grey, kernel / 48)


def gradient_label(gradient: Tensor, side_logits: Tensor, *, mask: str = "prediction") -> Tensor:
    """What the outward reference learns: the picture's gradients where the subject is.

    Args:
        gradient: `picture_gradient` of the normalised picture, ``(N, 1, H, W)``.
        side_logits: of the same level, ``(N, 1, h, w)``.
        mask: ``"prediction"`` multiplies the gradients by the resized logits, as the released code does;
            ``"dilated"`` by a morphological dilation of the predicted mask, so that detail just outside
            is kept (Zheng et al. 2024, section III-D).

    Returns:
        A label *before the sigmoid*, ``(N, 1, H, W)``.
    """
    if mask not in ("prediction", "dilated"):
        raise ConfigError(unknown("gradient mask", mask, ("prediction", "dilated")))
    where = enlarged(side_logits, gradient.shape[-2:])
    if mask == "dilated":
        size = 2 * (max(gradient.shape[-2:]) // 64) + 1
        where = F.max_pool2d(where.sigmoid(), size, stride=1, padding=size // 2)
    return gradient * where


def gradient_bce(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of a predicted gradient map against its label; both are given before the sigmoid.

    The label ``(N, 1, H, W)`` is a target: no gradient flows into it. The logits are resized to it.
    """
    return F.binary_cross_entropy_with_logits(enlarged(logits, label.shape[-2:]), label.detach().sigmoid())


def boundary_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy times `boundary_weight`, mean over pixels: not divided by the weights. Takes *logits*.

    The target may be soft, as the coarser levels of a mask's pyramid are.
    """
    errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (boundary_weight(target) * errors).mean()


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
