"""Weights of the reference implementations, in their names and shapes, to decoupe's models and back.

Conversion is total and strict: every tensor of the model is filled from exactly one of the file's and none
is left over. One table of names per family serves both directions: it says what the reference calls each of
our tensors, and its inverse reads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from decoupe.errors import CheckpointError, ConfigError, UnknownModelError, unknown
from decoupe.models import MODELS, BiRefNet
from decoupe.weights import birefnet_names, inspyrenet_names, maskformer_names
from decoupe.weights.naming import IGNORED, Shapes, State, as_tensor, is_tensor, shapes_of, some

__all__ = [
    "Uninitialised",
    "clean_state",
    "describe",
    "fill",
    "from_reference",
    "infer_config",
    "infer_family",
    "to_reference",
]


@dataclass(frozen=True)
class Family:
    """How one family's reference implementations save a model.

    Attributes:
        marks: beginnings of names, one group of them for each format; a file that has all of a group is of
            this family.
        config: our configuration, from options under the reference's own names and the tensors' shapes.
        infer: our configuration, from the tensors alone.
        names: the reference's name -> ours, for a configuration and the model's own state dict.
        describe: what `infer` found and what it could not, one line each.
        canonical: brings every format to the one that ``infer`` and ``names`` speak of.
    """

    marks: tuple[tuple[str, ...], ...]
    config: Callable[[Mapping[str, Any], Shapes], Any]
    infer: Callable[[State], Any]
    names: Callable[[Any, Mapping[str, Tensor]], dict[str, str]]
    describe: Callable[[Any], list[str]]
    canonical: Callable[[State], State] = lambda state: state


FAMILIES: dict[str, Family] = {
    "birefnet": Family(
        marks=(("bb.", "decoder."),),
        config=birefnet_names.birefnet_config,
        infer=birefnet_names.infer_birefnet_config,
        names=birefnet_names.birefnet_names,
        describe=birefnet_names.describe,
    ),
    "inspyrenet": Family(
        marks=(("backbone.", "context1.", "attention0."),),
        config=inspyrenet_names.inspyrenet_config,
        infer=inspyrenet_names.infer_inspyrenet_config,
        names=inspyrenet_names.inspyrenet_names,
        describe=inspyrenet_names.describe,
    ),
    "maskformer": Family(
        marks=(("model.pixel_level_module.", "class_predictor."), ("backbone.", "sem_seg_head.")),
        config=maskformer_names.maskformer_config,
        infer=maskformer_names.infer_maskformer_config,
        names=maskformer_names.maskformer_names,
        describe=maskformer_names.describe,
        canonical=maskformer_names.canonical,
    ),
}
PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
NESTS = ("state_dict", "model_state_dict", "model", "net", "params")
OWN_MARKS = {
    "birefnet": ("encoder.backbone.", "decoder.head."),
    "inspyrenet": ("backbone.", "encoders.", "stages."),
    "maskformer": ("pixel_level.backbone.",),
}
"""Beginnings of the names that ``torch.save(model.state_dict())`` leaves of a model of decoupe."""


def from_reference(family: str, state: State, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The model that a reference implementation's state dict holds.

    Args:
        family: ``"birefnet"``, ``"inspyrenet"`` or ``"maskformer"``.
        state: tensors or arrays under the reference's names; `bare_state` unwraps what training scripts
            wrap around them, and is applied here too. Integer buffers that carry no knowledge may be
            there or not.
        config: options under the reference's own names, those left out as in its released models (for
            BiRefNet ``bb``, ``dec_att``, ``squeeze_block``, …); None infers them from names and shapes. A
            configuration of ours is taken as it is.

    Returns:
        The model in evaluation mode, float32.

    Raises:
        UnknownModelError: a family that decoupe cannot convert.
        ConfigError: an option or value that the reference does not have.
        CheckpointError: tensors that are missing, left over or of another shape; the message names them.
    """
    table = _family(family)
    config_class, model_class = MODELS[family]
    canonical = table.canonical(bare_state(state))
    ours: Any = config
    if config is None:
        ours = table.infer(canonical)
    elif not isinstance(config, config_class):
        ours = table.config(config, shapes_of(canonical))
    with Uninitialised():
        model = model_class(ours)
    return fill(model, canonical, table.names(ours, model.state_dict()))


def infer_config(family: str, state: State) -> Any:
    """The family's configuration, as far as the names and shapes of a reference's tensors tell it.

    Raises:
        UnknownModelError: a family that decoupe cannot convert.
        CheckpointError: the names are not those of this family.
    """
    table = _family(family)
    return table.infer(table.canonical(bare_state(state)))


def infer_family(names: Collection[str]) -> str:
    """The family whose reference implementation names its tensors like these.

    Raises:
        CheckpointError: none does.
    """
    for family, table in FAMILIES.items():
        for group in table.marks:
            if all(_has(names, mark) for mark in group):
                return family
    for family, marks in OWN_MARKS.items():
        if all(_has(names, mark) for mark in marks):
            raise CheckpointError(
                f"holds the tensors of decoupe's {MODELS[family][1].__name__} without its configuration: "
                "write it with decoupe.weights.checkpoint.save_model, as .safetensors"
            )
    raise CheckpointError(
        f"fits no model that decoupe knows ({', '.join(FAMILIES)}): it holds {some(list(names))}"
    )


def describe(family: str, config: Any) -> list[str]:
    """What `infer_config` found out, and what it could not, one line each."""
    return _family(family).describe(config)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise UnknownModelError(unknown("family", name, FAMILIES))
    return FAMILIES[name]


