"""InSPyReNet's conversion: every name there and back, configurations told apart, other files refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from decoupe.errors import CheckpointError, ConfigError
from decoupe.models import InSPyReNet, InSPyReNetConfig, inspyrenet
from decoupe.weights import convert
from decoupe.weights.inspyrenet_names import BACKBONE_NAMES, inspyrenet_config, inspyrenet_names
from decoupe.weights.naming import IGNORED, State, meta_backbone
from golden_cases import GoldenCase, cases

BASE = InSPyReNetConfig(backbone="res2net50", depth=8)


def reference_state(config: InSPyReNetConfig, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random values under the reference's names."""
    with torch.device(device), pytest.MonkeyPatch.context() as patch:
        if device == "meta":  # only names and shapes exist: all that have its backbone share it
            patch.setattr(inspyrenet, "build_backbone", meta_backbone)
        state = InSPyReNet(config).state_dict()
    return {theirs: state[ours] for theirs, ours in inspyrenet_names(config, state).items()}


@cache
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return reference_state(BASE)


@pytest.mark.parametrize("case", cases("inspyrenet"), ids=lambda case: case.name)
def test_names_and_shapes_are_the_reference_s(case: GoldenCase) -> None:
    stated = {key: value.shape for key, value in case.shapes().items() if not IGNORED.search(key)}
    ours = reference_state(convert.infer_config("inspyrenet", case.shapes()), "meta")
    assert {key: tuple(value.shape) for key, value in ours.items()} == stated


@pytest.mark.parametrize("depth", [8, 64])
@pytest.mark.parametrize("backbone", BACKBONE_NAMES.values())
def test_every_backbone_and_depth_is_inferred(backbone: str, depth: int) -> None:
    config = InSPyReNetConfig(backbone=backbone, depth=depth)
    state: State = reference_state(config, "meta")
    assert convert.infer_config("inspyrenet", state) == config
    assert convert.infer_family(state) == "inspyrenet"


def test_there_and_back() -> None:
    model = convert.from_reference("inspyrenet", small_state())
    assert model.config == BASE
    assert not model.training
    state = model.state_dict()
    names = inspyrenet_names(BASE, state)
    assert len(names) == len(set(names.values())) == len(small_state())
    assert all(torch.equal(state[names[key]], value) for key, value in small_state().items())


def test_options_are_the_reference_s() -> None:
    options = {"backbone": "res2net50", "base_size": [1024, 512], "threshold": 512}
    shapes = {key: tuple(value.shape) for key, value in small_state().items()}
    assert inspyrenet_config(options, shapes) == InSPyReNetConfig("res2net50", 8, (1024, 512))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"bakcbone": "swin_b"}, "unknown option of the reference 'bakcbone'; did you mean 'backbone'"),
        ({"backbone": "swin_h"}, "unknown backbone of the reference 'swin_h'; did you mean 'swin_"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], line: str) -> None:
    shapes = {key: tuple(value.shape) for key, value in small_state().items()}
    with pytest.raises(ConfigError, match=line):
        inspyrenet_config(options, shapes)


@pytest.mark.parametrize(
    ("drop", "line"),
    [
        ("backbone.", r"no backbone \('backbone\.…'\)"),
        ("backbone.layer4.2.", "nearest is 'res2net50': [0-9]+ missing"),
        ("decoder.", "no tensor 'decoder"),
        ("attention0.", r"missing: attention0"),
    ],
)
def test_incomplete_files_are_refused(drop: str, line: str) -> None:
    state = {key: value for key, value in small_state().items() if not key.startswith(drop)}
    with pytest.raises(CheckpointError, match=line) as caught:
        convert.from_reference("inspyrenet", state)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_told_is_said() -> None:
    lines = " ".join(convert.describe("inspyrenet", BASE))
    assert "backbone='res2net50', depth=8" in lines
    assert "do not tell the size" in lines
