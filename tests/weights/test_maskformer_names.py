"""Names of transformers and of Detectron2 -> ours; transformers' own files give transformers' own numbers."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from contract import picture
from decoupe.errors import CheckpointError, ConfigError
from decoupe.models import maskformer
from decoupe.models.maskformer import PRESETS, MaskFormer, MaskFormerConfig
from decoupe.weights import convert
from decoupe.weights.detectron import read_pkl
from decoupe.weights.maskformer_names import (
    BACKBONES,
    canonical,
    describe,
    infer_maskformer_config,
    maskformer_config,
    maskformer_names,
)
from decoupe.weights.naming import knowledge, meta_backbone, shapes_of
from golden import fill
from golden_cases import cases

SIZES: dict[str, Any] = {
    "classes": 5,
    "queries": 7,
    "width": 64,
    "heads": 2,
    "feed_forward": 96,
    "layers": 2,
    "pyramid_width": 64,
    "mask_width": 32,
}


@cache
def build(config: MaskFormerConfig) -> MaskFormer:
    """A model of which only names and shapes exist; all that have its backbone share it."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(maskformer, "build_backbone", meta_backbone)
        return MaskFormer(config)


def state_of(config: MaskFormerConfig) -> dict[str, Tensor]:
    """Detectron2's names and our tensors of a model."""
    state = build(config).state_dict()
    return {theirs: state[ours] for theirs, ours in maskformer_names(config, state).items()}


