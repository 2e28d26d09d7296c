"""BiRefNet against the reference implementation's own numbers."""

from __future__ import annotations

import copy

import pytest
import torch

from decoupe.layers.deform import DeformConv2d
from decoupe.models.fuse import fuse
from decoupe.training.losses import gradient_label, picture_gradient
from decoupe.weights import convert
from decoupe.weights.birefnet_names import birefnet_config
from golden_cases import FLOAT32, GoldenCase, cases

CASES = cases("birefnet")
TRAINED = [case for case in CASES if "train_pred0" in case.outputs]


def test_every_case_is_here() -> None:
    assert len(CASES) == 8
    assert len(TRAINED) == 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    """The plain form in float64, and the one that users run in float32."""
    model = case.model(torch.float32)
    with torch.inference_mode():
        case.check("logits", fuse(copy.deepcopy(model))(case.image(torch.float32)).logits, FLOAT32)
        # The fast form is slow in float64, and training outputs run it there: here the other form.
        for module in model.modules():
            if isinstance(module, DeformConv2d):
                module.method = "gather"
        case.check("logits", model.double()(case.image()).logits)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_on_cuda(case: GoldenCase) -> None:
    with torch.inference_mode():
        case.check("logits", case.model().cuda()(case.image().cuda()).logits.cpu())


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_training(case: GoldenCase) -> None:
    image = case.image()
    with torch.inference_mode():
        out = case.training_model()(image)
    assert len(out.side_logits) == len(out.gradient_logits) == 3
    for i, logits in enumerate((*out.side_logits, out.logits)):
        case.check(f"train_pred{i}", logits)
    for i, (logits, side) in enumerate(zip(out.gradient_logits, out.side_logits, strict=True)):
        case.check(f"train_gradient_pred{i}", logits)
        case.check(f"train_gradient_label{i}", gradient_label(picture_gradient(image), side))
    if "train_class_logits0" in case.outputs:
        case.check("train_class_logits0", out.class_logits)
    else:
        assert out.class_logits is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_configuration_is_inferred_from_names_and_shapes(case: GoldenCase) -> None:
    shapes = case.shapes()
    inferred = convert.infer_config("birefnet", shapes)
    stated = birefnet_config(case.config, {key: value.shape for key, value in shapes.items()})
    assert inferred == stated
