"""BiRefNet as the reference implementation saves it: its options, the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from decoupe.errors import ConfigError
from decoupe.models import BiRefNetConfig
from decoupe.weights.naming import (
    Rule,
    Section,
    Shapes,
    State,
    chosen,
    filled_in,
    infer_backbone,
    meta_backbone,
    numbered,
    reference_names,
    shapes_of,
    width_of,
)

BACKBONE_NAMES = {
    **{f"swin_v1_{size}": f"swin_{size}" for size in "tsbl"},
    **{f"pvt_v2_b{size}": f"pvt_v2_b{size}" for size in (0, 1, 2, 5)},
    "vgg16": "vgg16",
    "vgg16bn": "vgg16_bn",
    "resnet50": "resnet50",
    "dino_v3_s": "dinov3_vits16",
    "dino_v3_s_plus": "dinov3_vits16plus",
    "dino_v3_b": "dinov3_vitb16",
    "dino_v3_l": "dinov3_vitl16",
    "dino_v3_h_plus": "dinov3_vith16plus",
    "dino_v3_7b": "dinov3_vit7b16",
}
"""The reference's backbones (its option ``bb``) under decoupe's names."""

CONTEXTS = {"": "none", "ASPP": "aspp", "ASPPDeformable": "aspp_deformable"}
CLASSES = "cls_head.0.weight"
BLOCKS = {"BasicDecBlk": "basic", "ResBlk": "residual"}


def birefnet_config(options: Mapping[str, Any], shapes: Shapes) -> BiRefNetConfig:
    """Our configuration for options under the reference's names; the number of classes is read in ``shapes``.

    Raises:
        ConfigError: an option or value that the reference does not have.
    """
    released: dict[str, Any] = {
        "bb": "swin_v1_l",
        "mul_scl_ipt": "cat",
        "cxt_num": 3,
        "squeeze_block": "BasicDecBlk_x1",
        "dec_blk": "BasicDecBlk",
        "dec_att": "ASPPDeformable",
        "dec_channels_inter": "fixed",
        "dec_ipt": True,
        "dec_ipt_split": True,
        "out_ref": True,
        "ms_supervision": True,
        "auxiliary_classification": False,
        "refine": "",
    }
    given = filled_in(options, released)
    kind, _, depth = str(given["squeeze_block"] or "_x1").partition("_x")
    if not depth.isdecimal():
        raise ConfigError(
            f"squeeze_block is {given['squeeze_block']!r}, expected KIND_xN, as in 'BasicDecBlk_x1'"
        )
    switches = {
        name: chosen(name, given[name], {False: False, True: True})
        for name in ("dec_ipt", "dec_ipt_split", "out_ref", "ms_supervision", "auxiliary_classification")
    }
    return BiRefNetConfig(
        backbone=chosen("bb", given["bb"], BACKBONE_NAMES),
        multi_scale=chosen("mul_scl_ipt", given["mul_scl_ipt"], {"": "none", "add": "add", "cat": "cat"}),
        context_fusion=chosen("cxt_num", given["cxt_num"], {0: False, 3: True}),
        squeeze=chosen("squeeze_block", kind, {**CONTEXTS, **BLOCKS}),
        squeeze_depth=int(depth),
        block=chosen("dec_blk", given["dec_blk"], BLOCKS),
        context=chosen("dec_att", given["dec_att"], CONTEXTS),
        block_width=chosen("dec_channels_inter", given["dec_channels_inter"], {"fixed": 64, "adap": None}),
        inward=("split" if switches["dec_ipt_split"] else "resize") if switches["dec_ipt"] else "none",
        outward=switches["out_ref"],
        side_outputs=switches["ms_supervision"],
        classes=width_of(shapes, CLASSES, 0, 225) if switches["auxiliary_classification"] else 0,
        refiner=chosen("refine", given["refine"], {"": "none", "RefUNet": "unet"}),
    )


def infer_birefnet_config(state: State) -> BiRefNetConfig:
    """The configuration of a BiRefNet, from the names and shapes of the reference's tensors.

    Whether half-size maps are added (``multi_scale="add"``) or there are none leaves no trace in them:
    taken as ``"add"``.

    Args:
        state: tensors or arrays under the reference's names, as `clean_state` gives them.

    Raises:
        CheckpointError: the names are not those of a BiRefNet, or its backbone is none that decoupe knows.
    """
    shapes = shapes_of(state)
    # timm is asked for only where the names say so.
    vit = any(key.startswith("bb.model.") for key in shapes)
    known = [name for name in BACKBONE_NAMES.values() if name.startswith("dino") == vit]
    backbone = infer_backbone(shapes, "bb.", known, backbone_rules)
    channels = meta_backbone(backbone).channels
    defaults = BiRefNetConfig()
    neck = "decoder.pyramid_neck_x1.conv.weight"
    finest = width_of(shapes, neck if neck in shapes else "decoder.lateral_block2.conv.weight", 1)
    cat = finest == 2 * channels[0]
    first = re.compile(r"squeeze_module\.0\.(conv_in|aspp1\.atrous_conv(\.regular_conv)?)\.weight")
    fused = next((width_of(shapes, key, 1) for key in shapes if first.fullmatch(key)), 0)
    context = next((key for key in shapes if key.endswith("aspp1.bn.weight")), "")
    inward, outward = "decoder.ipt_blk5.conv1.weight", "decoder.gdt_convs_4.0.weight"
    blocks = [f"decoder.decoder_block{level}.conv_in.weight" for level in (4, 3, 2, 1)]
    quarter = all(width_of(shapes, key) == width_of(shapes, key, 1) // 4 for key in blocks)
    return BiRefNetConfig(
        backbone=backbone,
        multi_scale="cat" if cat else "add",
        context_fusion=fused == sum(channels) * (2 if cat else 1),
        squeeze=_infer_kind(shapes, "squeeze_module.0."),
        squeeze_depth=max(1, len({key.split(".")[1] for key in shapes if key.startswith("squeeze_module.")})),
        block="residual" if "decoder.decoder_block1.conv_resi.weight" in shapes else "basic",
        context=_infer_kind(shapes, "decoder.decoder_block1.dec_att."),
        block_width=None if quarter else width_of(shapes, blocks[0]),
        context_width=width_of(shapes, context, 0, defaults.context_width),
        inward="none" if inward not in shapes else "resize" if width_of(shapes, inward, 1) == 3 else "split",
        inward_width=width_of(shapes, inward, 0, defaults.inward_width),
        outward=outward in shapes,
        outward_width=width_of(shapes, outward, 0, defaults.outward_width),
        side_outputs="decoder.conv_ms_spvn_4.weight" in shapes,
        classes=width_of(shapes, CLASSES, 0, 0),
        refiner="unet" if "refiner.conv_d0.weight" in shapes else "none",
    )


def describe(config: BiRefNetConfig) -> list[str]:
    """What `infer_birefnet_config` found out, and what it could not, one line each."""
    values = ", ".join(f"{key}={value!r}" for key, value in asdict(config).items())
    notes = [f"inferred from the tensors' names and shapes: {values}"]
    if config.multi_scale == "add":
        notes.append("the tensors do not tell multi_scale='add' from 'none': taken as 'add'")
    return notes


def _infer_kind(shapes: Shapes, prefix: str) -> Any:
    """Kind of the block or context module under ``prefix``."""
    signs = {"conv_resi": "residual", "conv_in": "basic", "aspp_deforms": "aspp_deformable", "aspp1": "aspp"}
    parts = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return next((kind for sign, kind in signs.items() if sign in parts), "none")


def birefnet_names(config: BiRefNetConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The reference's name -> ours, of every tensor of a BiRefNet's state dict that carries knowledge."""
    sections: tuple[Section, ...] = (
        ("encoder.backbone.", "bb.", backbone_rules(config.backbone)),
        (
            "encoder.squeeze.",
            "squeeze_module.",
            (*aspp_rules(r"^(\d+\.)", config.squeeze), *block_rules(config)),
        ),
        ("decoder.", "decoder.", (*DECODER_RULES, *block_rules(config))),
        ("classifier.", "cls_head.0.", ()),
        ("refiner.", "refiner.", REFINER_RULES),
    )
    return reference_names(sections, state)


