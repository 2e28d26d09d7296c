"""InSPyReNet's training loss against the reference's stored one, and against what it means."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from contract import picture
from decoupe.models import InSPyReNetOutput
from decoupe.training import losses
from decoupe.training.criteria import InSPyReNetCriterion
from golden_cases import GoldenCase, cases

TRAINED = [case for case in cases("inspyrenet") if "train_loss" in case.outputs]


def output(height: int, width: int, *, value: float | None = None) -> InSPyReNetOutput:
    """Four maps of noise, or of one value, for a picture of this size."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 4, 2, 1)]
    maps = [picture(2, *size)[:, :1] for size in sizes]
    maps = maps if value is None else [torch.full_like(x, value) for x in maps]
    return InSPyReNetOutput(maps[-1], tuple(maps[:-1]))


def test_every_case_is_here() -> None:
    assert [case.name for case in TRAINED] == ["inspyrenet_res2net50"]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_training(case: GoldenCase) -> None:
    with torch.inference_mode():
        out = case.training_model()(case.image())
        terms = InSPyReNetCriterion()(out, case.image(), case.mask())
    for level, logits in zip((3, 2, 1, 0), (*out.side_logits, out.logits), strict=True):
        case.check(f"train_saliency{level}", logits)
    for level, logits in zip((2, 1, 0), out.laplacian, strict=True):
        case.check(f"train_laplacian{level}", logits)
    assert float(sum(terms.values())) == pytest.approx(float(case.outputs["train_loss"][0]), rel=1e-6)


def test_a_flat_map_costs_what_can_be_computed_by_hand() -> None:
    """At logits 0 and no subject: ln 2 and 1 − 1/1.5, of each of four maps, and nothing to be consistent."""
    terms = InSPyReNetCriterion(bce=2, iou=3)(
        output(64, 96, value=0), picture(2, 64, 96), torch.zeros(2, 1, 64, 96)
    )
    assert float(terms["bce"]) == pytest.approx(2 * 4 * math.log(2))
    assert float(terms["iou"]) == pytest.approx(3 * 4 / 3)
    assert float(terms["consistency"]) == pytest.approx(0, abs=1e-9)


def test_outlines_weigh_more() -> None:
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 32:] = 1
    wrong = (20 * truth - 10).repeat(2, 1, 1, 1)[:, None]
    wrong[0, ..., 33] = -10  # beside the outline
    wrong[1, ..., 48] = -10  # its window sees nothing but the subject
    near, far = (losses.boundary_bce(logits, truth) for logits in wrong)
    assert near > 2 * far


def test_a_right_pixel_costs_less_than_a_wrong_one() -> None:
    truth = torch.tensor([[[[0.0, 1.0]]]])
    assert float(losses.pixel_iou(truth, truth)) == 0
    assert float(losses.pixel_iou(1 - truth, truth)) == pytest.approx(0.5)


def test_the_coarser_map_follows_the_finer() -> None:
    coarse, fine = (picture(1, side, side)[:, :1].requires_grad_() for side in (17, 33))
    losses.pyramid_consistency(coarse, fine).backward()
    assert coarse.grad is not None
    assert fine.grad is None


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (40, 130)])
def test_any_size_gives_finite_terms_and_gradients(size: tuple[int, int]) -> None:
    out = output(*size)
    maps = tuple(logits.requires_grad_() for logits in (*out.side_logits, out.logits))
    truth = (picture(2, *size)[:, :1] > 0).float()
    loss = sum(
        InSPyReNetCriterion()(InSPyReNetOutput(maps[-1], maps[:-1]), picture(2, *size), truth).values()
    )
    loss.backward()
    assert all(logits.grad is not None and logits.grad.isfinite().all() for logits in maps)


def test_half_precision_is_summed_in_float32() -> None:
    out = output(64, 64)
    half = InSPyReNetOutput(out.logits.bfloat16(), tuple(logits.bfloat16() for logits in out.side_logits))
    truth = (picture(2, 64, 64)[:, :1] > 0).float()
    for name, value in InSPyReNetCriterion()(half, picture(2, 64, 64), truth).items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(InSPyReNetCriterion()(out, truth, truth)[name]), rel=0.01)


def test_the_loss_is_least_for_the_truth() -> None:
    truth = F.interpolate((picture(1, 8, 8)[:, :1] > 0).float(), size=(64, 64))
    maps = [F.avg_pool2d(20 * truth - 10, stride) for stride in (8, 4, 2, 1)]
    right = InSPyReNetOutput(maps[-1], tuple(maps[:-1]))
    wrong = InSPyReNetOutput(-maps[-1], tuple(-logits for logits in maps[:-1]))
    criterion = InSPyReNetCriterion()
    costs = [float(sum(criterion(out, truth, truth).values())) for out in (right, wrong)]
    assert costs[0] < 0.2 * costs[1]
