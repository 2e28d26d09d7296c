"""InSPyReNet against the reference implementation's own numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from decoupe.models import InSPyReNet, InSPyReNetOutput
from decoupe.models.fuse import fuse
from decoupe.weights import convert
from decoupe.weights.inspyrenet_names import inspyrenet_config
from golden import fill
from golden_cases import FLOAT32, FLOAT64, GoldenCase, cases

CASES = cases("inspyrenet")


def test_every_case_is_here() -> None:
    assert [case.name for case in CASES] == [
        "inspyrenet_res2net50",
        "inspyrenet_swin_b",
        "inspyrenet_swin_b_blending",
    ]


def pyramid(case: GoldenCase, model: InSPyReNet, dtype: torch.dtype, device: str = "cpu") -> InSPyReNetOutput:
    """Every map, of one pass or blended from two as the case wants it."""
    image = case.image(dtype).to(device)
    if case.config["threshold"] is None:
        return model.maps(image)
    low = fill.image(f"{case.name}:resized", (len(image), 3, *case.config["base_size"]))
    return model.blended(image, torch.from_numpy(low).to(device, dtype))


def check(case: GoldenCase, out: InSPyReNetOutput, tolerance: float) -> None:
    for level, logits in zip((3, 2, 1, 0), (*out.side_logits, out.logits), strict=True):
        case.check(f"saliency{level}", logits.cpu(), tolerance)
    for level, logits in zip((2, 1, 0), out.laplacian, strict=True):
        case.check(f"laplacian{level}", logits.cpu(), tolerance)
    case.check("pred", stretched(out.logits.cpu().sigmoid()), tolerance)


def stretched(alpha: Tensor) -> Tensor:
    """The reference's last step, over the whole *batch*; decoupe leaves it out."""
    return (alpha - alpha.min()) / (alpha.max() - alpha.min())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    """The plain form in float64, and the one that users run in float32."""
    model = case.model(torch.float32)
    with torch.inference_mode():
        check(case, pyramid(case, fuse(copy.deepcopy(model)), torch.float32), FLOAT32)
        if case.config["threshold"] is None:  # the blended case is large, and made of the same passes
            check(case, pyramid(case, model.double(), torch.float64), FLOAT64)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation_on_cuda(case: GoldenCase) -> None:
    with torch.inference_mode():
        check(case, pyramid(case, case.model().cuda(), torch.float64, "cuda"), FLOAT64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_configuration_is_inferred_from_names_and_shapes(case: GoldenCase) -> None:
    shapes = case.shapes()
    inferred = convert.infer_config("inspyrenet", shapes)
    assert inferred == inspyrenet_config(case.config, {key: value.shape for key, value in shapes.items()})
