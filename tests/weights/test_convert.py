from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.errors import CheckpointError, ConfigError, UnknownModelError
from decoupe.models import MODELS, BiRefNet, BiRefNetConfig, birefnet
from decoupe.weights import convert
from decoupe.weights.birefnet_names import BACKBONE_NAMES, birefnet_config
from decoupe.weights.naming import meta_backbone
from golden_cases import GoldenCase, cases

BASE = BiRefNetConfig(backbone="pvt_v2_b0", squeeze="none", context="none", context_fusion=False)
OPTIONS = [
    {},
    {"multi_scale": "add"},
    {"squeeze": "basic", "context_fusion": True},
    {"squeeze": "residual", "squeeze_depth": 4, "context_fusion": True, "context": "aspp_deformable"},
    {"squeeze": "aspp", "squeeze_depth": 3},
    {"squeeze": "aspp_deformable", "squeeze_depth": 2, "context_fusion": True, "context": "aspp"},
    {"block": "residual", "context": "aspp"},
    {"context": "aspp_deformable", "context_width": 32},
    {"block_width": None},
    {"block_width": 48},
    {"inward": "none"},
    {"inward": "resize", "inward_width": 16},
    {"outward": False},
    {"outward_width": 8},
    {"outward": False, "side_outputs": False},
    {"classes": 225},
    {"refiner": "unet"},
]


def build(config: BiRefNetConfig, device: str = "cpu") -> BiRefNet:
    with torch.device(device), pytest.MonkeyPatch.context() as patch:
        if device == "meta" and config.backbone in BACKBONE_NAMES.values():
            # Only names and shapes exist: all that have its backbone share it.
            patch.setattr(birefnet, "build_backbone", meta_backbone)
        return BiRefNet(config)


@cache
def small_state() -> dict[str, torch.Tensor]:
    """The reference's names and random values of a small model."""
    torch.manual_seed(0)
    return convert.to_reference(build(BASE))


