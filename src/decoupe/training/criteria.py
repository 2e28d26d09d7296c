"""Criteria: what a family's output costs against the truth. They live outside the models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from decoupe.layers.pyramid import reduce
from decoupe.models.birefnet import BiRefNetOutput
from decoupe.models.inspyrenet import InSPyReNetOutput
from decoupe.training import losses

PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": losses.bce,
    "iou": losses.iou,
    "ssim": losses.ssim,
    "mae": losses.mae,
    "mse": losses.mse,
    "patch_iou": losses.patch_iou,
    "contour": losses.contour,
    "regulariser": losses.threshold_regulariser,
}


@dataclass(frozen=True)
class PixelWeights:
    """Weight of each pixel loss, 0 for none; by default those of DIS (Zheng et al. 2024, III-E)."""

    bce: float = 30.0
    iou: float = 0.5
    ssim: float = 10.0
    mae: float = 0.0
    mse: float = 0.0
    patch_iou: float = 0.0
    contour: float = 0.0
    regulariser: float = 0.0
    structure: float = 0.0


GENERAL = PixelWeights(mae=100.0)
MATTING = PixelWeights(iou=0.0, mae=100.0)


def precise(logits: Tensor) -> Tensor:
    """Autocast's half precision -> float32, in which losses are summed; anything else as it is."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def mean_over_step(counts: Tensor, *, least: float = -math.inf) -> Tensor:
    """What normalises a part of an optimiser step, so that the mean over all parts is one batch's loss.

    Args:
        counts: of each part that this process computes, ``(parts,)``.
        least: of their sum over all processes.

    Returns:
        Their mean over the parts of all processes.
    """
    total, parts = counts.sum(), len(counts)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        parts *= dist.get_world_size()
    return total.clamp_min(least) / parts


def stacked(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Maps ``(N, 1, h, w)`` of several levels, resized to ``size`` ``(H, W)``: ``(L, N, 1, H, W)``."""
    return torch.stack([losses.enlarged(precise(logits), size) for logits in maps])


@dataclass(frozen=True)
class BiRefNetCriterion:
    """What a BiRefNet's training output costs.

    Attributes:
        pixel: weights of the pixel losses, on every supervised map resized to the truth.
        gradient: weight of the outward reference's loss, summed over the levels.
        gradient_mask: ``"prediction"`` (released code) or ``"dilated"`` (paper); see `losses.gradient_label`.
        classification: weight of the cross entropy of the auxiliary classification.
    """

    SUMS: ClassVar = ("iou", "patch_iou")
    """Terms that are sums over the batch, not means: a part of a batch gives a part of them."""

    pixel: PixelWeights = PixelWeights()
    gradient: float = 1.0
    gradient_mask: losses.GradientMask = "prediction"
    classification: float = 5.0

    def __call__(
        self,
        out: BiRefNetOutput,
        image: Tensor,
        truth: Tensor,
        classes: Tensor | None = None,
        *,
        parts: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            out: of the model in training mode.
            image: normalised, ``(N, 3, H, W)``.
            truth: ``(N, 1, H, W)`` in [0, 1].
            classes: object classes ``(N,)``, where there are any; −1 for a picture that has none.
            parts: classes of each part of the step's batch that this is a part of; none where it is all.
        """
        # All levels in one tensor: a handful of large operations instead of many small ones.
        maps = stacked((*out.side_logits, out.logits), truth.shape[-2:])  # (L, N, 1, H, W)
        terms = self.pixel_terms(maps, truth)
        if self.gradient and out.gradient_logits:
            sides = maps[: len(out.gradient_logits)].detach()  # a refiner has one more
            label = losses.gradient_label(losses.picture_gradient(image), sides, mask=self.gradient_mask)
            logits = stacked(out.gradient_logits, truth.shape[-2:])
            terms["gradient"] = self.gradient * len(logits) * losses.gradient_bce(logits, label)
        if self.classification and out.class_logits is not None and classes is not None:
            told = precise(out.class_logits)
            # The sum over pictures that have a class, so that a batch without any costs nothing.
            wrong = F.cross_entropy(told, classes, ignore_index=-1, reduction="sum")
            counts = torch.stack([(part >= 0).sum() for part in parts or (classes,)])
            count = mean_over_step(counts.to(told), least=1)
            terms["classification"] = self.classification * wrong / count
        return terms

    def pixel_terms(self, logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The weighted pixel losses, summed over the levels: ``(L, N, 1, H, W)`` against ``(N, 1, H, W)``."""
        prediction = logits.sigmoid()
        terms = {}
        for field in fields(self.pixel):
            name, weight = field.name, getattr(self.pixel, field.name)
            if name not in self.SUMS:
                weight *= len(logits)  # a mean over the levels -> their sum
            if weight and name == "structure":
                terms[name] = weight * losses.structure(logits, truth)
            elif weight:
                terms[name] = weight * PIXEL_LOSSES[name](prediction, truth)
        return terms


@dataclass(frozen=True)
class InSPyReNetCriterion:
    """What an InSPyReNet's training output costs (Kim et al. 2022, section 3.2).

    Each saliency map is compared with the level of the truth's own Gaussian pyramid that is as large, both
    at full size, so that every map counts as much.

    Attributes:
        bce: weight of the boundary-weighted cross entropy.
        iou: weight of the intersection over union.
        consistency: weight of the differences between each map and the reduced finer one.
    """

    bce: float = 1.0
    iou: float = 1.0
    consistency: float = 1e-4

    def __call__(self, out: InSPyReNetOutput, image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            out: of the model in training mode.
            image: not looked at; every criterion is called alike.
            truth: ``(N, 1, H, W)`` in [0, 1].
        """
        del image
        # Finest first from here on.
        maps = [precise(logits) for logits in (out.logits, *reversed(out.side_logits))]
        levels = [truth]
        while len(levels) < len(maps):
            levels.append(reduce(levels[-1]))
        size = truth.shape[-2:]
        pairs = [(nearest(x, size), nearest(y, size)) for x, y in zip(maps, levels, strict=True)]
        bce = torch.stack([losses.boundary_bce(logits, level) for logits, level in pairs]).sum()
        iou = torch.stack([losses.pixel_iou(logits.sigmoid(), level) for logits, level in pairs]).sum()
        steps = [losses.pyramid_consistency(coarse, fine) for fine, coarse in pairwise(maps)]
        return {
            "bce": self.bce * bce,
            "iou": self.iou * iou,
            "consistency": self.consistency * torch.stack(steps).sum(),
        }


def nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` ``(N, C, h, w)`` at ``size`` ``(H, W)``, every cell repeated."""
    return F.interpolate(x, size=tuple(size), mode="nearest")
