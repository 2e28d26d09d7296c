"""What MaskFormer's output costs: its answers matched to the true segments, then class and mask losses.

Cheng, Schwing and Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
NeurIPS 2021, sections 3.2 and 4; the matching is DETR's (Carion et al., ECCV 2020, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from decoupe.errors import ConfigError, InputError, MissingExtraError
from decoupe.layers.blocks import resize
from decoupe.models.maskformer import MaskFormerOutput, PerPixelOutput
from decoupe.training.criteria import mean_over_step, precise
from decoupe.training.losses import enlarged


class Truth(NamedTuple):
    """The segments of one picture; none is fine.

    Attributes:
        masks: ``(M, H, W)``, zeros and ones, bool or float; H and W are those of the whole batch.
        classes: int64 ``(M,)``, each in [0, K).
    """

    masks: Tensor
    classes: Tensor


class Match(NamedTuple):
    """Which query answers for which segment of one picture, both int64 ``(min(Q, M),)``."""

    queries: Tensor
    segments: Tensor


class Norms(NamedTuple):
    """By what the terms of a part of a step are divided: means over the parts of all processes.

    Attributes:
        segments: how many there are; of the mask losses.
        weights: sum of the queries' weights; of the cross entropy.
    """

    segments: Tensor
    weights: Tensor


@dataclass(frozen=True)
class MaskFormerCriterion:
    """What a MaskFormer's training output costs (the paper's equation 2 and section 4).

    Queries are matched to segments one to one, at the least sum of costs; what no segment is left for should
    say "no object". Every decoder layer is matched and supervised for itself.

    Attributes:
        classification: weight of the cross entropy, and of the class in matching.
        mask: weight of the focal loss of masks, likewise.
        dice: weight of the dice loss of masks, likewise.
        no_object: weight of "no object" among the classes of the cross entropy.
        class_weights: of the K classes and "no object", ``K + 1`` numbers; None is 1 and ``no_object``.
    """

    classification: float = 1.0
    mask: float = 20.0
    dice: float = 1.0
    no_object: float = 0.1
    class_weights: tuple[float, ...] | None = None

    def __call__(
        self, out: MaskFormerOutput, truth: Sequence[Truth], *, parts: Sequence[Sequence[Tensor]] = ()
    ) -> dict[str, Tensor]:
        """The weighted terms by name, summed over the layers; their sum is the loss.

        Args:
            out: of the model in training mode.
            truth: of each picture.
            parts: classes of each picture's segments in each part of the step's batch that this is a part
                of; none where it is all.

        Raises:
            InputError: truth that does not fit the output.
            ConfigError: another number of class weights than of classes.
            MissingExtraError: SciPy is not installed.
        """
        dtype = precise(out.mask_logits).dtype
        truth = [Truth(one.masks.to(dtype), one.classes.long()) for one in truth]
        _check(out, truth)
        norms = self.norms(parts or ([one.classes for one in truth],), precise(out.class_logits))
        total: dict[str, Tensor] = {}
        layers = zip(
            (*out.side_class_logits, out.class_logits), (*out.side_mask_logits, out.mask_logits), strict=True
        )
        for classes, masks in layers:
            for name, value in self.layer_terms(precise(classes), precise(masks), truth, norms).items():
                total[name] = total.get(name, 0) + value
        return total

    def layer_terms(
        self, class_logits: Tensor, mask_logits: Tensor, truth: Sequence[Truth], norms: Norms
    ) -> dict[str, Tensor]:
        """The weighted terms of one layer: ``(N, Q, K + 1)`` and ``(N, Q, h, w)``."""
        matches = [self.match(*one) for one in zip(class_logits, mask_logits, truth, strict=True)]
        # "No object" until matched.
        wanted = torch.full_like(class_logits[..., 0], class_logits.shape[2] - 1, dtype=torch.int64)
        for row, match, one in zip(wanted, matches, truth, strict=True):
            row[match.queries] = one.classes[match.segments]
        pairs = list(zip(mask_logits, matches, truth, strict=True))
        masks = torch.cat([logits[match.queries] for logits, match, _ in pairs])  # (pairs, h, w)
        targets = torch.cat([one.masks[match.segments] for _, match, one in pairs])  # (pairs, H, W)
        logits = enlarged(masks, targets.shape[-2:], align_corners=False)
        weights = class_logits.new_tensor(self.weights(class_logits.shape[2]))
        wrong = F.cross_entropy(class_logits.transpose(1, 2), wanted, weights, reduction="sum")
        return {
            "classification": self.classification * wrong / norms.weights,
            "mask": self.mask * sigmoid_focal_loss(logits, targets).mean(dim=(1, 2)).sum() / norms.segments,
            "dice": self.dice * dice(logits, targets).sum() / norms.segments,
        }

    @torch.no_grad()
    def match(self, class_logits: Tensor, mask_logits: Tensor, truth: Truth) -> Match:
        """The cheapest one-to-one answers of one picture's queries to its segments.

        Args:
            class_logits: ``(Q, K + 1)``.
            mask_logits: ``(Q, h, w)``; the truth is brought to this size, nearest pixels.
            truth: of the picture.

        Raises:
            MissingExtraError: SciPy is not installed.
        """
        try:
            from scipy.optimize import linear_sum_assignment
        except ModuleNotFoundError as error:
            raise MissingExtraError("matching segments", "train") from error
        small = F.interpolate(truth.masks[:, None], size=mask_logits.shape[1:], mode="nearest")[:, 0]
        costs = (
            -self.classification * class_logits.softmax(dim=1)[:, truth.classes]
            + self.mask * focal_costs(mask_logits, small)
            + self.dice * dice_costs(mask_logits, small)
        )  # (Q, M)
        # Logits that are not finite are for the training loop to tell, not for SciPy.
        found = linear_sum_assignment(costs.nan_to_num().cpu().numpy())
        queries, segments = (torch.as_tensor(indices, device=costs.device) for indices in found)
        return Match(queries, segments)

    def norms(self, parts: Sequence[Sequence[Tensor]], class_logits: Tensor) -> Norms:
        """By what the terms of each part of a step are divided.

        Args:
            parts: classes of each picture's segments, of each part.
            class_logits: ``(N, Q, K + 1)``.
        """
        queries = class_logits.shape[1]
        weights = torch.tensor(self.weights(class_logits.shape[2]), dtype=torch.float64)
        sums = []
        for part in parts:
            total = torch.zeros((), dtype=torch.float64)
            for classes in part:
                matched = min(queries, len(classes))
                # Of more segments than queries the mean stands for those that will be matched.
                of_matched = weights[classes.cpu()].mean() * matched if matched else 0
                total += of_matched + (queries - matched) * weights[-1]
            sums.append(total)
        counts = [float(sum(map(len, part))) for part in parts]
        return Norms(
            mean_over_step(class_logits.new_tensor(counts), least=1),
            mean_over_step(torch.stack(sums).to(class_logits)),
        )

    def weights(self, many: int) -> tuple[float, ...]:
        """The weights in the cross entropy of ``many`` classes, the last of which is "no object"."""
        weights = self.class_weights or (*(1.0 for _ in range(many - 1)), self.no_object)
        if len(weights) != many:
            raise ConfigError(
                f"there are {len(weights)} class_weights, expected {many}: of each class and of no object"
            )
        return weights


@dataclass(frozen=True)
class PerPixelCriterion:
    """What a per-pixel baseline's training output costs: the cross entropy of each layer's map.

    Attributes:
        ignored: label of pixels that cost nothing.
    """

    ignored: int = 255

    def __call__(self, out: PerPixelOutput, labels: Tensor) -> dict[str, Tensor]:
        """The one term by name; ``labels`` are class indices ``(N, H, W)``, int64."""
        maps = [
            resize(precise(logits), labels.shape[-2:], align_corners=False)
            for logits in (*out.side_logits, out.logits)
        ]
        # torch's own mean would be NaN where all pixels are ignored.
        counted = (labels != self.ignored).sum().clamp(min=1)
        terms = [
            F.cross_entropy(logits, labels, ignore_index=self.ignored, reduction="sum") / counted
            for logits in maps
        ]
        return {"classification": torch.stack(terms).sum()}


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the dice coefficient of each of the masks ``(P, h, w)``, smoothed by one pixel: ``(P,)``."""
    prediction = logits.sigmoid()
    areas = prediction.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    return 1 - (2 * (prediction * target).sum(dim=(1, 2)) + 1) / (areas + 1)


