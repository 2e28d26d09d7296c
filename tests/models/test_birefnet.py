"""BiRefNet's structure: every option builds, trains and predicts; the numbers are the golden cases'."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from contract import MatteModelContract, picture
from decoupe.errors import ConfigError, InputError
from decoupe.models import BiRefNet, BiRefNetConfig, BiRefNetOutput
from decoupe.models.birefnet import PRESETS, InwardReference
from narrow import fewer_parts

POCKET = PRESETS["pocket"]
SMALL = dataclasses.replace(POCKET, backbone="nano")
RELEASED = BiRefNetConfig(backbone="pvt_v2_b0")

CONFIGS = {
    "pocket": POCKET,
    "released": dataclasses.replace(RELEASED, context_width=64),
    "classified": dataclasses.replace(SMALL, classes=7, multi_scale="add", context="aspp", context_width=16),
    "refined": dataclasses.replace(
        SMALL, refiner="unet", multi_scale="cat", context_fusion=True, squeeze="residual", squeeze_depth=2
    ),
    "bare": dataclasses.replace(
        SMALL, squeeze="none", inward="none", outward=False, side_outputs=False, block="residual"
    ),
    "adaptive": dataclasses.replace(SMALL, block_width=None, inward="resize", squeeze="aspp_deformable"),
    "fused": dataclasses.replace(SMALL, context_fusion=True, squeeze="basic", inward="split"),
}


class TestBiRefNet(MatteModelContract):
    names = tuple(CONFIGS)

    @classmethod
    def build(cls, name: str) -> nn.Module:
        return BiRefNet(CONFIGS[name])

    @classmethod
    def compiled(cls) -> nn.Module:
        return fewer_parts(cls.build("pocket"))

    def test_training_outputs_follow_the_configuration(
        self, name: str, trained: tuple[nn.Module, BiRefNetOutput]
    ) -> None:
        config, (_, out) = CONFIGS[name], trained
        sizes = [(2, 3), (4, 6), (8, 12)] if config.side_outputs else []
        coarse = [(64, 96)] if config.refiner == "unet" else []
        assert [tuple(logits.shape[2:]) for logits in out.side_logits] == sizes + coarse
        assert len(out.gradient_logits) == (3 if config.outward else 0)
        assert (out.class_logits is not None) == bool(config.classes)


def test_split_patches_are_the_grid_of_the_picture() -> None:
    image = picture(1, 64, 96)
    patches = InwardReference(32, 8, RELEASED).patches(image)
    assert patches.shape == (1, 3 * 32 * 32, 2, 3)
    # Row 5, column 7 of the grid, green: channels count (colour, row, column).
    assert torch.equal(patches[0, 1 * 1024 + 5 * 32 + 7], image[0, 1, 10:12, 21:24])


def test_unshuffled_patches_hold_the_pixels_of_their_own_cell() -> None:
    image = picture(1, 64, 96)
    patches = InwardReference(32, 8, POCKET).patches(image)
    cell = image[0, :, 32:64, 64:96].flatten()
    assert torch.equal(patches[0, :, 1, 2], cell)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 60, 64), (1, 3, 64, 65)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        BiRefNet(POCKET)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"backbone": "swin_x"}, "unknown backbone 'swin_x'; did you mean 'swin_"),
        ({"squeeze": "aspp_deform"}, "did you mean 'aspp_deformable'"),
        ({"squeeze_depth": 0}, "from 1 to 1000"),
        (
            {"squeeze_depth": 10**13},
            "squeeze_depth is 10000000000000, expected a whole number from 1 to 1000",
        ),
        ({"classes": -1}, "classes is -1, expected a whole number of at least 0"),
        ({"block_width": 0}, "block_width is 0, expected a whole number of at least 1"),
        ({"outward_width": "16"}, "outward_width is '16', expected a whole number"),
        ({"outward": "yes"}, "outward is 'yes', expected True or False"),
        ({"classes": True}, "classes is True, expected a whole number"),
        ({"dropout": "x"}, "dropout is 'x', expected a share from 0 to below 1"),
        ({"backbone": ["swin_t"]}, r"backbone is \['swin_t'\], expected a name"),
        ({"inward_width": None}, "inward_width is None, expected a whole number"),
        ({"squeeze": "none", "context_fusion": True}, "needs a squeeze block"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        dataclasses.replace(RELEASED, **change)