def to_reference(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict under the reference implementation's names: the inverse of `from_reference`.

    MaskFormer's are Detectron2's.

    Raises:
        ConfigError: the reference has no such model.
    """
    family = next((name for name, (_, kind) in MODELS.items() if isinstance(model, kind)), None)
    if family is None:
        raise ConfigError(f"{type(model).__name__} has no reference names: give one of {', '.join(MODELS)}")
    config: Any = model.config
    if isinstance(model, BiRefNet) and (
        config.backbone not in birefnet_names.BACKBONE_NAMES.values() or config.inward == "unshuffle"
    ):
        raise ConfigError(
            f"the reference has no backbone {config.backbone!r} with inward={config.inward!r}: "
            f"keep the model in decoupe's own format"
        )
    state = model.state_dict()
    return {theirs: state[ours] for theirs, ours in FAMILIES[family].names(config, state).items()}


def clean_state(raw: object) -> dict[str, Tensor | NDArray[Any]]:
    """A plain state dict, out of whatever a training script has saved around it.

    Unwraps a state dict nested under one key, removes the prefixes that DataParallel (``module.``) and
    ``torch.compile`` (``_orig_mod.``) add, and leaves out buffers that carry no knowledge.

    Raises:
        CheckpointError: no state dict inside, or several and none under a usual name.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(
            f"found {type(raw).__name__}, expected a dict of tensors: is it a weights file?"
        )
    if (nest := _nest(raw)) is not None:
        return clean_state(raw[nest])
    strange = [
        f"{key!r} ({type(value).__name__})"
        for key, value in raw.items()
        if not (isinstance(key, str) and is_tensor(value))
    ]
    if strange or not raw:
        found = some(strange) if raw else "nothing"
        raise CheckpointError(f"the state dict holds {found}, expected named tensors: is it a weights file?")
    state = {PREFIXES.sub("", key): value for key, value in raw.items()}
    if len(state) < len(raw):
        raise CheckpointError("the state dict holds tensors with and without 'module.': keep one of each")
    if kept := {key: value for key, value in state.items() if not IGNORED.search(key)}:
        return kept
    raise CheckpointError(f"the state dict holds counters alone ({some([*state])}): is it a weights file?")


def bare_state(raw: object) -> dict[str, Tensor | NDArray[Any]]:
    """`clean_state`, without what a training script's classes put before each name (``model._orig_mod.``)."""
    state = bare = clean_state(raw)
    known = [group for table in FAMILIES.values() for group in table.marks]
    while not any(all(_has(bare, mark) for mark in group) for group in known):
        prefix = next(iter(bare), "").partition(".")[0] + "."
        if not all(key.startswith(prefix) for key in bare):
            return state
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
    return bare


def others_in(raw: Mapping[str, Any]) -> list[str]:
    """Keys of other weights of the same names beside those that `clean_state` takes, as an average's."""
    if (nest := _nest(raw)) is None:
        return []
    names = clean_state(raw).keys()
    others = [key for key in _state_dicts(raw) if key != nest]
    return [key for key in others if clean_state(raw[key]).keys() == names]


def _nest(raw: Mapping[str, Any]) -> str | None:
    """The key under which the state dict is nested; None where ``raw`` is one, or holds none."""
    if usual := [key for key in NESTS if _holds_tensors(raw.get(key))]:
        return usual[0]
    within = _state_dicts(raw)
    if len(within) > 1:
        raise CheckpointError(
            f"holds several state dicts ({some([repr(key) for key in within])}): save the one you mean alone"
        )
    if not within and len(raw) == 1 and isinstance(next(iter(raw.values())), Mapping):
        return next(iter(raw))
    return next(iter(within), None)


def _holds_tensors(value: object, depth: int = 3) -> bool:
    """Whether there is a tensor in a dict, or in one inside of it; a model's settings hold none."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(is_tensor(one) or _holds_tensors(one, depth - 1) for one in value.values())


def _state_dicts(raw: Mapping[str, Any]) -> list[str]:
    """Keys of what is a dict of named tensors itself."""
    return [
        key
        for key, value in raw.items()
        if isinstance(value, Mapping)
        and value
        and all(isinstance(name, str) and is_tensor(one) for name, one in value.items())
    ]


def _has(names: Collection[str], mark: str) -> bool:
    return any(name.startswith(mark) for name in names)


def fill(model: nn.Module, state: State, names: Mapping[str, str]) -> nn.Module:
    """Load ``state`` into ``model``, every tensor once.

    Args:
        model: what to fill, in place.
        state: tensors or arrays under the reference's names.
        names: the reference's name -> the model's, of every tensor that carries knowledge.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        CheckpointError: tensors that are missing, left over, of another shape, or not of real numbers.
    """
    own = model.state_dict()
    missing = [name for name in names if name not in state]
    extra = [name for name in state if name not in names]
    if missing or extra:
        problems = [(missing, "missing"), (extra, "not the model's")]
        told = "; ".join(f"{len(keys)} {what}: {some(keys)}" for keys, what in problems if keys)
        raise CheckpointError(f"the tensors do not fit the model ({told}): is it another model's file?")
    shapes = shapes_of(state)
    wrong = [
        f"{theirs!r} is {shapes[theirs]}, expected {tuple(own[ours].shape)}"
        for theirs, ours in names.items()
        if shapes[theirs] != tuple(own[ours].shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} tensors of another shape ({some(wrong)}): is it another model's file?"
        )
    counters = {key: torch.zeros_like(value) for key, value in own.items() if IGNORED.search(key)}
    filled = {ours: as_tensor(theirs, state[theirs]) for theirs, ours in names.items()}
    model.load_state_dict({**counters, **filled}, strict=True)
    return model.eval()


class Uninitialised(TorchFunctionMode):
    """Leaves out random initialisation: every weight is about to be overwritten, which saves seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"]
        return args[0] if func in (Tensor.uniform_, Tensor.normal_) else func(*args, **kwargs)
