"""InSPyReNet as the reference implementation saves it: its options, the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from decoupe.backbones import build_backbone
from decoupe.errors import CheckpointError, ConfigError, unknown
from decoupe.models.inspyrenet import InSPyReNetConfig
from decoupe.weights.birefnet_names import backbone_rules
from decoupe.weights.naming import (
    Rule,
    Shapes,
    State,
    backbone_in,
    knowledge,
    numbered,
    rename,
    shapes_of,
    some,
    width_of,
)

BACKBONE_NAMES = {"res2net50": "res2net50", **{f"swin_{size}": f"swin_{size}" for size in "tsbl"}}
"""The reference's backbones (its option ``backbone``) under decoupe's names."""


def inspyrenet_config(options: Mapping[str, Any], shapes: Shapes) -> InSPyReNetConfig:
    """Our configuration for options under the reference's names; the depth is read in ``shapes``.

    Raises:
        ConfigError: an option or value that the reference does not have.
    """
    released: dict[str, Any] = {
        "backbone": "swin_b",
        "depth": width_of(shapes, "decoder.conv1.conv.weight"),
        "base_size": (384, 384),
        "threshold": 512,  # from which size on a prediction looks twice: the caller's affair
        "pretrained": False,
    }
    for name in options:
        if name not in released:
            raise ConfigError(unknown("option of the reference", name, released))
    given = {**released, **options}
    if given["backbone"] not in BACKBONE_NAMES:
        raise ConfigError(unknown("backbone of the reference", str(given["backbone"]), BACKBONE_NAMES))
    height, width = given["base_size"]
    backbone = BACKBONE_NAMES[given["backbone"]]
    return InSPyReNetConfig(backbone=backbone, depth=given["depth"], base_size=(height, width))


def infer_inspyrenet_config(state: State) -> InSPyReNetConfig:
    """The configuration of an InSPyReNet, from the names and shapes of the reference's tensors.

    The size that it was trained at leaves no trace in them: taken as 384².

    Args:
        state: tensors or arrays under the reference's names, as `clean_state` gives them.

    Raises:
        CheckpointError: the names are not those of an InSPyReNet, or its backbone is none that decoupe knows.
    """
    shapes = shapes_of(state)
    found = {key: shape for key, shape in shapes.items() if key.startswith("backbone.")}
    if not found:
        raise CheckpointError(
            f"no backbone ('backbone.…') among {len(shapes)} tensors ({some(list(shapes))}): "
            "is it another model's file?"
        )
    backbone = backbone_in(found, {name: _backbone_shapes(name) for name in BACKBONE_NAMES.values()})
    return InSPyReNetConfig(backbone=backbone, depth=width_of(shapes, "decoder.conv1.conv.weight"))


def describe(config: InSPyReNetConfig) -> list[str]:
    """What `infer_inspyrenet_config` found out, and what it could not, one line each."""
    height, width = config.base_size
    return [
        f"inferred from the tensors' names and shapes: backbone={config.backbone!r}, depth={config.depth}",
        f"the tensors do not tell the size that context is pooled at: taken as {width}×{height}",
    ]


def inspyrenet_names(config: InSPyReNetConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The reference's name -> ours, of every tensor of an InSPyReNet's state dict that carries knowledge."""
    names = {}
    for key in knowledge(state):
        if key.startswith("backbone."):
            theirs = "backbone." + rename(key.removeprefix("backbone."), _rules_of(config.backbone))
        else:
            theirs = rename(key, RULES)
        names[theirs] = key
    return names


@cache
def _backbone_shapes(name: str) -> Shapes:
    """The reference's names and shapes of decoupe's backbone ``name``."""
    with torch.device("meta"):
        backbone = cast(nn.Module, build_backbone(name))
    shapes = shapes_of(knowledge(backbone.state_dict()))
    return {f"backbone.{rename(key, _rules_of(name))}": shape for key, shape in shapes.items()}


def _rules_of(name: str) -> tuple[Rule, ...]:
    return RES2NET_RULES if name.startswith("res2net") else backbone_rules(name)


RES2NET_RULES: tuple[Rule, ...] = (
    # The stem's convolutions and norms stand in one sequence with their activations; the last norm apart.
    (r"^stem\.0\.(\d)", r"conv1.\1"),
    (r"^stem\.1\.(\d)", numbered("conv1.{}", 3, +1)),
    (r"^stem\.2\.0", "conv1.6"),
    (r"^stem\.2\.1", "bn1"),
    (r"^stages\.(\d)", numbered("layer{}", 1, +1)),
    (r"\.reduce\.0\.", ".conv1."),
    (r"\.reduce\.1\.", ".bn1."),
    (r"\.convs\.(\d)\.0\.", r".convs.\1."),
    (r"\.convs\.(\d)\.1\.", r".bns.\1."),
    (r"\.expand\.0\.", ".conv3."),
    (r"\.expand\.1\.", ".bn3."),
    (r"\.shortcut\.1\.0\.", ".downsample.1."),
    (r"\.shortcut\.1\.1\.", ".downsample.2."),
)

# Every convolution of the reference carries its norm: ours are numbered in a sequence, theirs have names.
RULES: tuple[Rule, ...] = (
    (r"^decoder\.head\.", "decoder.conv5.conv."),
    (r"\.(0|1)\.(weight|bias|running_mean|running_var)$", r".<\1>.\2"),
    (r"\.<0>\.", ".conv."),
    (r"\.<1>\.", ".bn."),
    (r"^encoders\.(\d)", numbered("context{}", 1, +1)),
    (r"\.branches\.(\d)\.(0|1|2)\.", r".branch\1.conv\2."),
    (r"\.branches\.(\d)\.3\.", r".branch\1."),
    (r"\.branches\.(\d)\.4\.", r".branch\1.conv3."),
    (r"\.branches\.(\d)\.", r".branch\1."),
    (r"^(context\d)\.fuse\.", r"\1.conv_cat."),
    (r"^(context\d)\.shortcut\.", r"\1.conv_res."),
    (r"^decoder\.reduce\.", "decoder.conv1."),
    (r"^decoder\.attention\.", "decoder."),
    (r"^decoder\.mix\.(\d)", numbered("decoder.conv{}", 2, +1)),
    (r"\.height\.", ".Hattn."),
    (r"\.width\.", ".Wattn."),
    (r"attn\.gain$", "attn.gamma"),
    (r"attn\.(query|key|value)\.", r"attn.\1_conv."),
    (r"^stages\.(\d)", numbered("attention{}", 2, -1)),
    (r"^(attention\d)\.detail_threshold", r"\1.lthreshold"),
    (r"^(attention\d)\.(query|key|value)\.", r"\1.conv_\2."),
    (r"^(attention\d)\.context\.", r"\1.conv_out1."),
    (r"^(attention\d)\.mix\.(\d)", numbered("{}.conv_out{}", 2, +1)),
    (r"^(attention\d)\.head\.", r"\1.conv_out4."),
)
