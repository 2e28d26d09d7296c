"""Weights of the reference implementations, in their names and shapes, to decoupe's models and back.

Conversion is total and strict: every tensor of the model is filled from exactly one of the file's and none
is left over. One table of names serves both directions: it says what the reference calls each of our
tensors, and its inverse reads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from decoupe.backbones import Backbone, build_backbone
from decoupe.errors import CheckpointError, ConfigError, UnknownModelError, unknown
from decoupe.models import BiRefNet, BiRefNetConfig

State = Mapping[str, Tensor | NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# Buffers that are computed from sizes, or count batches: they carry no knowledge.
IGNORED = re.compile(r"(^|\.)(relative_position_index|attn_mask|num_batches_tracked)$")
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
NESTS = ("state_dict", "model_state_dict", "model", "net", "params")

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
BLOCKS = {"BasicDecBlk": "basic", "ResBlk": "residual"}


def from_reference(family: str, state: State, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a reference implementation's state dict holds.

    Args:
        family: ``"birefnet"``.
        state: tensors or arrays under the reference's names; `clean_state` unwraps what training scripts
            wrap around them, and is applied here too. Integer buffers that carry no knowledge may be
            there or not.
        config: options under the reference's own names, those left out as in its released models (for
            BiRefNet ``bb``, ``dec_att``, ``squeeze_block``, …); None infers them from names and shapes.

    Returns:
        The model in evaluation mode, float32.

    Raises:
        UnknownModelError: a family that decoupe cannot convert.
        ConfigError: an option or value that the reference does not have.
        CheckpointError: tensors that are missing, left over or of another shape; the message names them.
    """
    if family not in ("birefnet",):
        raise UnknownModelError(unknown("family", family, ("birefnet",)))
    state = clean_state(state)
    ours = infer_birefnet_config(state) if config is None else birefnet_config(config, _shapes(state))
    with _Uninitialised():
        model = BiRefNet(ours)
    return fill(model, state, birefnet_names(ours, model.state_dict()))


