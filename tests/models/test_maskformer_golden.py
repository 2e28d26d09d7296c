"""MaskFormer against the reference implementation's own numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from decoupe.models.fuse import fuse
from decoupe.models.maskformer import MaskFormerOutput, products
from decoupe.training.matching import MaskFormerCriterion
from decoupe.weights.maskformer_names import infer_maskformer_config, maskformer_config
from decoupe.weights.naming import shapes_of
from golden import fill
from golden_cases import FLOAT32, FLOAT64, GoldenCase, cases

CASES = [case for case in cases("maskformer") if "train_loss" in case.outputs]


def test_every_case_is_here() -> None:
    assert [case.name for case in CASES] == ["maskformer_resnet50", "maskformer_swin_t"]


def check(case: GoldenCase, out: MaskFormerOutput, tolerance: float, pictures: int | None = None) -> None:
    case.check("class_logits", out.class_logits, tolerance, pictures=pictures)
    # Every fifth query is stored.
    case.check("mask_logits", out.mask_logits[:, ::5], tolerance, pictures=pictures)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    """The plain form in float64, for the first picture, and the one that users run in float32."""
    model = case.model(torch.float32)
    with torch.inference_mode():
        check(case, fuse(copy.deepcopy(model))(case.image(torch.float32)), FLOAT32)
        check(case, model.double()(case.image()[:1]), FLOAT64, pictures=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_on_cuda(case: GoldenCase) -> None:
    with torch.inference_mode():
        out = case.model().cuda()(case.image().cuda())
    check(case, MaskFormerOutput(out.class_logits.cpu(), out.mask_logits.cpu()), FLOAT64)


def as_the_reference_supervises(model: nn.Module, image: Tensor) -> MaskFormerOutput:
    """The training output with the earlier answers that the reference's loss is computed on.

    transformers reads what its decoder passes from layer to layer: the queries' start, which is zero, and
    the layers' outputs before the norm that DETR, the released code and we read them through.
    """
    between: list[Tensor] = []
    embeddings: list[Tensor] = []
    for layer in model.transformer.layers:
        layer.register_forward_pre_hook(lambda _, args: between.append(args[0]))
    model.pixel_level.register_forward_hook(lambda _, args, out: embeddings.append(out[0]))
    out = model(image)
    return out._replace(
        side_class_logits=tuple(model.class_head(state) for state in between),
        side_mask_logits=tuple(products(model.mask_head(state), embeddings[0]) for state in between),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_loss(case: GoldenCase) -> None:
    # The reference's class weights were filled like any other tensor of the case.
    name = "criterion.empty_weight"
    weights = tuple(fill.tensor(name, case.shapes()[name].shape).tolist())
    with torch.inference_mode():
        out = as_the_reference_supervises(case.training_model(), case.image())
        assert len(out.side_class_logits) == 6
        terms = MaskFormerCriterion(class_weights=weights)(out, case.truth())
    assert float(sum(terms.values())) == pytest.approx(float(case.outputs["train_loss"][0]), rel=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_configuration_is_inferred_from_names_and_shapes(case: GoldenCase) -> None:
    shapes = case.shapes()
    assert infer_maskformer_config(shapes) == maskformer_config(case.config, shapes_of(shapes))
