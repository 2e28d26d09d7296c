"""Losses against what they mean; `models/test_birefnet_golden.py` has them against the reference's terms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.models import BiRefNetOutput
from decoupe.training import losses
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights


def test_classification_is_weighed() -> None:
    out = BiRefNetOutput(torch.zeros(2, 1, 32, 32), class_logits=torch.zeros(2, 10))
    terms = BiRefNetCriterion(gradient=0)(
        out, torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 32, 32), torch.tensor([1, 2])
    )
    assert float(terms["classification"]) == pytest.approx(5 * np.log(10), rel=1e-6)


def test_a_weight_of_zero_computes_nothing() -> None:
    out = BiRefNetOutput(torch.zeros(1, 1, 32, 32))
    terms = BiRefNetCriterion(pixel=PixelWeights(0, 0, 0, mae=1))(
        out, torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    )
    assert {name: float(value) for name, value in terms.items()} == {"mae": 0.5}


def test_ssim_is_the_windowed_definition() -> None:
    """Wang et al. 2004, equation 13, written out with a convolution by the 11×11 window."""
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.rand(2, 2, 1, 20, 31, generator=generator, dtype=torch.float64)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = torch.from_numpy(np.outer(line, line) / line.sum() ** 2)

    def mean(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, window[None, None], padding=5)

    mp, mt = mean(prediction), mean(truth)
    vp, vt = mean(prediction**2) - mp**2, mean(truth**2) - mt**2
    covariance = mean(prediction * truth) - mp * mt
    similarity = (2 * mp * mt + 1e-4) * (2 * covariance + 9e-4) / ((mp**2 + mt**2 + 1e-4) * (vp + vt + 9e-4))
    expected = 1 - (1 + float(similarity.mean())) / 2
    assert float(losses.ssim(prediction, truth)) == pytest.approx(expected, rel=1e-9)
    assert float(losses.ssim(truth, truth)) == pytest.approx(0, abs=1e-12)


def test_patch_iou_is_the_mean_over_windows_and_the_sum_over_pictures() -> None:
    truth = torch.ones(2, 1, 64, 128)
    prediction = truth.clone()
    prediction[0, :, :, 64:] = 0.25  # the right window of the first picture: 1 - 1/4
    assert float(losses.patch_iou(prediction, truth)) == pytest.approx(0.75 / 2)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150))
def test_patch_iou_visits_every_window(height: int, width: int) -> None:
    """One wrong pixel in the last corner is seen at any size: the reference skips the last windows."""
    truth = torch.ones(1, 1, height, width)
    wrong = truth.clone()
    wrong[..., -1, -1] = 0
    assert float(losses.patch_iou(truth, truth)) == 0
    assert float(losses.patch_iou(wrong, truth)) > 0


def test_iou_of_empty_pictures_is_perfect_and_differentiable() -> None:
    prediction = torch.zeros(2, 1, 8, 8, requires_grad=True)
    loss = losses.iou(prediction, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_boundary_weight_is_the_31_pixel_box() -> None:
    truth = (torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    local = torch.nn.functional.avg_pool2d(truth, 31, stride=1, padding=15)
    torch.testing.assert_close(losses.boundary_weight(truth), 1 + 5 * (local - truth).abs())


def test_structure_of_hard_masks_is_that_of_the_paper() -> None:
    logits = torch.randn(3, 1, 40, 50)
    target = (torch.rand(3, 1, 40, 50) > 0.6).float()
    weight, prediction = losses.boundary_weight(target), logits.sigmoid()
    errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    intersection = (weight * prediction * target).sum((-2, -1))
    union = (weight * (prediction + target)).sum((-2, -1)) - intersection
    paper = (weight * errors).sum((-2, -1)) / weight.sum((-2, -1)) + 1 - (intersection + 1) / (union + 1)
    torch.testing.assert_close(losses.structure(logits, target), paper.mean())


@pytest.mark.parametrize("moved", [-0.5, -0.1, 0.1, 0.5])
def test_structure_is_least_where_a_soft_matte_is_the_truth(moved: float) -> None:
    """The product's IoU is not: it wants 0 below a half and 1 above."""
    target = torch.full((1, 1, 40, 40), 0.2)
    target[..., 10:30, 10:30] = 0.95
    exact = torch.logit(target)
    assert losses.structure(exact, target) < losses.structure(exact + moved, target)


