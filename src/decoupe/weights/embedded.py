"""The embedded default model as PyTorch weights, to be fine-tuned: read out of its exported file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from decoupe.errors import CheckpointError, MissingExtraError
from decoupe.models.birefnet import PRESETS, BiRefNet, InwardReference
from decoupe.models.fuse import StridedReference, over_cells
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
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError(f"the model {spec.name!r} in PyTorch", "export") from error
    graph = onnx.load(path).graph
    given = {
        tensor.name.rpartition("model.")[2].removesuffix(".half"): torch.from_numpy(
            numpy_helper.to_array(tensor).copy()
        ).float()
        for tensor in graph.initializer
    }
    # The head is exported in the two parts in which it is applied: to the map, and to the picture.
    head = [given[name] for name in ("slice_1", "slice_2") if name in given]
    given["decoder.head.weight"] = torch.cat(head, 1) if head else torch.empty(0)
    model = BiRefNet(PRESETS[spec.name])
    for index, reference in enumerate(model.decoder.inward):
        key = f"decoder.inward.{index}.convs.0.weight"
        if not isinstance(reference, InwardReference) or key not in given:
            continue
        if given[key].shape == StridedReference(reference).convs[0].weight.shape:  # else it is told below
            given[key] = over_cells(given[key])
    state = {**model.state_dict(), **{key: given[key] for key in model.state_dict() if key in given}}
    filled = set(given)
    for conv, name, norm in _folded(model):
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


def _folded(model: nn.Module) -> list[tuple[str, str, nn.BatchNorm2d]]:
    """Every batch norm right behind a convolution: the convolution's name, its own, and itself."""
    return [
        (f"{place}.{first}", f"{place}.{second}", norm)
        for place, sequence in model.named_modules()
        if isinstance(sequence, nn.Sequential)
        for (first, conv), (second, norm) in pairwise(sequence.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]