def light(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes that take no memory."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


# --- inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_inferred_from_shapes_alone(name: str) -> None:
    assert infer_maskformer_config(state_of(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_inferred_at_other_sizes(backbone: str) -> None:
    config = MaskFormerConfig(backbone=backbone, encoder_layers=3, **SIZES)
    assert infer_maskformer_config(state_of(config)) == config


def test_a_missing_projection_is_no_matter() -> None:
    config = MaskFormerConfig(backbone="swin_t", **{**SIZES, "width": 768, "heads": 24})
    state = state_of(config)
    assert "sem_seg_head.predictor.input_proj.weight" not in state
    assert infer_maskformer_config(state) == config


def test_what_was_inferred_is_told() -> None:
    first, second = describe(PRESETS["maskformer-swin-base-ade"])
    assert "backbone='swin_b'" in first
    assert "taken as 8, one per 32 channels" in second


# --- options -----------------------------------------------------------------------------------------------


def test_options_of_transformers() -> None:
    shapes = shapes_of(state_of(PRESETS["maskformer-resnet50-ade"]))
    stated = {"backbone": "resnet50", "num_classes": 150, "image_size": 512}
    assert maskformer_config(stated, shapes) == maskformer_config({}, shapes)
    assert maskformer_config({"num_classes": 19}, shapes).classes == 19
    for options, line in (
        ({"backbone": "resnet5"}, "unknown backbone of the reference 'resnet5'; did you mean 'resnet50'"),
        ({"num_clases": 3}, "unknown option of the reference 'num_clases'; did you mean 'num_classes'"),
    ):
        with pytest.raises(ConfigError, match=line):
            maskformer_config(options, shapes)


# --- Detectron2's names ------------------------------------------------------------------------------------


def normed(name: str, batch: bool = True) -> list[str]:
    statistics = ("running_mean", "running_var") if batch else ()
    return [f"{name}.weight", *(f"{name}.norm.{leaf}" for leaf in ("weight", "bias", *statistics))]


def plain(*names: str) -> list[str]:
    return [f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")]


def attention(name: str) -> list[str]:
    return [f"{name}.in_proj_weight", f"{name}.in_proj_bias", *plain(f"{name}.out_proj")]


def backbone_names(backbone: str) -> Iterator[str]:
    if backbone == "swin_t":
        yield from plain("patch_embed.proj", "patch_embed.norm", "norm0", "norm1", "norm2", "norm3")
        for i, depth in enumerate((2, 2, 6, 2)):
            for j in range(depth):
                block = f"layers.{i}.blocks.{j}"
                yield f"{block}.attn.relative_position_bias_table"
                parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
                yield from plain(*(f"{block}.{part}" for part in parts))
            if i < 3:
                yield from (f"layers.{i}.downsample.reduction.weight", *plain(f"layers.{i}.downsample.norm"))
        return
    for i in range(3 if backbone.endswith("c") else 1):
        yield from normed(f"stem.conv{i + 1}")
    for i, depth in enumerate((3, 4, 6, 3) if backbone == "resnet50" else (3, 4, 23, 3)):
        for j in range(depth):
            for part in ("shortcut",) * (j == 0) + ("conv1", "conv2", "conv3"):
                yield from normed(f"res{i + 2}.{j}.{part}")


def head_names(layers: int, encoder_layers: int) -> Iterator[str]:
    pixels, predictor = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    for name in ("adapter_1", "adapter_2", "adapter_3", "layer_1", "layer_2", "layer_3", "layer_4"):
        yield from normed(f"{pixels}.{name}", batch=False)
    yield from plain(f"{pixels}.mask_features")
    if encoder_layers:
        yield from plain(f"{pixels}.input_proj")
    for i in range(encoder_layers):
        layer = f"{pixels}.transformer.encoder.layers.{i}"
        yield from attention(f"{layer}.self_attn")
        yield from plain(*(f"{layer}.{part}" for part in ("linear1", "linear2", "norm1", "norm2")))
    for i in range(layers):
        layer = f"{predictor}.transformer.decoder.layers.{i}"
        yield from (*attention(f"{layer}.self_attn"), *attention(f"{layer}.multihead_attn"))
        yield from plain(*(f"{layer}.{part}" for part in ("linear1", "linear2", "norm1", "norm2", "norm3")))
    yield from plain(f"{predictor}.transformer.decoder.norm", f"{predictor}.class_embed")
    yield f"{predictor}.query_embed.weight"
    yield from plain(*(f"{predictor}.mask_embed.layers.{i}" for i in range(3)))
    if not encoder_layers:  # the encoder's map is as wide as the decoder
        yield from plain(f"{predictor}.input_proj")


@pytest.mark.parametrize(
    ("backbone", "encoder_layers"), [("resnet50", 6), ("resnet101", 0), ("resnet101c", 0), ("swin_t", 0)]
)
def test_canonical_names_are_detectron_s(backbone: str, encoder_layers: int) -> None:
    state = state_of(MaskFormerConfig(backbone=backbone, encoder_layers=encoder_layers))
    names = [*(f"backbone.{name}" for name in backbone_names(backbone)), *head_names(6, encoder_layers)]
    assert sorted(state) == sorted(names)


def test_names_from_before_the_pixel_decoder_had_its_own() -> None:
    state = state_of(PRESETS["maskformer-resnet50-coco"])
    old = {key.replace("pixel_decoder.", ""): value for key, value in state.items()}
    assert canonical({**old, "criterion.empty_weight": torch.ones(134)}) == state


# --- transformers' files -----------------------------------------------------------------------------------


def build_transformers(backbone: str) -> Any:
    """transformers' model with small heads on a whole backbone, its numbers as healthy as the golden ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' import, which is not ours
        import transformers

        stages = [f"stage{i}" for i in range(1, 5)]
        config = transformers.MaskFormerConfig(
            backbone_config=(
                transformers.SwinConfig(out_features=stages)
                if backbone == "swin_t"
                else transformers.ResNetConfig(out_features=stages)
            ),
            decoder_config=transformers.DetrConfig(
                d_model=SIZES["width"],
                decoder_attention_heads=SIZES["heads"],
                decoder_ffn_dim=SIZES["feed_forward"],
                decoder_layers=SIZES["layers"],
                num_queries=SIZES["queries"],
            ),
            num_labels=SIZES["classes"],
            fpn_feature_size=SIZES["pyramid_width"],
            mask_feature_size=SIZES["mask_width"],
        )
        model = transformers.MaskFormerForInstanceSegmentation(config).eval()
    filled = {
        key: torch.from_numpy(fill.tensor(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    model.load_state_dict(filled, strict=False)
    return model


IMAGE = picture(2, 68, 99).double()


@pytest.fixture(scope="module", params=["swin_t", "resnet50"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """What transformers computes of `IMAGE` in float64, and a folder with its files."""
    model, folder = build_transformers(request.param), tmp_path_factory.mktemp(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)  # under the names that the hub's files have
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # under those of this release
    with torch.inference_mode():
        return model.double()(IMAGE), folder


def check_same(model: torch.nn.Module, expected: Any) -> None:
    with torch.inference_mode():
        ours = model.double()(IMAGE)
    pairs = (
        (ours.class_logits, expected.class_queries_logits),
        (ours.mask_logits, expected.masks_queries_logits),
    )
    for found, stored in pairs:
        assert found.shape == stored.shape
        assert (found - stored).abs().max() < 1e-5 * stored.std()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_transformers_files_give_transformers_numbers(theirs: tuple[Any, Path], file: str) -> None:
    expected, folder = theirs
    read = load_file if file.endswith("safetensors") else lambda path: torch.load(path, weights_only=True)
    ours = convert.from_reference("maskformer", read(folder / file))
    assert dataclasses.asdict(ours.config).items() >= SIZES.items()
    check_same(ours, expected)


def test_detectron_s_pickle_gives_the_same_numbers(theirs: tuple[Any, Path]) -> None:
    expected, folder = theirs
    arrays = {
        name: np.asarray(value) for name, value in canonical(load_file(folder / "model.safetensors")).items()
    }
    content = {"model": arrays, "__author__": "MaskFormer", "matching_heuristics": True}
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    check_same(convert.from_reference("maskformer", read_pkl(path)), expected)


NEWER = (
    (r"attention\.self\.(query|key|value)\.", lambda m: f"attention.{m[1][0]}_proj."),
    (r"attention\.self\.rel", "attention.relative_position_bias.rel"),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
    (r"hidden_states_norms\.(\d)", lambda m: f"hidden_states_norms.stage{int(m[1]) + 1}"),
    (r"encoder\.model\.(?!layernorm)", "encoder."),
)


def test_names_that_newer_releases_give_a_swin() -> None:
    state = cases("maskformer")[-1].shapes()
    assert "swin_t" in cases("maskformer")[-1].name
    renamed = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in NEWER:
            name = re.sub(pattern, replacement, name) if "pixel_level_module.encoder" in key else name
        renamed[name] = value
    assert len(renamed.keys() - state.keys()) > 150
    assert shapes_of(canonical(renamed)) == shapes_of(canonical(state))


@pytest.mark.parametrize("full", [torch.full, np.full])
def test_query_key_and_value_keep_their_order(full: Any) -> None:
    prefix = "model.transformer_module.decoder.layers.0.self_attn."
    parts = {f"{prefix}{part}_proj.bias": full((2,), float(i)) for i, part in enumerate("vkq")}
    (joined,) = canonical(parts).items()
    assert joined[0] == "sem_seg_head.predictor.transformer.decoder.layers.0.self_attn.in_proj_bias"
    assert torch.as_tensor(joined[1]).tolist() == [2, 2, 1, 1, 0, 0]


# --- what is refused ---------------------------------------------------------------------------------------


@cache
def split_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of a small model whose decoder transformers has split and named."""
    split: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes_of(state_of(MaskFormerConfig(backbone="swin_t", **SIZES))).items():
        if ".in_proj_" not in name:
            split[name] = shape
            continue
        layer, leaf = name.removeprefix("sem_seg_head.predictor.transformer.").split(".in_proj_")
        layer = layer.replace("multihead_attn", "encoder_attn")
        for part in "qkv":
            split[f"model.transformer_module.{layer}.{part}_proj.{leaf}"] = (shape[0] // 3, *shape[1:])
    return split


def test_the_whole_state_is_taken() -> None:
    whole = canonical(light(split_shapes()))
    model = build(infer_maskformer_config(whole))
    shapes = shapes_of(model.state_dict())
    assert shapes_of(whole) == {
        theirs: shapes[ours] for theirs, ours in maskformer_names(model.config, model.state_dict()).items()
    }


def load(state: dict[str, np.ndarray]) -> None:
    whole = canonical(state)
    model = build(infer_maskformer_config(whole))
    convert.fill(model, whole, maskformer_names(model.config, model.state_dict()))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_single_change_is_refused(data: st.DataObject) -> None:
    state = light(split_shapes())
    key = data.draw(st.sampled_from(sorted(state)))
    change = data.draw(st.sampled_from(["drop", "rename", "flatten", "grow", "scalar"]))
    value = state.pop(key)
    if change == "rename":
        state[f"{key}x"] = value
    elif change == "flatten":
        state[key] = np.zeros(value.size + 1, np.float32)
    elif change == "grow":
        state[key] = np.zeros((*value.shape[:-1], value.shape[-1] + 1), np.float32)
    elif change == "scalar":
        state[key] = np.zeros((), np.float32)
    with pytest.raises(CheckpointError) as caught:
        load(state)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_joined_is_named() -> None:
    prefix = "model.transformer_module.decoder.layers.0.self_attn."
    parts = {f"{prefix}{part}_proj.weight": torch.zeros(2, 2) for part in "qk"}
    with pytest.raises(CheckpointError, match=r"expected query, key and value .* found 'model.*q_proj"):
        canonical(parts)
    with pytest.raises(CheckpointError, match="of one shape"):
        canonical({**parts, f"{prefix}v_proj.weight": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match="keep one of the two names"):
        canonical({f"{prefix}{name}.weight": torch.zeros(1) for name in ("o_proj", "out_proj")})


def test_another_model_s_tensors_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no backbone \('backbone\.…'\) among 1 tensors"):
        infer_maskformer_config({"bb.weight": np.zeros(1)})
    state = state_of(PRESETS["maskformer-resnet50-ade"])
    with pytest.raises(CheckpointError, match=r"nearest is 'resnet50': 1 of another shape"):
        infer_maskformer_config({**state, "backbone.stem.conv1.weight": np.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no tensor 'sem_seg_head\.predictor\.query_embed\.weight'"):
        infer_maskformer_config({k: v for k, v in state.items() if k.startswith("backbone.")})
    queries = "sem_seg_head.predictor.query_embed.weight"
    with pytest.raises(CheckpointError, match="shapes make no MaskFormer: width is 255"):
        infer_maskformer_config({**state, queries: np.zeros((100, 255))})


def test_every_tensor_has_a_name() -> None:
    for backbone in BACKBONES:
        config = MaskFormerConfig(backbone=backbone, encoder_layers=1)
        state = build(config).state_dict()
        assert sorted(maskformer_names(config, state).values()) == sorted(knowledge(state))
