"""MaskFormer as others save it: Detectron2's names (the released code's), and transformers'.

Detectron2's names are the canonical ones, one for each of our tensors. transformers splits the projections
of an attention into query, key and value; `canonical` joins them again and renames the rest, whatever
release of it has written the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoupe.errors import CheckpointError, ConfigError, unknown
from decoupe.models.maskformer import BACKBONE_NAMES, MaskFormerConfig
from decoupe.weights import birefnet_names
from decoupe.weights.naming import (
    IGNORED,
    Rule,
    Shapes,
    State,
    filled_in,
    infer_backbone,
    numbered,
    reference_names,
    rename,
    shapes_of,
    width_of,
)

BACKBONES = tuple(BACKBONE_NAMES.values())
PART = re.compile(r"(.+)#([qkv])")
HEAD_WIDTH = 32
"""Channels of each attention head in every released model; shapes do not tell it."""

PIXELS, PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."

# The loss's class weights are no weights, and no map goes through the Swin's last norm in transformers.
WITHOUT_KNOWLEDGE = re.compile(
    rf"{IGNORED.pattern}|^criterion\.empty_weight$|^model\.pixel_level_module\.encoder\.model\.layernorm\."
)


def maskformer_config(options: Mapping[str, Any], shapes: Shapes) -> MaskFormerConfig:
    """Our configuration for transformers' options; what they leave out is read in ``shapes``.

    Args:
        options: ``backbone`` (``"resnet50"``, ``"swin_t"``, …), ``num_classes``, and ``image_size``, which
            concerns no tensor.
        shapes: of the file's tensors, under either format's names.

    Raises:
        ConfigError: an option or value that there is not.
        CheckpointError: shapes that are not a MaskFormer's.
    """
    filled_in(options, dict.fromkeys(("backbone", "num_classes", "image_size")))
    shapes = _canonical_shapes(shapes)
    backbone = options.get("backbone") or _infer_backbone(shapes)
    if backbone not in BACKBONES:
        raise ConfigError(unknown("backbone of the reference", str(backbone), BACKBONES))
    config = _read_sizes(shapes, backbone)
    return replace(config, classes=int(options.get("num_classes", config.classes)))


def infer_maskformer_config(state: State) -> MaskFormerConfig:
    """The configuration of a MaskFormer, from the names and shapes of its tensors in either format.

    How many heads an attention has leaves no trace in them: taken as one per 32 channels.

    Raises:
        CheckpointError: the names are not those of a MaskFormer, or its backbone is none that decoupe knows.
    """
    shapes = _canonical_shapes(shapes_of(state))
    return _read_sizes(shapes, _infer_backbone(shapes))


def describe(config: MaskFormerConfig) -> list[str]:
    """What `infer_maskformer_config` found out, and what it could not, one line each."""
    values = ", ".join(f"{key}={value!r}" for key, value in asdict(config).items() if key != "heads")
    notes = [f"inferred from the tensors' names and shapes: {values}"]
    if config.heads == _assumed_heads(config.width):
        notes.append(
            f"the tensors do not tell the number of attention heads: taken as {config.heads}, "
            f"one per {HEAD_WIDTH} channels"
        )
    return notes


def canonical(state: State) -> dict[str, Tensor | NDArray[Any]]:
    """A state dict of either format under Detectron2's names, each tensor one of our model's.

    Args:
        state: tensors or arrays as `decoupe.weights.convert.clean_state` gives them.

    Returns:
        The same tensors, except that query, key and value of an attention are concatenated, and that those
        without knowledge are left out. Names that are of neither format stay as they are.

    Raises:
        CheckpointError: an attention whose parts are missing or do not fit together.
    """
    _canonical_shapes(shapes_of(state))  # refuses parts that cannot be joined
    return {name: _join([state[part] for part in parts]) for name, parts in _canonical_parts(state).items()}


def maskformer_names(config: MaskFormerConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Detectron2's name -> ours, of every tensor of a MaskFormer's state dict that carries knowledge."""
    sections = (
        ("pixel_level.backbone.", "backbone.", _backbone_rules(config.backbone)),
        ("pixel_level.decoder.", PIXELS, PIXEL_DECODER_RULES),
        ("", PREDICTOR, PREDICTOR_RULES),
    )
    return reference_names(sections, state)


