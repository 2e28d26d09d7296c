"""The embedded default model as PyTorch weights, to be fine-tuned: read out of its exported file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from decoupe.errors import CheckpointError, MissingExtraError
from decoupe.layers.blocks import ASPP, normed
from decoupe.models.birefnet import PRESETS, BiRefNet, Decoder, InwardReference
from decoupe.models.fuse.references import StridedReference, over_cells
from decoupe.weights.checkpoint import LoadedModel
from decoupe.weights.naming import some
from decoupe.weights.registry import ModelSpec

_TRAINING_ONLY = ("side_heads", "gradient")
"""Parts of a BiRefNet that only training computes: exported files are without them."""


def read_embedded(spec: ModelSpec, path: Path) -> LoadedModel:
    """The model of an exported file, its batch norms as they were folded: each adds a bias and nothing else.

    Args:
        spec: of the embedded model.
        path: its ``.onnx`` file.

    Raises:
        MissingExtraError: onnx is not installed.
        CheckpointError: the file holds other tensors than the embedded model's.
    """
    model = BiRefNet(PRESETS[spec.name])
    given = _given(model, spec, path)
    state = {**model.state_dict(), **{key: given[key] for key in model.state_dict() if key in given}}
    filled = set(given)
    for conv, _, name, norm in normed(model):
        state |= {
            f"{name}.weight": torch.ones(norm.num_features),
            f"{name}.bias": given.get(f"{conv}.bias", torch.zeros(norm.num_features)),
            f"{name}.running_mean": torch.zeros(norm.num_features),
            f"{name}.running_var": torch.full((norm.num_features,), 1 - norm.eps),
        }
        if f"{conv}.bias" in state:  # it is the norm's now
            state[f"{conv}.bias"] = torch.zeros(norm.num_features)
        filled |= {key for key in state if key.startswith(f"{name}.")}
    missing = [key for key in state if key not in filled]
    unknown = [key for key in missing if not set(key.split(".")) & set(_TRAINING_ONLY)]
    misshapen = [key for key, value in model.state_dict().items() if value.shape != state[key].shape]
    if unknown or misshapen:
        raise CheckpointError(
            f"{path} does not hold the model {spec.name!r} ({some([*unknown, *misshapen])}): "
            "reinstall decoupe"
        )
    model.load_state_dict(state)
    parts = sorted({part for key in missing for part in key.split(".") if part in _TRAINING_ONLY})
    return LoadedModel(
        model=model.eval(),
        family=spec.family,
        config=model.config,
        preprocessing=spec.preprocessing,
        notes=[f"{' and '.join(parts)}, which only training uses, begin at random"],
    )


def _given(model: BiRefNet, spec: ModelSpec, path: Path) -> dict[str, Tensor]:
    """The file's tensors, under the model's names and in its forms."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError(f"the model {spec.name!r} in PyTorch", "export") from error
    given: dict[str, Tensor] = {}
    for tensor in onnx.load(path).graph.initializer:
        name = tensor.name.rpartition("model.")[2].removesuffix(".half").replace(".plain.", ".")
        given[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
    given |= _tail(model.decoder, given) | _contexts(model, given)
    for index, reference in enumerate(model.decoder.inward):
        key = f"decoder.inward.{index}.convs.0.weight"
        if not isinstance(reference, InwardReference) or key not in given:
            continue
        if given[key].shape == StridedReference(reference).convs[0].weight.shape:  # else it does not fit
            given[key] = over_cells(given[key])
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    return {key: _without_zeros(value, shapes.get(key, value.shape)) for key, value in given.items()}


def _without_zeros(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor without what `decoupe.export.forms.align` added, if it did; else as it is."""
    part = tensor[tuple(map(slice, shape))] if tensor.ndim == len(shape) else tensor
    return part if part.shape == shape and tensor.count_nonzero() == part.count_nonzero() else tensor


def _tail(decoder: Decoder, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference at full resolution and the head, of `CollapsedReference`'s tensors; none if they lack.

    The file has the product of the reference's second convolution and the head alone. Any two with that
    product compute the same; here every channel between them has an equal share.
    """
    place, head = f"decoder.inward.{len(decoder.inward) - 1}", decoder.head
    names = ("first.weight", "first.bias", "second", "bias")
    if any(name not in given for name in ("decoder.head.weight", *(f"{place}.{name}" for name in names))):
        return {}
    weight, bias, second, second_bias = (given[f"{place}.{name}"] for name in names)
    own = given["decoder.head.weight"]
    channels = head.in_channels - own.shape[1]  # of the reference
    share = channels**-0.5
    return {
        f"{place}.convs.0.weight": weight,
        f"{place}.convs.0.bias": bias,
        f"{place}.convs.1.weight": share * second.expand(channels, -1, -1, -1),
        f"{place}.convs.1.bias": share * second_bias.expand(channels),
        "decoder.head.weight": torch.cat([own, torch.full((1, channels, 1, 1), share)], dim=1),
    }


def _contexts(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last convolution of every `ASPP`: of `Context`'s parts of it, one a branch."""
    found = {}
    for place, module in model.named_modules():
        if isinstance(module, ASPP):
            parts = [f"{place}.branches.{index}.mix" for index in range(len(module.branches))]
            if all(name in given for name in [*parts, f"{place}.mix", f"{place}.bias"]):
                weights = [given[name] for name in [*parts, f"{place}.mix"]]
                found[f"{place}.fuse.0.0.weight"] = torch.cat(weights, dim=1)
                found[f"{place}.fuse.0.0.bias"] = given[f"{place}.bias"]
    return found