def refuses(state: Any, match: str, config: dict[str, Any] | None = None) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        convert.from_reference("birefnet", state, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", cases("birefnet"), ids=lambda case: case.name)
def test_names_and_shapes_are_the_reference_s(case: GoldenCase) -> None:
    stated = {key: value.shape for key, value in case.shapes().items()}
    ours = convert.to_reference(build(convert.infer_config("birefnet", case.shapes()), "meta"))
    assert {key: tuple(value.shape) for key, value in ours.items()} == stated


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_there_and_back(options: dict[str, Any]) -> None:
    model = build(replace(BASE, **options))
    again = convert.from_reference("birefnet", convert.to_reference(model))
    assert again.config == model.config
    assert not again.training
    state = model.state_dict()
    assert list(again.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("multi_scale", ["add", "cat"])
@pytest.mark.parametrize("backbone", BACKBONE_NAMES.values())
def test_every_backbone_is_inferred(backbone: str, multi_scale: Any) -> None:
    config = replace(BASE, backbone=backbone, multi_scale=multi_scale, squeeze="basic", context_fusion=True)
    assert convert.infer_config("birefnet", convert.to_reference(build(config, "meta"))) == config


def test_refiner_names_are_the_reference_s() -> None:
    names = convert.to_reference(build(replace(BASE, refiner="unet"), "meta"))
    shapes = {
        key.removeprefix("refiner."): tuple(v.shape) for key, v in names.items() if key.startswith("refiner.")
    }
    assert shapes["encoder_1.0.weight"] == (64, 4, 3, 3)
    assert shapes["encoder_1.1.weight"] == (64, 64, 3, 3)
    assert shapes["encoder_1.2.running_var"] == (64,)
    assert shapes["encoder_4.1.weight"] == (64, 64, 3, 3)
    assert shapes["encoder_4.2.weight"] == (64,)
    assert shapes["decoder_5.0.weight"] == (64, 64, 3, 3)
    assert shapes["decoder_4.0.weight"] == shapes["decoder_1.0.weight"] == (64, 128, 3, 3)
    assert shapes["conv_d0.weight"] == (1, 64, 3, 3)
    assert len(shapes) == 2 + 9 * 6 + 2


def test_what_tensors_cannot_tell_is_said_and_can_be_stated() -> None:
    state = convert.to_reference(build(replace(BASE, multi_scale="none")))
    inferred = convert.infer_config("birefnet", state)
    assert inferred.multi_scale == "add"
    assert any("taken as 'add'" in note for note in convert.describe("birefnet", inferred))
    assert len(convert.describe("birefnet", replace(inferred, multi_scale="cat"))) == 1
    stated = {"bb": "pvt_v2_b0", "mul_scl_ipt": "", "squeeze_block": "", "cxt_num": 0, "dec_att": ""}
    model = convert.from_reference("birefnet", state, stated)
    assert model.config == replace(BASE, multi_scale="none")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"dec_ipt": False}, {"inward": "none"}),
        ({"dec_ipt_split": False}, {"inward": "resize"}),
        ({"squeeze_block": "ResBlk_x4"}, {"squeeze": "residual", "squeeze_depth": 4}),
        ({"squeeze_block": "", "cxt_num": 0}, {"squeeze": "none", "context_fusion": False}),
        ({"auxiliary_classification": True}, {"classes": 225}),
        ({"refine": "RefUNet", "out_ref": False}, {"refiner": "unet", "outward": False}),
        (
            {"ms_supervision": False, "dec_channels_inter": "adap"},
            {"side_outputs": False, "block_width": None},
        ),
    ],
)
def test_options_of_the_reference(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert birefnet_config(options, {}) == replace(BiRefNetConfig(), **expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dec_at": ""}, "unknown option of the reference 'dec_at'; did you mean 'dec_att'"),
        ({"bb": "swin_v1_x"}, "unknown bb of the reference 'swin_v1_x'; did you mean"),
        ({"cxt_num": 2}, "unknown cxt_num of the reference '2'"),
        ({"squeeze_block": "BasicDecBlk"}, "squeeze_block is 'BasicDecBlk', expected"),
        ({"squeeze_block": ""}, "context_fusion"),
        ({"out_ref": "False"}, "unknown out_ref of the reference 'False'"),
        ({"bb": ["pvt_v2_b0"]}, "unknown bb of the reference"),
        ({0: ""}, "unknown option of the reference '0'"),
    ],
)
def test_options_the_reference_does_not_have(options: dict[Any, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        convert.from_reference("birefnet", small_state(), options)


def test_families_that_are_known_are_told() -> None:
    with pytest.raises(UnknownModelError, match="unknown family 'birefnett'; did you mean 'birefnet'"):
        convert.from_reference("birefnett", small_state())


@pytest.mark.parametrize("config", [BiRefNetConfig(backbone="nano"), replace(BASE, inward="unshuffle")])
def test_models_without_reference_names_say_so(config: BiRefNetConfig) -> None:
    with pytest.raises(ConfigError, match="decoupe's own format"):
        convert.to_reference(build(config, "meta"))
    with pytest.raises(ConfigError, match="give one of birefnet"):
        convert.to_reference(torch.nn.Linear(1, 1))


PREFIXES = st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
NESTS = st.lists(st.sampled_from(["state_dict", "model", "net", "anything"]), max_size=2)


@given(prefix=PREFIXES, nests=NESTS, beside=st.booleans())
@settings(max_examples=20, deadline=None)
def test_wrapping_is_removed(prefix: str, nests: list[str], beside: bool) -> None:
    wrapped: dict[str, Any] = {prefix + key: value for key, value in small_state().items()}
    wrapped[f"{prefix}decoder.blocks.0.bn.num_batches_tracked"] = torch.tensor(7)
    wrapped[f"{prefix}bb.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4).long()
    for nest in nests:
        wrapped = {nest: wrapped}
        if beside and nest != "anything":
            wrapped |= {"epoch": 3, "optimizer": {"state": {}}}
    assert convert.clean_state(wrapped) == small_state()


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({}, "holds nothing"),
        ([1, 2], "found list, expected a dict"),
        ({"epoch": 3}, r"holds 'epoch' \(int\)"),
        ({0: torch.zeros(1)}, r"holds 0 \(Tensor\)"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "with and without"),
        ({"x": {"a": torch.zeros(1)}, "y": {"b": torch.zeros(1)}}, r"several state dicts \('x', 'y'\)"),
        ({"n_averaged": torch.zeros(1)}, r"counters alone \(n_averaged\)"),
    ],
)
def test_what_holds_no_state_dict(raw: Any, match: str) -> None:
    refuses(raw, match)


def test_a_model_s_settings_are_no_state_dict() -> None:
    """Under a usual name, beside the weights under another."""
    state = small_state()
    settings = {"width": 64, "stages": {"depths": [2, 2]}}
    assert convert.clean_state({"model": settings, "weights": state}) == state
    deeper = {"model": {"net": state}, "ema": {"shadow": {"a": torch.zeros(1)}}}
    assert convert.clean_state(deeper) == state


def test_an_average_is_found_where_it_is_alone_and_told_beside_the_weights() -> None:
    state = small_state()
    averaged = {**{f"module.{key}": value for key, value in state.items()}, "n_averaged": torch.tensor(3)}
    assert convert.clean_state({"model_ema": averaged, "epoch": 1}) == state
    assert convert.others_in({"model": state, "model_ema": averaged, "rng": {"cpu": torch.zeros(1)}}) == [
        "model_ema"
    ]
    assert convert.others_in(state) == []


@pytest.mark.parametrize("prefix", ["net.", "model._orig_mod.", "model.module.", "module.wrapper.net."])
def test_the_names_that_a_script_s_classes_give_their_network_are_removed(prefix: str) -> None:
    """As of Lightning's module, of the network that it has compiled, and of one inside another."""
    nested = {"state_dict": {prefix + key: value for key, value in small_state().items()}}
    assert convert.bare_state(nested) == small_state()
    strange = {"net.a": torch.zeros(1)}
    assert convert.bare_state(strange) == strange


@pytest.mark.parametrize("family", MODELS)
def test_own_names_without_a_configuration_are_told(family: str) -> None:
    config = {
        "birefnet": {"backbone": "pvt_v2_b0"},
        "inspyrenet": {"backbone": "res2net50"},
        "maskformer": {},
    }
    config_class, model_class = MODELS[family]
    with torch.device("meta"):
        names = list(model_class(config_class(**config[family])).state_dict())
    with pytest.raises(CheckpointError, match=f"decoupe's {model_class.__name__} without its configuration"):
        convert.infer_family(names)


def test_counters_start_at_zero_and_half_precision_becomes_single() -> None:
    state = {key: value.half().numpy() for key, value in small_state().items()}
    model = convert.from_reference("birefnet", state)
    assert all(value == 0 for key, value in model.state_dict().items() if key.endswith("num_batches_tracked"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    np.testing.assert_array_equal(model.decoder.head.weight.detach(), state["decoder.conv_out1.0.weight"])


@pytest.mark.parametrize(
    "stored",
    [
        lambda array: array.astype(">f4"),
        lambda array: array[..., ::-1].copy()[..., ::-1],
        lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),  # read-only
    ],
)
def test_arrays_are_taken_as_they_lie_in_memory(stored: Any) -> None:
    state = {key: value.numpy() for key, value in small_state().items()}
    model = convert.from_reference("birefnet", {key: stored(array) for key, array in state.items()})
    np.testing.assert_array_equal(model.decoder.head.weight.detach(), state["decoder.conv_out1.0.weight"])


@pytest.mark.parametrize("value", [torch.zeros(1, dtype=torch.complex64), np.array(["0"])])
def test_what_holds_no_real_numbers_is_named(value: Any) -> None:
    state = {**small_state(), "decoder.conv_out1.0.bias": value}
    refuses(state, r"'decoder\.conv_out1\.0\.bias' holds .*, expected real numbers")


def test_missing_and_left_over_tensors_are_named() -> None:
    state = dict(small_state())
    del state["decoder.conv_out1.0.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    refuses(
        state, r"1 missing: decoder\.conv_out1\.0\.bias; 5 not the model's: extra\.0, extra\.1, extra\.2, …"
    )


def test_wrong_shapes_are_named() -> None:
    state = {**small_state(), "decoder.conv_out1.0.bias": torch.zeros(2)}
    refuses(state, r"'decoder\.conv_out1\.0\.bias' is \(2,\), expected \(1,\)")


def test_another_model_s_tensors_are_refused() -> None:
    refuses(
        {"encoder.weight": torch.zeros(1)}, r"no backbone \('bb\.…'\) among 1 tensors \(encoder\.weight\)"
    )
    refuses({"bb.weight": torch.zeros(1)}, "fits none that decoupe knows")
    state = {**small_state(), "bb.norm1.bias": torch.zeros(2)}
    refuses(state, r"nearest is 'pvt_v2_b0': 1 of another shape \(bb\.norm1\.bias\)")
    del state["bb.norm1.bias"], state["bb.norm2.bias"]
    refuses({**state, "bb.x": torch.zeros(1)}, r"2 missing \(bb\.norm1\.bias, .*1 left over \(bb\.x\)")


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_single_change_is_refused(data: st.DataObject) -> None:
    state = {key: np.broadcast_to(np.float32(0), value.shape) for key, value in small_state().items()}
    key = data.draw(st.sampled_from(sorted(state)))
    change = data.draw(st.sampled_from(["drop", "rename", "flatten", "grow"]))
    value = state.pop(key)
    if change == "rename":
        state[f"{key}x"] = value
    elif change == "flatten":
        state[key] = np.zeros(value.size + 1, np.float32)
    elif change == "grow":
        state[key] = np.zeros((*value.shape[:-1], value.shape[-1] + 1), np.float32)
    refuses(state, ".")