def _read_sizes(shapes: Shapes, backbone: str) -> MaskFormerConfig:
    """The configuration with ``backbone`` and the sizes that the heads' tensors have."""

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})

    size, decoder = partial(width_of, shapes), f"{PREDICTOR}transformer.decoder.layers."
    width = size(f"{PREDICTOR}query_embed.weight", 1)
    try:
        return MaskFormerConfig(
            backbone=backbone,
            classes=size(f"{PREDICTOR}class_embed.weight") - 1,
            queries=size(f"{PREDICTOR}query_embed.weight"),
            width=width,
            heads=_assumed_heads(width),
            feed_forward=size(f"{decoder}0.linear1.weight"),
            layers=count(decoder),
            encoder_layers=count(f"{PIXELS}transformer.encoder.layers."),
            pyramid_width=size(f"{PIXELS}mask_features.weight", 1),
            mask_width=size(f"{PIXELS}mask_features.weight"),
        )
    except ConfigError as error:
        raise CheckpointError(f"the tensors' shapes make no MaskFormer: {error}") from error


def _assumed_heads(width: int) -> int:
    return max(1, width // HEAD_WIDTH)


def _infer_backbone(shapes: Shapes) -> str:
    return infer_backbone(shapes, "backbone.", BACKBONES, _backbone_rules)


def _canonical_parts(names: Iterable[str]) -> dict[str, list[str]]:
    """Detectron2's name of each tensor -> the names, in the file, of what it is concatenated of."""
    parts: dict[str, dict[int, str]] = {}
    for name in names:
        if WITHOUT_KNOWLEDGE.search(name):
            continue
        prefix, (replacement, rules) = next(
            (section for section in TRANSFORMERS.items() if name.startswith(section[0])),
            ("", ("", LEGACY_RULES)),
        )
        renamed = replacement + rename(name.removeprefix(prefix), rules)
        joined = PART.fullmatch(renamed)
        whole, place = (joined[1], "qkv".index(joined[2])) if joined else (renamed, 0)
        places = parts.setdefault(whole, {})
        if place in places:
            raise CheckpointError(f"the file holds {places[place]!r} and {name!r}: keep one of the two names")
        places[place] = name
    return {whole: [places[key] for key in sorted(places)] for whole, places in parts.items()}


def _canonical_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes that `canonical` would give.

    Raises:
        CheckpointError: an attention whose parts are missing or do not fit together.
    """
    joined = {}
    for name, parts in _canonical_parts(shapes).items():
        found = [shapes[part] for part in parts]
        if len(parts) not in (1, 3) or (len(parts) == 3 and (len(set(found)) > 1 or not found[0])):
            told = ", ".join(f"{part!r} {shapes[part]}" for part in parts)
            raise CheckpointError(f"expected query, key and value of one shape for {name!r}, found {told}")
        joined[name] = found[0] if len(parts) == 1 else (3 * found[0][0], *found[0][1:])
    return joined


def _join(parts: list[Tensor | NDArray[Any]]) -> Tensor | NDArray[Any]:
    """Query, key and value one under the other; a lone tensor as it is."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        joined: NDArray[Any] = np.concatenate(arrays)
        return joined
    return torch.cat([torch.as_tensor(part) for part in parts])


def _backbone_rules(name: str) -> tuple[Rule, ...]:
    """From the names inside decoupe's backbone ``name`` to those inside Detectron2's."""
    return birefnet_names.backbone_rules(name) if name.startswith("swin") else RESNET_RULES


# The stem's three convolutions come before its one: the latter's norm would match inside the former.
RESNET_RULES: tuple[Rule, ...] = (
    (r"^stages\.0\.(\d)\.0\.(?=weight)", numbered("stem.conv{}.", 1, +1)),
    (r"^stages\.0\.([0-2])\.1\.", numbered("stem.conv{}.norm.", 1, +1)),
    (r"^stages\.0\.0\.", "stem.conv1."),
    (r"^stages\.0\.1\.", "stem.conv1.norm."),
    (r"^stages\.0\.4\.", "res2."),
    (r"^stages\.(\d)\.", numbered("res{}.", 2, +1)),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
)

LAYER_RULES: tuple[Rule, ...] = (
    (r"\.(self_)?attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.mlp\.0\.", ".linear1."),
    (r"\.mlp\.3\.", ".linear2."),
    (r"\.norms\.(\d)\.", numbered(".norm{}.", 1, +1)),
)

# Levels are ours deepest first from 0; Detectron2's count up from the finest, 1.
PIXEL_DECODER_RULES: tuple[Rule, ...] = (
    (r"^laterals\.(\d)\.", numbered("adapter_{}.", 3, -1)),
    (r"^blocks\.(\d)\.", numbered("layer_{}.", 4, -1)),
    (r"^((?:adapter|layer)_\d)\.0\.", r"\1."),
    (r"^((?:adapter|layer)_\d)\.1\.", r"\1.norm."),
    (r"^embed\.", "mask_features."),
    (r"^project\.", "input_proj."),
    (r"^encoder\.", "transformer.encoder.layers."),
    *LAYER_RULES,
)

PREDICTOR_RULES: tuple[Rule, ...] = (
    (r"^transformer\.queries\.", "query_embed."),
    (r"^transformer\.project\.", "input_proj."),
    (r"^transformer\.(layers|norm)\.", r"transformer.decoder.\1."),
    (r"^class_head\.", "class_embed."),
    (r"^mask_head\.0\.", "mask_embed.layers.0."),
    (r"^mask_head\.2\.", "mask_embed.layers.1."),
    (r"^mask_head\.4\.", "mask_embed.layers.2."),
    *LAYER_RULES,
)

# Files from before Detectron2's second version of the head have the pixel decoder right inside it.
LEGACY_RULES: tuple[Rule, ...] = ((r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)", PIXELS),)

# From transformers' names to Detectron2's; "#q", "#k", "#v" mark the parts of a joined tensor. Names in
# parentheses with a bar have changed between its releases.
TRANSFORMERS: dict[str, tuple[str, tuple[Rule, ...]]] = {
    "model.pixel_level_module.encoder.": (
        "backbone.",
        (
            (r"\.convolution\.", "."),
            (r"\.normalization\.", ".norm."),
            (r"^embedder\.embedder\.", "stem.conv1."),
            (r"^encoder\.stages\.(\d)\.layers\.", numbered("res{}.", 2, +1)),
            (r"(?<=\.)layer\.(\d)\.", numbered("conv{}.", 1, +1)),
            (r"^hidden_states_norms\.stage(\d)\.", numbered("norm{}.", -1, +1)),
            (r"^hidden_states_norms\.(\d)\.", r"norm\1."),
            (r"^(model\.)?embeddings\.norm\.", "patch_embed.norm."),
            (r"^(model\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^(model\.)?encoder\.layers\.", "layers."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.attention\.(self\.([qkv])\w+|([qkv])_proj)\.(\w+)$", r".attn.qkv.\4#\2\3"),
            (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.attention\.(self|relative_position_bias)\.", ".attn."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
        ),
    ),
    "model.pixel_level_module.decoder.": (
        PIXELS,
        (
            (r"^fpn\.stem\.", "layer_4."),
            (r"^fpn\.layers\.(\d)\.proj\.", numbered("adapter_{}.", 3, -1)),
            (r"^fpn\.layers\.(\d)\.block\.", numbered("layer_{}.", 3, -1)),
            (r"^(\w+_\d)\.0\.", r"\1."),
            (r"^(\w+_\d)\.1\.", r"\1.norm."),
            (r"^mask_projection\.", "mask_features."),
        ),
    ),
    "model.transformer_module.": (
        PREDICTOR,
        (
            (r"^queries_embedder\.", "query_embed."),
            (r"^input_projection\.", "input_proj."),
            (r"^decoder\.layernorm\.", "transformer.decoder.norm."),
            (r"^decoder\.layers\.", "transformer.decoder.layers."),
            (r"\.self_attn_layer_norm\.", ".norm1."),
            (r"\.encoder_attn_layer_norm\.", ".norm2."),
            (r"\.final_layer_norm\.", ".norm3."),
            (r"\.encoder_attn\.", ".multihead_attn."),
            (r"\.([qkv])_proj\.(weight|bias)$", r".in_proj_\2#\1"),
            (r"\.(o_proj|out_proj)\.", ".out_proj."),
            (r"\.(mlp\.)?fc([12])\.", r".linear\2."),
        ),
    ),
    "class_predictor.": (f"{PREDICTOR}class_embed.", ()),
    "mask_embedder.": (f"{PREDICTOR}mask_embed.layers.", ((r"^(\d)\.0\.", r"\1."),)),
}
