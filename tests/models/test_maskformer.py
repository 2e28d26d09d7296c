"""MaskFormer's structure: every option builds, trains and predicts; the numbers are the golden cases'."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contract import ModelContract, picture, tensors
from decoupe import readings
from decoupe.errors import ConfigError, InputError
from decoupe.models.maskformer import (
    PRESETS,
    MaskFormer,
    MaskFormerConfig,
    MaskFormerOutput,
    PerPixelBaseline,
    PerPixelBaselinePlus,
    PerPixelOutput,
    instances,
    panoptic,
    semantic,
)
from decoupe.models.maskformer_decoders import DecoderLayer, EncoderLayer, Sizes, sine_positions
from narrow import narrow_backbones

SMALL = MaskFormerConfig(
    backbone="nano",
    classes=5,
    queries=7,
    width=64,
    heads=2,
    feed_forward=96,
    layers=2,
    pyramid_width=64,
    mask_width=16,
)
CONFIGS = {
    "resnet": dataclasses.replace(SMALL, backbone="resnet50"),
    "swin": dataclasses.replace(SMALL, backbone="swin_t", layers=1),
    "encoder": dataclasses.replace(SMALL, encoder_layers=2, pyramid_width=96, heads=4),
    "unprojected": dataclasses.replace(SMALL, width=192),
}
BASELINES = {"baseline": PerPixelBaseline, "baseline+": PerPixelBaselinePlus}


def shallow(model: nn.Module) -> nn.Module:
    """With one block a stage, to be compiled, which costs by the part; blocks are of one class."""
    for stage in model.pixel_level.backbone.stages:
        del stage[2:]
    return model


class TestMaskFormer(ModelContract):
    names = tuple(CONFIGS)

    @classmethod
    def build(cls, name: str) -> nn.Module:
        with narrow_backbones():
            return MaskFormer(CONFIGS[name])

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 95), (224, 96), (130, 171)])
    def test_logits_are_a_quarter_of_the_picture(
        self, name: str, model: nn.Module, height: int, width: int
    ) -> None:
        with torch.inference_mode():
            out = model(picture(1, height, width))
        config = CONFIGS[name]
        assert out.class_logits.shape == (1, config.queries, config.classes + 1)
        assert out.mask_logits.shape == (1, config.queries, -(-height // 4), -(-width // 4))
        assert all(tensor.isfinite().all() for tensor in tensors(out))
        assert len(tensors(out)) == 2

    def test_earlier_layers_answer_in_training(
        self, name: str, trained: tuple[nn.Module, MaskFormerOutput]
    ) -> None:
        config, (_, out) = CONFIGS[name], trained
        assert len(out.side_class_logits) == len(out.side_mask_logits) == config.layers - 1
        assert all(logits.shape == out.class_logits.shape for logits in out.side_class_logits)
        assert all(logits.shape == out.mask_logits.shape for logits in out.side_mask_logits)

    def test_compiled_gives_the_same_numbers(self) -> None:
        """With an encoder, and to a tenth of the difference that the contract allows.

        Of two decoder layers: the first begins with queries that know nothing.
        """
        torch.manual_seed(0)
        model = shallow(MaskFormer(dataclasses.replace(CONFIGS["encoder"], encoder_layers=1))).eval()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        image = picture(1, 64, 96)
        with torch.inference_mode():
            for expected, found in zip(tensors(model(image)), tensors(compiled(image)), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.std()), rtol=1e-5)


class TestBaselines(ModelContract):
    names = tuple(BASELINES)

    @classmethod
    def build(cls, name: str) -> nn.Module:
        return BASELINES[name](CONFIGS["encoder"])

    @classmethod
    def compiled(cls) -> nn.Module:
        """Without an encoder: MaskFormer is compiled with one."""
        return shallow(PerPixelBaseline(SMALL))

    def test_one_map_per_class(
        self, name: str, model: nn.Module, trained: tuple[nn.Module, PerPixelOutput]
    ) -> None:
        with torch.inference_mode():
            out = model(picture(1, 50, 70))
        assert out.logits.shape == (1, SMALL.classes, 13, 18)
        assert out.side_logits == ()
        assert len(trained[1].side_logits) == (SMALL.layers - 1 if name == "baseline+" else 0)


@given(height=st.integers(32, 160), width=st.integers(32, 160))
@settings(max_examples=8, deadline=None)
def test_any_size(height: int, width: int) -> None:
    with torch.inference_mode():
        out = MaskFormer(SMALL).eval()(picture(1, height, width))
    assert out.mask_logits.shape[2:] == (-(-height // 4), -(-width // 4))


def test_the_last_layer_s_earlier_outputs_are_what_a_shorter_decoder_gives() -> None:
    """Each layer's answer is read through the same norm and heads: DETR's deep supervision."""
    torch.manual_seed(0)
    long = MaskFormer(dataclasses.replace(SMALL, layers=3, dropout=0.0)).train()
    short = MaskFormer(dataclasses.replace(SMALL, layers=2, dropout=0.0)).train()
    short.load_state_dict({k: v for k, v in long.state_dict().items() if ".layers.2." not in k})
    image = picture(2, 64, 64)
    out, expected = long(image), short(image)
    torch.testing.assert_close(out.side_class_logits[-1], expected.class_logits)
    torch.testing.assert_close(out.side_mask_logits[-1], expected.mask_logits)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 31, 64), (1, 3, 64, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(N, 3, H, W\), H and W at least 32$"):
        MaskFormer(SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"backbone": "swin_x"}, "unknown backbone 'swin_x'; did you mean 'swin_"),
        ({"backbone": "dinov3_vits16"}, r"maps at strides \(16, 16, 16, 16\)"),
        ({"queries": 0}, "queries is 0, expected a whole number of at least 1"),
        ({"queries": 7.5}, "queries is 7.5, expected a whole number"),
        ({"classes": "150"}, "classes is '150', expected a whole number"),
        ({"layers": None}, "layers is None, expected a whole number"),
        ({"layers": 10**13}, "layers is 10000000000000, expected a whole number from 1 to 1000"),
        ({"encoder_layers": -1}, "encoder_layers is -1, expected a whole number from 0 to 1000"),
        ({"encoder_layers": 10**13}, "expected a whole number from 0 to 1000"),
        ({"width": 62}, "width is 62, expected a multiple of 4"),
        ({"heads": 3}, r"expected a multiple of 4 and of heads \(3\)"),
        ({"pyramid_width": 80}, "expected a multiple of 32"),
        ({"pyramid_width": 32}, "expected a multiple of 32 from 64"),
        ({"encoder_layers": 1, "heads": 16, "width": 64, "pyramid_width": 72}, r"of heads \(16\)"),
        ({"dropout": 1.0}, "dropout is 1.0, expected a share from 0 to below 1"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line), torch.device("meta"):
        MaskFormer(dataclasses.replace(SMALL, **change))


# Millions of parameters, as the released code counts them.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("maskformer-resnet50-ade", 41.3),
        ("maskformer-resnet101-ade", 60.3),
        ("maskformer-swin-tiny-ade", 41.8),
        ("maskformer-swin-large-ade", 211.6),
        ("maskformer-resnet50-coco", 45.0),
    ],
)
def test_presets_have_the_paper_s_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = MaskFormer(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_presets_cover_the_backbones_and_sets() -> None:
    assert len(PRESETS) == 24
    assert {config.classes for config in PRESETS.values()} == {19, 65, 133, 150, 171, 847}
    assert all(
        bool(config.encoder_layers) == (name.split("-")[1].startswith("resnet") and config.classes == 133)
        for name, config in PRESETS.items()
        if name.endswith(("-ade", "-coco"))
    )


def test_positions_are_the_definition() -> None:
    found = sine_positions(torch.zeros(1, 8, 3, 5, dtype=torch.float64))[0].unflatten(0, (3, 5))
    row, column = 2 * torch.pi * 2 / 3, 2 * torch.pi * 4 / 5  # of the cell (1, 3), counted from 1
    waves = [
        torch.tensor([angle / length for length in (1, 100)], dtype=torch.float64) for angle in (row, column)
    ]
    expected = torch.cat([torch.stack([wave.sin(), wave.cos()], 1).flatten() for wave in waves])
    torch.testing.assert_close(found[1, 3], expected, atol=1e-5, rtol=0)
    assert sine_positions(torch.zeros(1, 8, 3, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_layers_are_torch_s_where_there_are_no_positions(part: str) -> None:
    """torch's own post-norm layers are the definition that DETR began with."""
    torch.manual_seed(0)
    sizes = Sizes(width=16, heads=4, feed_forward=24, dropout=0.0)
    kind = nn.TransformerEncoderLayer if part == "encoder" else nn.TransformerDecoderLayer
    theirs = kind(16, 4, 24, dropout=0.0, batch_first=True).double()
    ours = (EncoderLayer if part == "encoder" else DecoderLayer)(sizes).double()
    names = {"multihead_attn": "cross_attention", "linear1": "mlp.0", "linear2": "mlp.3"}
    names |= {"self_attn": "attention" if part == "encoder" else "self_attention"}
    names |= {f"norm{i + 1}": f"norms.{i}" for i in range(3)}
    state = {
        f"{names[key.split('.')[0]]}.{key.split('.', 1)[1]}": v for key, v in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    x, memory = torch.randn(2, 5, 16).double(), torch.randn(2, 9, 16).double()
    nothing = torch.zeros(1, 1, 16).double()
    if part == "encoder":
        torch.testing.assert_close(ours(x, nothing), theirs(x))
    else:
        torch.testing.assert_close(ours(x, nothing, memory, memory), theirs(x, memory))


def logits(pictures: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    classes = 4 * torch.randn(pictures, 6, 5, generator=generator)
    coarse = torch.randn(pictures, 6, 3, 4, generator=generator)
    return classes, 8 * F.interpolate(coarse, size=(12, 16), mode="bilinear")


def test_a_batch_of_no_pictures_reads_as_none() -> None:
    empty = torch.zeros(0, 5, 4), torch.zeros(0, 5, 2, 2)
    assert semantic(*empty, (6, 7)).shape == (0, 6, 7)
    assert instances(*empty, (6, 7)) == []


def test_semantic_is_the_formula() -> None:
    class_logits, mask_logits = logits()
    labels = semantic(class_logits, mask_logits, (12, 16))
    scores = torch.einsum("nqk,nqhw->nkhw", class_logits.softmax(2)[..., :-1], mask_logits.sigmoid())
    assert labels.dtype == torch.int64
    assert torch.equal(labels, scores.argmax(1))
    assert MaskFormer.semantic(class_logits, mask_logits, (40, 50)).shape == (2, 40, 50)


@pytest.mark.parametrize("reading", ["instances", "panoptic"])
def test_segments_are_the_readings_of_each_picture(reading: str) -> None:
    class_logits, mask_logits = logits()
    options = {"score": 0.3}
    found = getattr(MaskFormer, reading)(class_logits, mask_logits, (24, 30), **options)
    assert [len(one) > 0 for one in found] == [True, True]
    for i, segments in enumerate(found):
        arrays = getattr(readings, reading)(
            class_logits[i].numpy(), mask_logits[i].numpy(), (24, 30), **options
        )
        assert [(s.label, s.score, s.box) for s in segments] == [(s.label, s.score, s.box) for s in arrays]
        for segment, array in zip(segments, arrays, strict=True):
            assert segment.mask.dtype == torch.bool
            assert torch.equal(segment.mask, torch.from_numpy(array.mask))


def test_panoptic_fuses_stuff() -> None:
    class_logits = torch.full((1, 2, 4), -9.0)
    class_logits[..., 1] = 9
    mask_logits = torch.full((1, 2, 8, 8), -9.0)
    mask_logits[0, 0, :, :4] = 9
    mask_logits[0, 1, :, 4:] = 9
    assert [len(one) for one in panoptic(class_logits, mask_logits, (8, 8))] == [2]
    (fused,) = panoptic(class_logits, mask_logits, (8, 8), fuse=(1,))[0]
    assert fused.mask.all()
    assert len(instances(class_logits, mask_logits, (8, 8))[0]) == 2


def test_readings_refuse_logits_of_one_picture() -> None:
    class_logits, mask_logits = logits()
    for read in (semantic, instances, panoptic):
        with pytest.raises(InputError, match="of one output"):
            read(class_logits[0], mask_logits[0], (8, 8))
        with pytest.raises(InputError, match="of one output"):
            read(class_logits[:, :3], mask_logits, (8, 8))