def dice_costs(logits: Tensor, target: Tensor) -> Tensor:
    """`dice` of every query's mask ``(Q, h, w)`` against every segment's ``(M, h, w)``: ``(Q, M)``."""
    prediction, target = logits.sigmoid().flatten(1), target.flatten(1)
    areas = prediction.sum(dim=1)[:, None] + target.sum(dim=1)
    return 1 - (2 * (prediction @ target.T) + 1) / (areas + 1)


def focal_costs(logits: Tensor, target: Tensor) -> Tensor:
    """Mean focal loss of every query's mask ``(Q, h, w)`` against every segment's ``(M, h, w)``: ``(Q, M)``.

    The loss is linear in the target, so two maps a query are enough: of all ones, and of all zeros. Both
    share their sigmoid and logarithm (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017,
    equation 5, with α = 0.25 and γ = 2, as torchvision's `sigmoid_focal_loss`).
    """
    logits, target = logits.flatten(1), target.flatten(1)
    probability, outside = logits.sigmoid(), F.softplus(logits)  # −log(1 − p)
    inside = (0.25 * (1 - probability) ** 2).mul_(outside - logits)  # −log p
    outside = outside.mul_(0.75 * probability**2)
    costs: Tensor = ((inside - outside) @ target.T + outside.sum(dim=1, keepdim=True)) / logits.shape[1]
    return costs


def _check(out: MaskFormerOutput, truth: Sequence[Truth]) -> None:
    """Raise InputError for truth that does not fit ``out``."""
    if len(truth) != len(out.class_logits):
        raise InputError(f"truth of {len(truth)} pictures, expected {len(out.class_logits)}: one each")
    sizes = {tuple(one.masks.shape[1:]) for one in truth}
    if len(sizes) > 1 or any(one.masks.ndim != 3 or len(one.masks) != len(one.classes) for one in truth):
        found = ", ".join(f"{tuple(one.masks.shape)} with {tuple(one.classes.shape)}" for one in truth)
        raise InputError(
            f"masks and classes are {found}; expected (M, H, W) with (M,), H and W the same in a batch"
        )
