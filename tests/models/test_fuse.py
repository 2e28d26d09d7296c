"""The fused forms against the plain ones: the same numbers, whatever the size."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from decoupe import backbones
from decoupe.backbones.swin import Swin, SwinConfig
from decoupe.layers.blocks import ASPP, ConvNormAct, resize
from decoupe.layers.deform import DeformConv2d
from decoupe.models import BiRefNet, BiRefNetConfig, InSPyReNet, InSPyReNetConfig, fuse
from decoupe.models.birefnet import PRESETS, InwardReference
from decoupe.models.footprint import peak
from decoupe.models.fuse import stripes, windows
from decoupe.models.fuse.references import over_cells
from decoupe.models.fuse.stripes import resized_rows
from decoupe.models.inspyrenet import AxialAttention, ScaleInvariantAttention
from narrow import fewer_parts

sides = st.integers(1, 40)


def trained(model: nn.Module) -> nn.Module:
    """``model`` with statistics, offsets and biases as training leaves them, in float64."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for buffer in (module.running_mean, module.weight.data, module.bias.data):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3 + 0.2)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
        elif isinstance(module, DeformConv2d):
            for predictor in (module.offset, module.modulation):
                nn.init.normal_(predictor.weight, std=0.1, generator=generator)
                nn.init.normal_(predictor.bias, std=0.5, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3, generator=generator)
        elif isinstance(module, AxialAttention):
            module.gain.data.fill_(0.5)
    return model.double().eval()


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def agree(plain: Tensor, fused: Tensor) -> None:
    assert fused.shape == plain.shape
    assert (plain - fused).abs().max() <= 1e-10 * plain.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("deformable", [True, False])
@given(height=sides, width=sides, batch=st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_a_context_adds_up_what_it_concatenated(
    deformable: bool, height: int, width: int, batch: int
) -> None:
    plain = trained(ASPP(6, 5, width=4, deformable=deformable))
    x = drawn(batch, 6, height, width)
    with torch.inference_mode():
        agree(plain(x), fuse.Context(fuse.fold_(copy.deepcopy(plain)))(x))


@given(height=sides, width=sides, batch=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_a_swin_transformer_window_by_window(height: int, width: int, batch: int) -> None:
    plain = trained(Swin(SwinConfig(dim=8, depths=(2, 2), heads=(1, 2), window=4)))
    image = drawn(batch, 3, 4 * height, 4 * width)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(windows, "LEAST_TOKENS", 40)
        patch.setattr(windows, "CHUNK", 1)  # two windows of 16 tokens at a time
        for one, other in zip(plain(image), fuse.fuse(copy.deepcopy(plain))(image), strict=True):
            agree(one, other)


@given(height=st.integers(1, 10), width=st.integers(1, 10))
@settings(max_examples=15, deadline=None)
def test_a_reference_at_full_resolution_is_one_convolution(height: int, width: int) -> None:
    plain = trained(InwardReference(1, 7, BiRefNetConfig(inward_width=5)))
    head, image = drawn(1, 7, 1, 1), drawn(2, 3, 4 * height, 4 * width)
    with torch.inference_mode():
        wanted = nn.functional.conv2d(plain(image), head)
        agree(wanted, fuse.CollapsedReference(plain, head).double()(image))


@given(height=st.integers(1, 9), width=st.integers(1, 9), stride=st.sampled_from([1, 2, 8]))
@settings(max_examples=15, deadline=None)
def test_a_reference_of_unshuffled_pixels_is_a_strided_convolution(
    height: int, width: int, stride: int
) -> None:
    plain = trained(InwardReference(stride, 7, BiRefNetConfig(inward="unshuffle", inward_width=5)))
    image = drawn(2, 3, stride * height, stride * width)
    with torch.inference_mode():
        agree(plain(image), (strided := fuse.StridedReference(plain))(image))
    restored = over_cells(strided.convs[0].weight)
    torch.testing.assert_close(restored, plain.convs[0].weight, rtol=0, atol=0)


@given(
    height=st.integers(1, 40),
    width=sides,
    detail=st.booleans(),
    last=st.booleans(),
    pooled=st.sampled_from([(6, 4), (8, 8)]),  # which twelve channels divide, and which they do not
)
@settings(max_examples=30, deadline=None)
def test_attention_in_stripes(
    height: int, width: int, detail: bool, last: bool, pooled: tuple[int, int]
) -> None:
    plain = trained(ScaleInvariantAttention(12, 8, pooled, detail=detail))
    x = [drawn(2, 5, 2 * height, 2 * width), drawn(2, 7, height, width)]
    saliency = drawn(2, 1, height, width)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(stripes, "STRIPE", 1)  # some 20 rows at a time
        wanted = plain(x, saliency, saliency if detail else None)
        striped = fuse.StripedAttention(fuse.fold_(copy.deepcopy(plain)))
        striped.last = last
        found = striped(x, saliency, saliency if detail else None)
    agree(wanted[1], found[1])
    if last:
        assert found[0].numel() == 0
    else:
        agree(wanted[0], found[0])


@given(data=st.data(), height=st.integers(1, 9), width=sides, ratio=st.sampled_from([1, 2, 4]))
@settings(max_examples=50, deadline=None)
def test_rows_of_a_resized_map(data: st.DataObject, height: int, width: int, ratio: int) -> None:
    x, size = drawn(2, 3, height, width), (ratio * height, ratio * width)
    start = data.draw(st.integers(0, size[0] - 1))
    rows = slice(start, data.draw(st.integers(start + 1, size[0])))
    wanted = resize(x, size, align_corners=False)[:, :, rows]
    agree(wanted, resized_rows(x, size, rows))


def test_striped_attention_never_holds_its_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripes, "STRIPE", 1)  # some 20 rows at a time
    striped = fuse.StripedAttention(fuse.fold_(trained(ScaleInvariantAttention(64, 8, (8, 8), detail=False))))
    striped.last = True
    x, saliency = drawn(1, 64, 256, 32), drawn(1, 1, 256, 32)
    feature = 4 * x.nbytes  # twice as high and twice as wide
    with torch.inference_mode():
        assert peak(striped, lambda: striped([x], saliency)) < feature / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        lambda: nn.Sequential(DeformConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        lambda: ConvNormAct(3, 4, bias=True),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), Bottleneck(16, 4)),
    ],
    ids=["conv", "deformable", "ConvNormAct", "Bottleneck"],
)
def test_batch_norms_are_folded(make: Callable[[], nn.Module]) -> None:
    plain = trained(make())
    x = drawn(2, 3, 9, 11)
    with torch.inference_mode():
        folded = fuse.fold_(copy.deepcopy(plain))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        agree(plain(x), folded(x))


