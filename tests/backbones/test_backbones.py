from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.backbones import BACKBONES, STEM_BACKBONES, Backbone, StemBackbone, build_backbone
from decoupe.backbones.pvt import PVT, PVTConfig
from decoupe.backbones.res2net import Res2Net, Res2NetBlock
from decoupe.backbones.swin import (
    Swin,
    SwinBlock,
    SwinConfig,
    from_windows,
    rising,
    shifted_regions,
    to_windows,
)
from decoupe.backbones.vgg import VGG16
from decoupe.errors import ConfigError, InputError, MissingExtraError
from decoupe.layers.blocks import StochasticDepth
from decoupe.weights.naming import meta_backbone

LIGHT = [
    "nano",
    "efficientnet_lite0",
    "swin_t",
    "pvt_v2_b0",
    "vgg16",
    "vgg16_bn",
    "resnet50",
    "resnet101c",
    "res2net50",
    "dinov3_vits16",
]
# Millions of parameters, without any classifier.
PARAMETERS = {
    "efficientnet_lite0": 2.96,
    "efficientnet_lite1": 3.72,
    "efficientnet_lite2": 4.36,
    "efficientnet_lite3": 6.42,
    "efficientnet_lite4": 11.15,
    "swin_t": 27.5,
    "swin_s": 48.8,
    "swin_b": 86.9,
    "swin_l": 195.2,
    "pvt_v2_b0": 3.41,
    "pvt_v2_b1": 13.5,
    "pvt_v2_b2": 24.8,
    "pvt_v2_b5": 81.4,
    "vgg16": 14.7,
    "vgg16_bn": 14.7,
    "resnet50": 23.5,
    "resnet101": 42.5,
    "resnet101c": 42.5,
    "res2net50": 23.7,
    "dinov3_vits16": 21.6,
    "dinov3_vits16plus": 28.7,
    "dinov3_vitb16": 85.6,
    "dinov3_vitl16": 303,
    "dinov3_vith16plus": 840,
    "dinov3_vit7b16": 6716,
}


def test_the_table_of_parameters_is_complete() -> None:
    assert set(BACKBONES) == {"nano", *PARAMETERS}


@pytest.mark.parametrize("name", PARAMETERS)
def test_size(name: str) -> None:
    backbone = meta_backbone(name)
    millions = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[name], rel=0.005)
    assert isinstance(backbone, Backbone)


@cache
def drawn(name: str) -> Any:
    """The backbone of random weights, in evaluation mode."""
    return build_backbone(name).eval()