def to_reference(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict under the reference implementation's names: the inverse of `from_reference`.

    Raises:
        ConfigError: the reference has no such model.
    """
    if not isinstance(model, BiRefNet):
        raise ConfigError(f"{type(model).__name__} has no reference names: give a BiRefNet")
    if model.config.backbone not in BACKBONE_NAMES.values() or model.config.inward == "unshuffle":
        raise ConfigError(
            f"the reference has no backbone {model.config.backbone!r} with inward={model.config.inward!r}: "
            f"keep the model in decoupe's own format"
        )
    state = model.state_dict()
    return {theirs: state[ours] for theirs, ours in birefnet_names(model.config, state).items()}


def clean_state(raw: Mapping[str, Any]) -> dict[str, Tensor | NDArray[Any]]:
    """A plain state dict, out of whatever a training script has saved around it.

    Unwraps a state dict nested under one key, removes the prefixes that DataParallel (``module.``) and
    ``torch.compile`` (``_orig_mod.``) add, and leaves out integer buffers that carry no knowledge.

    Raises:
        CheckpointError: no state dict inside.
    """
    for key in NESTS:
        if isinstance(raw.get(key), Mapping):
            return clean_state(raw[key])
    nested = [value for value in raw.values() if isinstance(value, Mapping)]
    if len(raw) == len(nested) == 1:
        return clean_state(nested[0])
    strange = [f"{key!r} ({type(value).__name__})" for key, value in raw.items() if not _is_tensor(value)]
    if strange or not raw:
        found = _some(strange) if raw else "nothing"
        raise CheckpointError(
            f"a state dict holds {found}, expected named tensors only: is it a weights file?"
        )
    return {PREFIXES.sub("", key): value for key, value in raw.items() if not IGNORED.search(key)}


def fill(model: nn.Module, state: State, names: Mapping[str, str]) -> nn.Module:
    """Load ``state`` into ``model``, every tensor once.

    Args:
        model: what to fill, in place.
        state: tensors or arrays under the reference's names.
        names: the reference's name -> the model's, of every tensor that carries knowledge.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        CheckpointError: tensors that are missing, left over, or of another shape.
    """
    own = model.state_dict()
    missing = [name for name in names if name not in state]
    extra = [name for name in state if name not in names]
    if missing or extra:
        problems = [(missing, "missing"), (extra, "not the model's")]
        told = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for keys, what in problems if keys)
        raise CheckpointError(f"the tensors do not fit the model ({told}): is it another model's file?")
    shapes = _shapes(state)
    wrong = [
        f"{theirs!r} is {shapes[theirs]}, expected {tuple(own[ours].shape)}"
        for theirs, ours in names.items()
        if shapes[theirs] != tuple(own[ours].shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of another shape ({_some(wrong)}): is it another model's file?"
        )
    counters = {key: torch.zeros_like(value) for key, value in own.items() if IGNORED.search(key)}
    model.load_state_dict(
        {**counters, **{ours: torch.as_tensor(state[theirs]) for theirs, ours in names.items()}}, strict=True
    )
    return model.eval()


# ---------------------------------------------------------------------------------------------------------
# BiRefNet: options
# ---------------------------------------------------------------------------------------------------------


def birefnet_config(options: Mapping[str, Any], shapes: Shapes) -> BiRefNetConfig:
    """Our configuration for options under the reference's names; widths that no option names come from ``shapes``.

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
    for name in options:
        if name not in released:
            raise ConfigError(unknown("option of the reference", name, released))
    given = {**released, **options}
    kind, _, depth = str(given["squeeze_block"]).partition("_x")
    return BiRefNetConfig(
        backbone=_choice("bb", given["bb"], BACKBONE_NAMES),
        multi_scale=_choice("mul_scl_ipt", given["mul_scl_ipt"], {"": "none", "add": "add", "cat": "cat"}),
        context_fusion=_choice("cxt_num", given["cxt_num"], {0: False, 3: True}),
        squeeze=_choice("squeeze_block", kind, {**CONTEXTS, **BLOCKS}),
        squeeze_depth=int(depth) if depth.isdecimal() else 1,
        block=_choice("dec_blk", given["dec_blk"], BLOCKS),
        context=_choice("dec_att", given["dec_att"], CONTEXTS),
        block_width=_choice("dec_channels_inter", given["dec_channels_inter"], {"fixed": 64, "adap": None}),
        inward=("split" if given["dec_ipt_split"] else "resize") if given["dec_ipt"] else "none",
        outward=bool(given["out_ref"]),
        side_outputs=bool(given["ms_supervision"]),
        classes=shapes.get("cls_head.0.weight", (0,))[0] if given["auxiliary_classification"] else 0,
        refiner=_choice("refine", given["refine"], {"": "none", "RefUNet": "unet"}),
    )


def infer_birefnet_config(state: State) -> BiRefNetConfig:
    """The configuration of a BiRefNet, from the names and shapes of the reference's tensors.

    Two things leave no trace in them: adding the half-size maps (``multi_scale="add"``) or not looking at half
    size at all, which is taken as ``"add"``; and how an inward reference cuts its patches, taken as
    ``"split"``, the only way the reference knows.

    Args:
        state: tensors or arrays under the reference's names, as `clean_state` gives them.

    Raises:
        CheckpointError: the names are not those of a BiRefNet, or its backbone is none that decoupe knows.
    """
    shapes = _shapes(state)
    name, channels = _infer_backbone(shapes)
    defaults = BiRefNetConfig()
    neck = "decoder.pyramid_neck_x1.conv.weight"
    finest = _shape(shapes, neck if neck in shapes else "decoder.lateral_block2.conv.weight")[1]
    cat = finest == 2 * channels[0]
    first = re.compile(r"squeeze_module\.0\.(conv_in|aspp1\.atrous_conv(\.regular_conv)?)\.weight")
    fused = next((shape[1] for key, shape in shapes.items() if first.fullmatch(key)), 0)
    inward = shapes.get("decoder.ipt_blk5.conv1.weight")
    outward = shapes.get("decoder.gdt_convs_4.0.weight")
    contexts = [shape[0] for key, shape in shapes.items() if key.endswith("aspp1.bn.weight")]
    blocks = [_shape(shapes, f"decoder.decoder_block{level}.conv_in.weight") for level in (4, 3, 2, 1)]
    quarter = all(width == wide // 4 for width, wide, *_ in blocks)
    return BiRefNetConfig(
        backbone=name,
        multi_scale="cat" if cat else "add",
        context_fusion=fused == sum(channels) * (2 if cat else 1),
        squeeze=_infer_kind(shapes, "squeeze_module.0."),
        squeeze_depth=max(1, len({key.split(".")[1] for key in shapes if key.startswith("squeeze_module.")})),
        block="residual" if "decoder.decoder_block1.conv_resi.weight" in shapes else "basic",
        context=_infer_kind(shapes, "decoder.decoder_block1.dec_att."),
        block_width=None if quarter else blocks[0][0],
        context_width=contexts[0] if contexts else defaults.context_width,
        inward="none" if inward is None else "resize" if inward[1] == 3 else "split",
        inward_width=defaults.inward_width if inward is None else inward[0],
        outward=outward is not None,
        outward_width=defaults.outward_width if outward is None else outward[0],
        side_outputs="decoder.conv_ms_spvn_4.weight" in shapes,
        classes=shapes.get("cls_head.0.weight", (0,))[0],
        refiner="unet" if "refiner.conv_d0.weight" in shapes else "none",
    )


def describe(config: BiRefNetConfig) -> list[str]:
    """What `infer_birefnet_config` found out, and what it could not, one line each."""
    values = ", ".join(f"{key}={value!r}" for key, value in asdict(config).items())
    notes = [f"inferred from the tensors' names and shapes: {values}"]
    if config.multi_scale == "add":
        notes.append("the tensors do not tell multi_scale='add' from 'none': taken as 'add'")
    return notes


def _infer_backbone(shapes: Shapes) -> tuple[str, tuple[int, ...]]:
    """The backbone whose names and shapes are those of ``bb.*``, and the channels of its maps."""
    found = {key: shape for key, shape in shapes.items() if key.startswith("bb.")}
    if not found:
        raise CheckpointError(
            f"no backbone ('bb.…') among {len(shapes)} tensors ({_some(list(shapes))}): is it another model's file?"
        )
    # timm is asked for only where the names say so.
    vit = any(key.startswith("bb.model.") for key in found)
    closest: tuple[int, str] = (-1, "")
    for name in BACKBONE_NAMES.values():
        if name.startswith("dino") != vit:
            continue
        with torch.device("meta"):
            backbone = build_backbone(name)
        rules = backbone_rules(name)
        own = _knowledge(backbone.state_dict())
        expected = {f"bb.{_rename(key, rules)}": tuple(value.shape) for key, value in own}
        if expected == found:
            return name, cast(Backbone, backbone).channels
        closest = max(closest, (len(expected.items() & found.items()), name))
    raise CheckpointError(
        f"the backbone fits none that decoupe knows; nearest is {closest[1]!r}, which shares "
        f"{closest[0]} of its {len(found)} tensors: is it another model's file?"
    )


def _infer_kind(shapes: Shapes, prefix: str) -> Any:
    """Kind of the block or context module under ``prefix``."""
    signs = {"conv_resi": "residual", "conv_in": "basic", "aspp_deforms": "aspp_deformable", "aspp1": "aspp"}
    parts = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return next((kind for sign, kind in signs.items() if sign in parts), "none")


def _choice(option: str, value: Any, known: Mapping[Any, Any]) -> Any:
    if value not in known:
        raise ConfigError(unknown(f"{option} of the reference", str(value), [str(name) for name in known]))
    return known[value]


# ---------------------------------------------------------------------------------------------------------
# BiRefNet: names
# ---------------------------------------------------------------------------------------------------------


def birefnet_names(config: BiRefNetConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The reference's name -> ours, of every tensor of a BiRefNet's state dict that carries knowledge."""
    sections = (
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
    names = {}
    for key, _ in _knowledge(state):
        ours, theirs, rules = next(section for section in sections if key.startswith(section[0]))
        names[theirs + _rename(key.removeprefix(ours), rules)] = key
    return names


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
            (r"^embeds\.(\d)", _numbered("patch_embed{}", 1, +1)),
            (r"^stages\.(\d)", _numbered("block{}", 1, +1)),
            (r"^norms\.(\d)", _numbered("norm{}", 1, +1)),
            (r"\.attention\.reduce\.", ".attn.sr."),
            (r"\.attention\.", ".attn."),
            (r"\.mlp\.conv\.", ".mlp.dwconv.dwconv."),
        ),
        "vgg": ((r"^stages\.(\d)", _numbered("conv{}", 1, +1)),),
        "resnet": ((r"^stages\.(\d)", _numbered("conv{}", 1, +1)),),
        "dino": (),
    }
    return next(rules for kind, rules in kinds.items() if name.startswith(kind))


def aspp_rules(place: str, kind: str) -> tuple[Rule, ...]:
    """Rules for the context module of ``kind`` that stands behind ``place``, a pattern with one group."""
    branch: tuple[Rule, ...] = ((rf"{place}branches\.(\d)", _numbered("{}aspp{}", 1, +1)),)
    if kind == "aspp_deformable":
        branch = (
            (rf"{place}branches\.0", r"\1aspp1"),
            (rf"{place}branches\.(\d)", _numbered("{}aspp_deforms.{}", -1, +1)),
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


def _numbered(template: str, first: int, step: int) -> Callable[[re.Match[str]], str]:
    """A replacement: the match's groups put into ``template``, the last one renumbered ``first + step · number``."""
    return lambda match: template.format(*match.groups()[:-1], first + step * int(match.groups()[-1]))


# Levels are ours deepest first from 0; the reference's count down to the finest.
DECODER_RULES: tuple[Rule, ...] = (
    (r"^neck\.(\d)", _numbered("pyramid_neck_x{}.conv", 1, +1)),
    (r"^inward\.(\d)\.convs\.0", _numbered("ipt_blk{}.conv1", 5, -1)),
    (r"^inward\.(\d)\.convs\.1", _numbered("ipt_blk{}.conv_out", 5, -1)),
    (r"^laterals\.(\d)", _numbered("lateral_block{}.conv", 4, -1)),
    (r"^blocks\.(\d)", _numbered("decoder_block{}", 4, -1)),
    (r"^side_heads\.(\d)", _numbered("conv_ms_spvn_{}", 4, -1)),
    (r"^outward\.(\d)\.feature", _numbered("gdt_convs_{}", 4, -1)),
    (r"^outward\.(\d)\.gradient", _numbered("gdt_convs_pred_{}.0", 4, -1)),
    (r"^outward\.(\d)\.attention", _numbered("gdt_convs_attn_{}.0", 4, -1)),
    (r"^head", "conv_out1.0"),
)

# Its first encoder stage has a second convolution before the norm; the others begin with the pooling, as layer 0.
REFINER_RULES: tuple[Rule, ...] = (
    (r"^encoder\.0\.1\.(\d)", _numbered("encoder_1.{}", 1, +1)),
    (r"^encoder\.0\.0", "encoder_1.0"),
    (r"^encoder\.(\d)\.0", _numbered("encoder_{}.1", 1, +1)),
    (r"^encoder\.(\d)\.1", _numbered("encoder_{}.2", 1, +1)),
    (r"^bottleneck", "decoder_5"),
    (r"^decoder\.(\d)", _numbered("decoder_{}", 4, -1)),
    (r"^head", "conv_d0"),
)


# ---------------------------------------------------------------------------------------------------------
# Small parts
# ---------------------------------------------------------------------------------------------------------


class _Uninitialised(TorchFunctionMode):
    """Leaves out random initialisation: every weight is about to be overwritten, and Swin-L's takes seconds."""

    RANDOM = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.RANDOM else func(*args, **(kwargs or {}))


def _rename(key: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _knowledge(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in state.items() if not IGNORED.search(key)]


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(f"no tensor {key!r} among {len(shapes)}: is it another model's file?")
    return shapes[key]


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _some(names: Sequence[str], most: int = 3) -> str:
    """The first few of ``names``, as text."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
