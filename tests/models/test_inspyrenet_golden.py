"""InSPyReNet against the reference implementation's own numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def _no_denormals() -> Iterator[None]:
    """Attention of drawn weights is full of denormals: products with them take 100 times as long."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


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


def check(case: GoldenCase, out: InSPyReNetOutput, tolerance: float, pictures: int | None = None) -> None:
    for level, logits in zip((3, 2, 1, 0), (*out.side_logits, out.logits), strict=True):
        case.check(f"saliency{level}", logits.cpu(), tolerance, pictures=pictures)
    for level, logits in zip((2, 1, 0), out.laplacian, strict=True):
        case.check(f"laplacian{level}", logits.cpu(), tolerance, pictures=pictures)
    if pictures is None:
        case.check("pred", stretched(out.logits.cpu().sigmoid()), tolerance)


def stretched(alpha: Tensor) -> Tensor:
    """The reference's last step, over the whole *batch*; decoupe leaves it out."""
    return (alpha - alpha.min()) / (alpha.max() - alpha.min())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_evaluation(case: GoldenCase) -> None:
    """The plain form in float64, for the first picture, and the one that users run in float32.

    The blended case is large, and made of two passes of swin_b's: they are seen in float32 there alone.
    """
    model = case.model(torch.float32)
    with torch.inference_mode():
        if case.name != "inspyrenet_swin_b":
            check(case, pyramid(case, fuse(copy.deepcopy(model)), torch.float32), FLOAT32)
        if case.config["threshold"] is None:
            check(case, model.double().maps(case.image()[:1]), FLOAT64, pictures=1)


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