@pytest.mark.parametrize("name", LIGHT)
def test_contract(name: str) -> None:
    backbone = drawn(name)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        maps = backbone(images)
        alone = backbone(images[1:])
    assert len(maps) == len(backbone.channels) == len(backbone.strides) == 4
    for i, (both, one) in enumerate(zip(maps, alone, strict=True)):
        stride = backbone.strides[i]
        assert both.shape == (2, backbone.channels[i], 64 // stride, 96 // stride)
        assert (both[1:] - one).abs().max() < 1e-4 * one.std()
    assert all(key.split(".")[-1] != "index" for key in backbone.state_dict())


@pytest.mark.parametrize("name", STEM_BACKBONES)
def test_the_table_of_stems_is_true(name: str) -> None:
    assert isinstance(meta_backbone(name), StemBackbone)


@pytest.mark.parametrize("name", ["nano", "efficientnet_lite2", "swin_t", "res2net50"])
def test_the_stem_stands_before_the_other_maps(name: str) -> None:
    backbone = drawn(name)
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        stem, *maps = backbone.with_stem(image)
        assert all(map(torch.equal, maps, backbone(image)))
    stride = 64 // stem.shape[2]
    assert stride in (2, 4)
    assert stem.shape == (2, backbone.stem_channels, 64 // stride, 96 // stride)


@pytest.fixture(scope="module")
def res2net() -> Res2Net:
    return drawn("res2net50")


@given(size=st.tuples(st.integers(5, 70), st.integers(5, 70)))
@settings(max_examples=8, deadline=None)
def test_res2net_takes_any_size(res2net: Res2Net, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        maps = res2net(torch.randn(1, 3, *size))
    for x, channels, stride in zip(maps, res2net.channels, res2net.strides, strict=True):
        assert x.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert x.isfinite().all()


def test_res2net_dilates_its_last_stages(res2net: Res2Net) -> None:
    dilations = [[block.convs[0][0].dilation[0] for block in stage] for stage in res2net.stages]
    assert dilations == [[1] * 3, [1] * 4, [2] * 6, [4, 8, 16]]


@pytest.mark.parametrize("first", [False, True])
def test_a_res2net_split_sees_those_before_it_unless_it_begins_a_stage(first: bool) -> None:
    """Gao et al., figure 2: which splits of its input each 3×3 convolution's output depends on."""
    block = Res2NetBlock(8, 8, width=2, splits=4, first=first).eval()
    block.reduce = torch.nn.Identity()
    for i, conv in enumerate(block.convs):
        outputs: list[torch.Tensor] = []
        hook = conv.register_forward_hook(lambda _, __, out, kept=outputs: kept.append(out))
        x = torch.randn(1, 8, 5, 5, requires_grad=True)
        block(x)
        hook.remove()
        outputs[0].mul(torch.rand(outputs[0].shape)).sum().backward()
        assert x.grad is not None
        seen = [bool(part.any()) for part in x.grad.chunk(4, dim=1)]
        assert seen == [j == i if first else j <= i for j in range(4)]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'swin_v1_t'; did you mean 'swin_t'\?"):
        build_backbone("swin_v1_t")


def test_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"backbone dinov3_vits16 needs .*decoupe\[timm\]"):
        build_backbone("dinov3_vits16")


SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@given(size=SIZES, window=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_swin_takes_any_size(size: tuple[int, int], window: int) -> None:
    swin = Swin(SwinConfig(dim=4, depths=(2, 2, 2), heads=(1, 2, 4), window=window)).eval()
    with torch.inference_mode():
        maps = swin(torch.randn(1, 3, *size))
    for x, channels, stride in zip(maps, swin.channels, swin.strides, strict=True):
        assert x.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert x.isfinite().all()


@given(size=SIZES)
@settings(max_examples=15, deadline=None)
def test_pvt_takes_any_size(size: tuple[int, int]) -> None:
    pvt = PVT(PVTConfig(dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))).eval()
    with torch.inference_mode():
        maps = pvt(torch.randn(1, 3, *size))
    for x, channels, stride in zip(maps, pvt.channels, pvt.strides, strict=True):
        assert x.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert x.isfinite().all()


def test_vgg_refuses_what_its_poolings_leave_nothing_of() -> None:
    with pytest.raises(InputError, match="31×40"):
        VGG16()(torch.zeros(1, 3, 40, 31))


@given(rows=st.integers(1, 4), columns=st.integers(1, 4), window=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_windows_and_back(rows: int, columns: int, window: int) -> None:
    x = torch.randn(2, rows * window, columns * window, 3)
    windows = to_windows(x, window)
    assert windows.shape == (2 * rows * columns, window**2, 3)
    assert torch.equal(windows[0], x[0, :window, :window].flatten(0, 1))
    assert torch.equal(from_windows(windows, window, *x.shape[1:3]), x)


def neighbours_seen(shift: int) -> torch.Tensor:
    """Which cells of a 6×6 map the output at the top left corner depends on, windows of 3."""
    block = SwinBlock(4, heads=1, window=3, shift=shift, drop_path=0.0)
    x = torch.randn(1, 6, 6, 4, requires_grad=True)
    block(x)[0, 0, 0].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 1e-20


def test_attention_stays_inside_its_window() -> None:
    seen = neighbours_seen(shift=0)
    assert seen[:3, :3].all()
    assert not seen[3:].any()
    assert not seen[:, 3:].any()


def test_shifted_attention_does_not_cross_the_seam() -> None:
    # The cyclic shift puts the corner beside the opposite edges, none of which it may see.
    seen = neighbours_seen(shift=1)
    assert seen[0, 0]
    assert seen.sum() == 1


def test_regions_part_at_the_seam() -> None:
    regions = shifted_regions(6, 6, 3, 1, torch.device("cpu"))
    assert regions[:5, :5].unique().numel() == 1
    assert regions.unique().numel() == 4


def test_stochastic_depth_rises_to_the_rate_of_the_paper() -> None:
    assert list(rising(0.2, 3)) == pytest.approx([0, 0.1, 0.2])
    assert list(rising(0.2, 1)) == [0]
    rates = [block.drop_path.rate for stage in meta_backbone("swin_t").stages for block in stage]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates)


def test_stochastic_depth_is_torchvisions() -> None:
    x, ours = torch.randn(64, 3, 4), StochasticDepth(0.3)
    torch.manual_seed(0)
    wanted = torchvision.ops.stochastic_depth(x, 0.3, "row")
    torch.manual_seed(0)
    assert torch.equal(ours(x), wanted)
    assert not torch.equal(wanted, x)
    assert ours.eval()(x) is x


def test_half_precision_stays_close() -> None:
    swin = Swin(SwinConfig(dim=16, depths=(2, 2), heads=(1, 2), window=4)).eval()
    image = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        exact = swin(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = swin(image)
    for a, b in zip(exact, rough, strict=True):
        assert (a - b.float()).abs().max() < 0.05 * a.std()