def backbone_rules(name: str) -> tuple[Rule, ...]:
    """From the names inside decoupe's backbone ``name`` to those inside the reference's."""
    kinds: dict[str, tuple[Rule, ...]] = {
        "swin": (
            (r"^merges\.(\d)", r"layers.\1.downsample"),
            (r"^stages\.(\d)", r"layers.\1.blocks"),
            (r"^norms\.(\d)", r"norm\1"),
            (r"\.attention\.bias_table", ".attn.relative_position_bias_table"),
            (r"\.attention\.", ".attn."),
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.2\.", ".mlp.fc2."),
        ),
        "pvt": (
            (r"^embeds\.(\d)", numbered("patch_embed{}", 1, +1)),
            (r"^stages\.(\d)", numbered("block{}", 1, +1)),
            (r"^norms\.(\d)", numbered("norm{}", 1, +1)),
            (r"\.attention\.reduce\.", ".attn.sr."),
            (r"\.attention\.", ".attn."),
            (r"\.mlp\.conv\.", ".mlp.dwconv.dwconv."),
        ),
        "vgg": ((r"^stages\.(\d)", numbered("conv{}", 1, +1)),),
        "resnet": ((r"^stages\.(\d)", numbered("conv{}", 1, +1)),),
        "dino": (),
    }
    return next(rules for kind, rules in kinds.items() if name.startswith(kind))


