"""BiRefNet against the reference implementation's own numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from decoupe.layers.deform import DeformConv2d
from decoupe.models import BiRefNetOutput
from decoupe.models.fuse import fuse
from decoupe.training import losses
from decoupe.training.criteria import BiRefNetCriterion
from decoupe.training.losses import gradient_label, picture_gradient
from decoupe.weights import convert
from decoupe.weights.birefnet_names import birefnet_config
from golden_cases import FLOAT32, GoldenCase, cases

CASES = cases("birefnet")
TRAINED = [case for case in CASES if "train_pred0" in case.outputs]
TERMS = {
    "bce": losses.bce,
    "iou": losses.iou,
    "ssim": losses.ssim,
    "cnt": losses.contour,
    "reg": losses.threshold_regulariser,
    "mae": losses.mae,
    "mse": losses.mse,
}


def test_every_case_is_here() -> None:
    assert len(CASES) == 8
    assert len(TRAINED) == 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    """The plain form in float64, for the first picture, and the one that users run in float32.

    Swin-L is large, and differs from Swin-T in its sizes alone: one picture is seen, in float32 only.
    """
    model = case.model(torch.float32)
    with torch.inference_mode():
        if case.name == "birefnet_swin_v1_l":
            case.check("logits", fuse(model)(case.image(torch.float32)[:1]).logits, FLOAT32, pictures=1)
            return
        case.check("logits", fuse(copy.deepcopy(model))(case.image(torch.float32)).logits, FLOAT32)
        # The fast form is slow in float64, and training outputs run it there: here the other form.
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                module.method = "gather"
        case.check("logits", model.double()(case.image()[:1]).logits, pictures=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_on_cuda(case: GoldenCase) -> None:
    with torch.inference_mode():
        case.check("logits", case.model().cuda()(case.image().cuda()).logits.cpu())


@pytest.fixture(scope="module", params=TRAINED, ids=lambda case: case.name)
def trained(request: pytest.FixtureRequest) -> tuple[GoldenCase, BiRefNetOutput]:
    with torch.inference_mode():
        return request.param, request.param.training_model()(request.param.image())


def test_training_outputs(trained: tuple[GoldenCase, BiRefNetOutput]) -> None:
    case, out = trained
    assert len(out.side_logits) == len(out.gradient_logits) == 3
    for i, logits in enumerate((*out.side_logits, out.logits)):
        case.check(f"train_pred{i}", logits)
    for i, (logits, side) in enumerate(zip(out.gradient_logits, out.side_logits, strict=True)):
        case.check(f"train_gradient_pred{i}", logits)
        case.check(f"train_gradient_label{i}", gradient_label(picture_gradient(case.image()), side))
    if "train_class_logits0" in case.outputs:
        case.check("train_class_logits0", out.class_logits)
    else:
        assert out.class_logits is None


def close(found: torch.Tensor, stored: np.ndarray) -> None:
    """A loss to 1e-5 of itself: a stored scalar has no spread of its own."""
    assert float(found) == pytest.approx(float(stored[0]), rel=1e-5)


def test_loss_terms(trained: tuple[GoldenCase, BiRefNetOutput]) -> None:
    case, out = trained
    prediction, truth = out.logits.sigmoid(), case.mask()
    for name, loss in TERMS.items():
        close(loss(prediction, truth), case.outputs[f"term_{name}"])
    close(losses.structure(out.logits, truth), case.outputs["term_structure_on_logits"])


def test_criterion(trained: tuple[GoldenCase, BiRefNetOutput]) -> None:
    case, out = trained
    terms = BiRefNetCriterion()(out, case.image(), case.mask())
    close(terms["gradient"], case.outputs["loss_gradient"])
    pixel = {name: terms[name] for name in ("bce", "iou", "ssim")}
    close(sum(pixel.values()), case.outputs["loss_pix"])
    for name, value in pixel.items():
        close(value / 4, case.outputs[f"loss_{name}"])  # stored as the mean over the four maps


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_configuration_is_inferred_from_names_and_shapes(case: GoldenCase) -> None:
    shapes = case.shapes()
    inferred = convert.infer_config("birefnet", shapes)
    stated = birefnet_config(case.config, {key: value.shape for key, value in shapes.items()})
    assert inferred == stated