def test_dilated_gradient_label_keeps_what_lies_just_outside() -> None:
    image = torch.zeros(1, 3, 128, 128)
    image[..., 64] = 1  # a line right of the predicted subject's edge
    logits = torch.full((1, 1, 128, 128), -20.0)
    logits[..., :63] = 20
    dilated = losses.gradient_label(losses.picture_gradient(image), logits, mask="dilated")
    assert float(dilated[0, 0, 60, 64].abs()) > 0.1
    far = torch.full_like(logits, -20.0)
    assert (
        float(losses.gradient_label(losses.picture_gradient(image), far, mask="dilated").abs().max()) < 1e-6
    )


def test_errors_and_their_slopes_are_those_of_torch() -> None:
    logits = torch.linspace(-12, 12, 200, dtype=torch.float64).view(2, 1, 10, 10).requires_grad_()
    target = torch.rand(2, 1, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    found = losses.logit_errors(logits, target)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad((one**2).sum(), logits)[0] for one in (found, expected)]
    torch.testing.assert_close(*slopes)
    slopes = [
        torch.autograd.grad(one(logits.sigmoid(), target), logits)[0]
        for one in (losses.bce, F.binary_cross_entropy)
    ]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_a_certain_mistake_costs_as_much_as_in_torch(certain: float) -> None:
    prediction = torch.full((1, 1, 4, 4), certain, requires_grad=True)
    target = torch.tensor([0.0, 1.0, 0.5, certain]).expand(1, 1, 4, 4)
    found, expected = losses.bce(prediction, target), F.binary_cross_entropy(prediction, target)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(one, prediction)[0] for one in (found, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("logit", [-200.0, -90.0, -20.0, 20.0, 90.0, 200.0])
def test_far_logits_cost_what_they_should_in_float32(logit: float) -> None:
    logits, target = torch.full((1, 1, 2, 2), logit, requires_grad=True), torch.ones(1, 1, 2, 2)
    errors = losses.logit_errors(logits, target)
    torch.testing.assert_close(errors, F.softplus(-logits), atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(errors.sum(), logits)
    torch.testing.assert_close(slope, logits.detach().sigmoid() - 1)


@pytest.mark.parametrize(("height", "width"), [(40, 52), (12, 7), (3, 1)])
def test_blur_is_a_convolution_and_so_is_its_slope(height: int, width: int) -> None:
    x = torch.rand(2, 1, height, width, dtype=torch.float64, requires_grad=True)
    line = losses.gaussian(11, 1.5)
    whole = torch.tensor([*line[:0:-1], *line], dtype=torch.float64)
    assert float(whole.sum()) == pytest.approx(1)
    expected = F.conv2d(x, torch.outer(whole, whole)[None, None], padding=5)
    found = losses.blurred(x, line)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad((one**2).sum(), x)[0] for one in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_levels_enter_as_if_one_by_one() -> None:
    maps = torch.rand(3, 2, 1, 40, 72, dtype=torch.float64).logit()
    truth = (torch.rand(2, 1, 40, 72) > 0.5).double()
    weights = PixelWeights(**{field.name: 1.5 for field in dataclasses.fields(PixelWeights)})
    criterion = BiRefNetCriterion(pixel=weights)
    together = criterion.pixel_terms(maps, truth)
    apart = [criterion.pixel_terms(one[None], truth) for one in maps]
    assert set(together) == {field.name for field in dataclasses.fields(PixelWeights)}
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([terms[name] for terms in apart]).sum())