MODELS = {
    "swin": (
        BiRefNet,  # one pyramid of deformable convolutions, in place of five
        BiRefNetConfig("swin_t", squeeze="aspp_deformable", context="none", context_width=16),
        (64, 96),
    ),
    "nano": (BiRefNet, PRESETS["pocket"], (64, 96)),
    "pyramid": (InSPyReNet, InSPyReNetConfig(backbone="nano", depth=16, base_size=(64, 64)), (50, 70)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_fused_traced_and_lowered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = SwinConfig(dim=16, depths=(2, 0, 0, 1), heads=(2, 1, 1, 2), window=3)  # traced by the block
    monkeypatch.setitem(backbones.BACKBONES, "swin_t", functools.partial(Swin, narrow))
    family, config, size = MODELS[name]
    torch.manual_seed(0)
    plain = trained(family(config))
    image = drawn(2, 3, *size)
    with torch.inference_mode():
        wanted = plain(image).logits
        fused = fuse.fuse(copy.deepcopy(plain))
        agree(wanted, fused(image).logits)
        agree(wanted[1:], fused(image[1:]).logits)
        assert fuse.fuse(fused) is fused  # a second time changes nothing
        agree(wanted, fused(image).logits)

        few = fewer_parts(copy.deepcopy(fused))
        program = torch.export.export(Logits(few), (image,))
        agree(few(image).logits, program.module()(image))

        fused.float()
        lowered = fuse.lower(fused, torch.bfloat16)
        kinds = {parameter.dtype for parameter in lowered.parameters()}
        assert kinds == {torch.float32, torch.bfloat16}
        with torch.autocast("cpu", torch.bfloat16):
            near = lowered(image.float()).logits
        assert (near - wanted).abs().mean() < 2**-7 * wanted.abs().max()


class Logits(nn.Module):
    """A model that gives nothing but logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image).logits


def test_fusing_needs_no_second_model() -> None:
    """Weights move into the fused form: only those that are merged exist twice for a moment."""
    model = BiRefNet(BiRefNetConfig(backbone="swin_t", context_width=16))
    before = {parameter.data_ptr() for parameter in model.encoder.backbone.parameters()}
    kept = {parameter.data_ptr() for parameter in fuse.fuse(model).encoder.backbone.parameters()}
    assert len(before & kept) > 0.9 * len(before)