def aspp_rules(place: str, kind: str) -> tuple[Rule, ...]:
    """Rules for the context module of ``kind`` that stands behind ``place``, a pattern with one group."""
    branch: tuple[Rule, ...] = ((rf"{place}branches\.(\d)", numbered("{}aspp{}", 1, +1)),)
    if kind == "aspp_deformable":
        branch = (
            (rf"{place}branches\.0", r"\1aspp1"),
            (rf"{place}branches\.(\d)", numbered("{}aspp_deforms.{}", -1, +1)),
        )
    elif kind != "aspp":
        return ()
    return (
        *branch,
        (r"(aspp\d|aspp_deforms\.\d)\.0\.offset\.", r"\1.atrous_conv.offset_conv."),
        (r"(aspp\d|aspp_deforms\.\d)\.0\.modulation\.", r"\1.atrous_conv.modulator_conv."),
        (r"(aspp\d|aspp_deforms\.\d)\.0\.conv\.", r"\1.atrous_conv.regular_conv."),
        (r"(aspp\d)\.0\.weight", r"\1.atrous_conv.weight"),
        (r"(aspp\d|aspp_deforms\.\d)\.1\.", r"\1.bn."),
        (rf"{place}pooled\.1\.0\.", r"\1global_avg_pool.1."),
        (rf"{place}pooled\.1\.1\.", r"\1global_avg_pool.2."),
        (rf"{place}fuse\.0\.0\.", r"\1conv1."),
        (rf"{place}fuse\.0\.1\.", r"\1bn1."),
    )


def block_rules(config: BiRefNetConfig) -> tuple[Rule, ...]:
    """Rules for the inside of a reconstruction block."""
    return (
        (r"\.context\.", ".dec_att."),
        *aspp_rules(r"(\.dec_att\.)", config.context),
        (r"\.reduce\.0\.", ".conv_in."),
        (r"\.reduce\.1\.", ".bn_in."),
        (r"\.expand\.0\.", ".conv_out."),
        (r"\.expand\.1\.", ".bn_out."),
        (r"\.shortcut\.", ".conv_resi."),
    )


# Levels are ours deepest first from 0; the reference's count down to the finest.
DECODER_RULES: tuple[Rule, ...] = (
    (r"^neck\.(\d)", numbered("pyramid_neck_x{}.conv", 1, +1)),
    (r"^inward\.(\d)\.convs\.0", numbered("ipt_blk{}.conv1", 5, -1)),
    (r"^inward\.(\d)\.convs\.1", numbered("ipt_blk{}.conv_out", 5, -1)),
    (r"^laterals\.(\d)", numbered("lateral_block{}.conv", 4, -1)),
    (r"^blocks\.(\d)", numbered("decoder_block{}", 4, -1)),
    (r"^side_heads\.(\d)", numbered("conv_ms_spvn_{}", 4, -1)),
    (r"^outward\.(\d)\.feature", numbered("gdt_convs_{}", 4, -1)),
    (r"^outward\.(\d)\.gradient", numbered("gdt_convs_pred_{}.0", 4, -1)),
    (r"^outward\.(\d)\.attention", numbered("gdt_convs_attn_{}.0", 4, -1)),
    (r"^head", "conv_out1.0"),
)

# The first encoder stage has one more convolution; the others begin with their pooling, as layer 0.
REFINER_RULES: tuple[Rule, ...] = (
    (r"^encoder\.0\.1\.(\d)", numbered("encoder_1.{}", 1, +1)),
    (r"^encoder\.0\.0", "encoder_1.0"),
    (r"^encoder\.(\d)\.0", numbered("encoder_{}.1", 1, +1)),
    (r"^encoder\.(\d)\.1", numbered("encoder_{}.2", 1, +1)),
    (r"^bottleneck", "decoder_5"),
    (r"^decoder\.(\d)", numbered("decoder_{}", 4, -1)),
    (r"^head", "conv_d0"),
)
