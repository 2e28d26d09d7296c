"""InSPyReNet's structure: every option builds, trains and predicts; the numbers are the golden cases'."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contract import MatteModelContract, picture, tensors, with_statistics
from decoupe.errors import ConfigError, InputError
from decoupe.layers.pyramid import reconstruct, reduce
from decoupe.models import InSPyReNet, InSPyReNetConfig, InSPyReNetOutput
from decoupe.models.inspyrenet import PRESETS, AxialAttention, ScaleInvariantAttention
from narrow import fewer_parts, narrow_backbones

SMALL = InSPyReNetConfig(backbone="nano", depth=16, base_size=(64, 96))
CONFIGS = {
    "small": SMALL,
    "swin": InSPyReNetConfig(backbone="swin_t", depth=8, base_size=(96, 64)),
    "res2net": InSPyReNetConfig(backbone="res2net50", depth=8, base_size=(64, 64)),
}
SIZES = st.tuples(st.integers(32, 130), st.integers(32, 130))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(InSPyReNet(SMALL))


class TestInSPyReNet(MatteModelContract):
    names = tuple(CONFIGS)
    sizes = ((32, 32), (33, 95), (64, 160), (107, 300))

    @classmethod
    def build(cls, name: str) -> nn.Module:
        with narrow_backbones():
            return InSPyReNet(CONFIGS[name])

    @classmethod
    def compiled(cls) -> nn.Module:
        return fewer_parts(cls.build("small"))


def test_shapes_are_told_without_numbers() -> None:
    """On the meta device, as what counts operations before there is memory."""
    with torch.device("meta"):
        assert InSPyReNet(SMALL).eval()(torch.zeros(1, 3, 64, 96)).logits.shape == (1, 1, 64, 96)


@pytest.mark.parametrize("size", [(64, 96), (45, 70)])
def test_training_maps_are_a_pyramid(size: tuple[int, int]) -> None:
    """Each level is as large as the truth reduced to it, and the finer one plus its detail."""
    out = InSPyReNet(SMALL).train()(picture(2, *size))
    levels = [picture(2, *size)[:, :1]]
    while len(levels) < 4:
        levels.append(reduce(levels[-1]))
    assert [x.shape for x in (out.logits, *reversed(out.side_logits))] == [x.shape for x in levels]
    assert [x.shape for x in reversed(out.laplacian)] == [x.shape for x in levels[:3]]
    if size == (64, 96):
        finer = (*out.side_logits[1:], out.logits)
        for coarse, fine, detail in zip(out.side_logits, finer, out.laplacian, strict=True):
            torch.testing.assert_close(fine, reconstruct(coarse, detail))


def test_a_finer_map_teaches_none_of_the_coarser() -> None:
    model = InSPyReNet(SMALL).train()
    model(picture(2, 64, 64)).logits.sum().backward()
    assert model.decoder.head.weight.grad is None


@given(size=SIZES)
@settings(max_examples=8, deadline=None)
def test_any_size(small: nn.Module, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        out = small(picture(1, *size))
        blended = small(picture(1, *size), picture(1, 64, 96))
    assert out.logits.shape == blended.logits.shape == (1, 1, *size)
    assert (out.logits.isfinite() & blended.logits.isfinite()).all()


def test_padding_is_what_an_enlarged_picture_would_show(small: nn.Module) -> None:
    image = picture(1, 50, 81)
    whole = torch.nn.functional.pad(image, (0, 15, 0, 14), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(small(image).logits, small(whole).logits[..., :50, :81])


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64), (1, 3, 64, 31)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least 32"):
        InSPyReNet(SMALL)(torch.zeros(shape))


class TestBlending:
    """What `low` does: the coarse pass finds the subject, the fine one adds detail at its outline."""

    def blended(self, small: nn.Module, coarse: Tensor, fine: InSPyReNetOutput) -> InSPyReNetOutput:
        """The blending of two passes whose outcome is given."""
        passes = iter([InSPyReNetOutput(coarse), fine])
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(small, "maps", lambda _: next(passes))
            out: InSPyReNetOutput = small.blended(picture(1, 128, 128), picture(1, 64, 64))
        return out

    @pytest.fixture(scope="class")
    @staticmethod
    def fine(small: nn.Module) -> InSPyReNetOutput:
        with torch.inference_mode():
            return small.maps(picture(1, 128, 128))

    def test_without_an_outline_there_is_no_detail(self, small: nn.Module, fine: InSPyReNetOutput) -> None:
        out = self.blended(small, torch.full((1, 1, 64, 64), 3.0), fine)
        assert all(float(detail.abs().max()) == 0 for detail in out.laplacian)
        torch.testing.assert_close(out.logits, torch.full((1, 1, 128, 128), 3.0), rtol=0.1, atol=0)

    def test_detail_stays_near_outlines(self, small: nn.Module, fine: InSPyReNetOutput) -> None:
        """Where the coarse matte has an edge, detail is the fine pass's; elsewhere there is none."""
        edge = torch.full((1, 1, 64, 64), -20.0)
        edge[..., 32:] = 20
        out = self.blended(small, edge, fine)
        for stride, detail, expected in zip((4, 2, 1), out.laplacian, fine.laplacian, strict=True):
            middle = 64 // stride
            assert torch.equal(detail[..., middle], expected[..., middle])
            assert float(detail[..., : middle // 2].abs().max()) == 0
            assert float(detail[..., -middle // 2 :].abs().max()) == 0

    def test_evaluation_gives_nothing_but_logits(self, small: nn.Module) -> None:
        with torch.inference_mode():
            assert len(tensors(small(picture(2, 96, 64), picture(2, 64, 64)))) == 1

    def test_a_batch_equals_one_by_one(self, small: nn.Module) -> None:
        images, low = picture(3, 96, 128), picture(3, 64, 96, seed=1)
        with torch.inference_mode():
            together = small(images, low).logits
            alone = torch.cat([small(a[None], b[None]).logits for a, b in zip(images, low, strict=True)])
        torch.testing.assert_close(together, alone, atol=1e-5 * float(alone.std()), rtol=1e-4)

    def test_a_low_of_other_pictures_is_refused(self, small: nn.Module) -> None:
        with pytest.raises(InputError, match="low has 1 pictures, image 2"):
            small(picture(2, 64, 64), picture(1, 64, 64))
        with pytest.raises(InputError, match="leave low out"):
            InSPyReNet(SMALL).train()(picture(2, 64, 64), picture(2, 64, 64))


def test_attention_along_the_width_mixes_rows_with_themselves_only() -> None:
    attention = AxialAttention(8, -1).eval()
    torch.nn.init.constant_(attention.gain, 1)
    x = torch.randn(1, 8, 5, 7, requires_grad=True)
    weights = attention(x)[0, :, 2, 3].sum()  # every column of the map shares its attention
    weights.backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(dim=0) > 0).sum() == 35
    with torch.no_grad():
        uniform = AxialAttention(8, -1).eval()
        for projection in (uniform.query, uniform.key):
            torch.nn.init.zeros_(projection[0].weight)
        torch.nn.init.constant_(uniform.gain, 1)
        found = uniform(x) - x
        expected = uniform.value(x).mean(dim=-1, keepdim=True).expand_as(x)
    torch.testing.assert_close(found, expected)


def test_regions_are_foreground_background_and_doubt() -> None:
    """Threshold 0.5: a pixel surely inside, one surely outside, one that could be either."""
    stage = ScaleInvariantAttention(16, 16, (64, 64), detail=True)
    logits = torch.tensor([40.0, -40, 0]).view(1, 1, 1, 3)
    regions = stage.regions((1, 3), logits, logits)
    expected = [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0, 0], [0, 0.5, 0]]
    torch.testing.assert_close(regions[0, :, 0], torch.tensor(expected))


def test_context_is_pooled_at_the_trained_size() -> None:
    """A flat feature and region give one sum, whatever the picture's size: 64×64 cells of 2 times 0.5."""
    stage = ScaleInvariantAttention(16, 16, (64, 64), detail=False)
    for size in ((64, 64), (32, 160)):
        context = stage.contexts(torch.full((1, 16, *size), 2.0), torch.full((1, 3, *size), 0.5))
        torch.testing.assert_close(context, torch.full((1, 16, 3, 1), 64.0 * 64))


def test_contexts_do_not_overflow_in_half_precision() -> None:
    stage = with_statistics(ScaleInvariantAttention(16, 16, (384, 384), detail=False))
    for projection in (stage.key, stage.value):
        projection[0][1].running_var.fill_(1e11)  # what training would have found
    x, saliency = 10 + picture(1, 48, 48)[:, :1].expand(-1, 16, -1, -1), picture(1, 24, 24)[:, :1]
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        feature, detail = stage([x.half()], saliency.half())
    assert feature.isfinite().all()
    assert detail.isfinite().all()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"backbone": "swin_x"}, "unknown backbone with a stem 'swin_x'; did you mean 'swin_"),
        ({"backbone": "vgg16"}, "unknown backbone with a stem 'vgg16'"),
        ({"depth": 12}, "depth is 12, expected a positive multiple of 8"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 8.0}, "depth is 8.0, expected a whole number"),
        ({"base_size": 384}, "base_size is 384, expected two whole numbers"),
        ({"base_size": [384, 384]}, "expected two whole numbers above 0 in a tuple"),
        ({"base_size": (384, 384, 384)}, "expected two whole numbers"),
        ({"base_size": (384, 100)}, "expected two multiples of 32"),
        ({"base_size": (0, 0)}, "expected two whole numbers"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        dataclasses.replace(SMALL, **change)


def test_presets_are_the_released_sizes() -> None:
    assert PRESETS["inspyrenet"].base_size == (1024, 1024)
    assert PRESETS["inspyrenet-fast"] == InSPyReNetConfig()
