"""Weights files: decoupe's own, and those of the reference implementations.

decoupe's own file is a safetensors file whose metadata hold, under the key ``decoupe``, a JSON object with
the model's family, configuration and preprocessing and the version that wrote it: loaded without a guess.
A reference's file (``.safetensors``, or ``.pth`` as `torch.save` writes it) holds tensors only;
`decoupe.weights.convert` infers its configuration. No file's code is ever run. PyTorch is imported when a
function is called.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import struct
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import decoupe
from decoupe.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtraError,
    OutputError,
    UnknownModelError,
    unknown,
)
from decoupe.weights import beside, located
from decoupe.weights.labels import NO_NAMES, Vocabulary, vocabulary
from decoupe.weights.registry import CATALOGUE, ModelSpec, Preprocessing, weights_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_METADATA_KEY = "decoupe"
_DAMAGED = "{path} is truncated or damaged: copy or download it again"
# Whatever torch.load lets escape on broken bytes.
_UNREADABLE = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    EOFError,
    RecursionError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)
# Those of most released checkpoints.
_ASSUMED = {
    "birefnet": Preprocessing(size=(1024, 1024), size_range=(512, 1536)),
    "inspyrenet": Preprocessing(size=(384, 384), size_range=(192, 576), two_scale=(512, 1280)),
    "maskformer": Preprocessing(size=(800, 800), fit="shorter", longest=1333, size_range=(400, 1333)),
}


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and what is needed to use it.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        family: key of `decoupe.models.MODELS`.
        config: the family's configuration.
        preprocessing: how a picture becomes its input.
        notes: what had to be inferred or assumed because the file does not say it, one line each.
        vocabulary: the names of the classes of a model that gives segments; empty for the others.
        licence: of the weights, as decoupe's own file tells it, or the catalogue's row with the same hash;
            empty where neither does.
        extra: what else decoupe's own file keeps: of a training its recipe, step and scores.
    """

    model: nn.Module
    family: str
    config: Any
    preprocessing: Preprocessing
    notes: list[str] = field(default_factory=list)
    vocabulary: Vocabulary = NO_NAMES
    licence: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def licence_of(name: str, loaded: LoadedModel) -> str:
    """The licence of a model's weights: its file's, or its row's in the catalogue; empty where none tells.

    Args:
        name: by which it was loaded.
        loaded: what was.
    """
    if loaded.licence:
        return loaded.licence
    try:
        row = located(name)
    except UnknownModelError:  # what it was loaded by is gone
        return ""
    return row.licence if isinstance(row, ModelSpec) and row.name in CATALOGUE else ""


def save_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    family: str,
    preprocessing: Preprocessing,
    vocabulary: Vocabulary = NO_NAMES,
    licence: str = "",
    extra: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``model`` as one of decoupe's own files; a reader sees the old file or the whole new one.

    Args:
        model: of `decoupe.models.MODELS`, its configuration in ``model.config``.
        path: ``.safetensors`` file to write; its folder must exist.
        family: key of `decoupe.models.MODELS`.
        preprocessing: how a picture becomes its input.
        vocabulary: the names of the classes of a model that gives segments; without them its file is read
            with those of the set that has so many, or with numbers.
        licence: of the weights, where there is one to tell: that of those that they were trained from.
        extra: anything that JSON can hold, kept in the metadata (training data, scores, …).
        state: the tensors by name, of a model whose own are spread over several processes.

    Raises:
        InputError: a model of another class than the family's, as `torch.compile` and DataParallel give: its
            file could not be read.
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from decoupe.models import MODELS

    path = Path(path)
    if family not in MODELS:
        raise InputError(unknown("family", str(family), MODELS))
    if not isinstance(model, MODELS[family][1]):
        raise InputError(
            f"model is a {type(model).__name__}, expected the {MODELS[family][1].__name__} itself: "
            "give what was compiled or wrapped"
        )
    metadata = {
        "family": family,
        "config": dataclasses.asdict(model.config),  # type: ignore[call-overload]  # nn.Module attributes are untyped
        "preprocessing": dataclasses.asdict(preprocessing),
        "vocabulary": dataclasses.asdict(vocabulary),
        "version": decoupe.__version__,
        "licence": licence,
        "extra": dict(extra or {}),
    }
    state = model.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            part.touch()
            mode = part.stat().st_mode  # as the user's umask has it; safetensors' own files are private
            save_file(tensors, part, metadata={_METADATA_KEY: json.dumps(metadata)})
            part.chmod(mode)
            part.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def read_model(
    path: str | os.PathLike[str], family: str | None = None, preprocessing: Preprocessing | None = None
) -> LoadedModel:
    """The model of a weights file: decoupe's own, or a reference's, converted.

    Args:
        path: ``.safetensors``, a zip or pickle of tensors as `torch.save` writes them, a ``.pkl`` of
            Detectron2, or a folder as transformers' ``save_pretrained`` writes it. The names of classes,
            the heads of attentions and the input's size are read in the ``config.json`` and
            ``preprocessor_config.json`` beside it.
        family: key of `decoupe.models.MODELS`; needed for no file that decoupe wrote, and found out from the
            tensors' names otherwise.
        preprocessing: of a reference's file, which does not say it; None takes that of the catalogue's file
            with the same hash, or assumes what most of the family's released models have.

    Raises:
        InputError: a preprocessing for a file of decoupe's, which holds its own.
        UnknownModelError: no such family.
        CheckpointError: no such file, a broken file, not a weights file, a pickle that needs code, or another
            model's weights; the message names the first tensors that do not fit.
        MissingExtraError: PyTorch is not installed.
    """
    path = Path(path)
    path = weights_in(path) or path
    state, metadata = read_tensors(path)
    if metadata is None:
        return _from_reference(path, state, family or None, preprocessing)
    if preprocessing is not None:
        raise InputError(f"{path} tells how it is fed: leave --input-size, --mean and --std out")
    return _from_own(path, state, metadata, family or None)


def _from_own(
    path: Path, state: dict[str, Tensor], metadata: dict[str, Any], family: str | None
) -> LoadedModel:
    from decoupe.models import MODELS
    from decoupe.weights.convert import Uninitialised

    written = str(metadata["family"])
    if family not in (None, written):
        raise CheckpointError(f"{path} holds a model of the family {written!r}, expected {family!r}")
    if written not in MODELS:
        raise CheckpointError(
            f"{path}: {unknown('family', written, MODELS)}; written by decoupe {metadata['version']}"
        )
    config_class, model_class = MODELS[written]
    try:
        config = config_class(**_as_tuples(metadata["config"]))
        preprocessing = Preprocessing(**_as_tuples(metadata["preprocessing"]))
        words = Vocabulary(**_as_tuples(metadata["vocabulary"]))
        if written == "maskformer" and not words.names:
            words = vocabulary(None, config.classes)
        with Uninitialised():
            model = model_class(config)
    except (TypeError, AttributeError, RuntimeError, ConfigError) as error:  # of sizes beyond all memory too
        own = metadata["version"] == decoupe.__version__
        raise CheckpointError(
            f"{path} was written by decoupe {metadata['version']}, this is {decoupe.__version__}: "
            f"{'its description was changed' if own else 'upgrade'} ({error})"
        ) from error
    _check_fit(path, model, state, written)
    model.load_state_dict(state, strict=True)
    return LoadedModel(
        model.eval(),
        written,
        config,
        preprocessing,
        vocabulary=words,
        licence=metadata["licence"],
        extra=metadata["extra"],
    )


def _from_reference(
    path: Path, state: dict[str, Tensor], family: str | None, preprocessing: Preprocessing | None
) -> LoadedModel:
    from decoupe.weights import convert
    from decoupe.weights.naming import some

    notes, heads = [], None
    row = _known(path) if preprocessing is None else None
    if preprocessing is None:
        preprocessing = beside.preprocessing(path) if row is None else row.preprocessing
    try:
        tensors = convert.bare_state(state)
        if others := convert.others_in(state):
            notes.append(
                f"{path.name} holds other weights of the same names too, left aside: {', '.join(others)}"
            )
        family = family or convert.infer_family(tensors)
        config = convert.infer_config(family, tensors)
        if preprocessing is None:
            preprocessing = _ASSUMED[family]
            height, width = preprocessing.size
            notes.append(
                f"{path.name} does not say at which size it was trained; {width}×{height} assumed, "
                "--input-size says another"
            )
        elif preprocessing.multiple == 1:  # by hand, as for files that take any size
            preprocessing = _of_family(family, preprocessing)
        if family == "inspyrenet":
            # It pools contexts at this size, which leaves no trace in the tensors.
            config = dataclasses.replace(config, base_size=preprocessing.size)
        if family == "maskformer" and (heads := beside.heads(path)) is not None:
            config = dataclasses.replace(config, heads=heads)
        model = convert.from_reference(family, tensors, config)
        words = NO_NAMES
        if family == "maskformer":
            names = beside.labels(path)
            words = _vocabulary(path, names, config.classes)
            if names is None:
                notes.append(
                    f"{path.name} does not name its {config.classes} classes, assumed: {some(words.names)}; "
                    "id2label in a config.json beside it would name them"
                )
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    except RecursionError:
        raise CheckpointError(
            f"{path} holds dicts within dicts without end, expected named tensors"
        ) from None
    found = convert.describe(family, config)
    if heads is not None:  # the one thing that a MaskFormer's tensors do not tell
        found[1:] = [f"heads={heads} is what the config.json beside it tells"]
    notes = [*(f"{path.name}: {note}" for note in found), *notes]
    licence = "" if row is None else row.licence
    return LoadedModel(model.eval(), family, config, preprocessing, notes, words, licence)


def _vocabulary(path: Path, names: tuple[str, ...] | None, classes: int) -> Vocabulary:
    """The vocabulary of a reference's file, with the names that the ``config.json`` beside it gives."""
    try:
        return vocabulary(names, classes)
    except ConfigError as error:
        place = path.with_name("config.json")
        raise ConfigError(f"{error} in {place}, or move that away if it is another model's") from error


def _of_family(family: str, given: Preprocessing) -> Preprocessing:
    """What a family's released models have, at another size and normalisation."""
    assumed = _ASSUMED[family]
    height, width = given.size
    if height % assumed.multiple or width % assumed.multiple:
        raise ConfigError(f"the input's size is {width}×{height}, expected multiples of {assumed.multiple}")
    longest = None if assumed.longest is None else round(assumed.longest / assumed.size[0] * min(given.size))
    return dataclasses.replace(
        assumed,
        size=given.size,
        size_range=(min(given.size) // 2, longest or max(given.size) * 3 // 2),
        mean=given.mean,
        std=given.std,
        longest=longest,
        two_scale=assumed.two_scale if given.size == assumed.size else None,
    )


def _known(path: Path) -> ModelSpec | None:
    """The catalogue's row of the file with the same hash, wherever it has been copied to."""
    from decoupe.weights.download import sha256_of

    actual = sha256_of(path)
    return next((row for row in CATALOGUE.values() if row.sha256 == actual), None)


def _check_fit(path: Path, model: nn.Module, state: Mapping[str, Tensor], family: str) -> None:
    """Raise one line that names what is missing, left over or of another shape."""
    from decoupe.weights.naming import some

    expected = model.state_dict()
    both = [name for name in expected if name in state]
    misshapen = [name for name in both if state[name].shape != expected[name].shape]
    floats = {name: tensor.is_floating_point() for name, tensor in expected.items()}
    faults = {
        "missing": [name for name in expected if name not in state],
        "left over": [name for name in state if name not in expected],
        "of another shape": misshapen,
        "of another kind of number": [n for n in both if state[n].is_floating_point() != floats[n]],
    }
    told = [f"{len(names)} tensors {fault} ({some(names)})" for fault, names in faults.items() if names]
    if told:
        raise CheckpointError(f"{path} does not fit its own configuration of {family}: {', '.join(told)}")


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Every tensor, or array, by name; and decoupe's metadata where decoupe wrote the file."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights file {path}: {error.strerror}") from error
    suffix = path.suffix.lower()
    if suffix in (".onnx", ".pt2"):
        raise CheckpointError(f"{path} is an exported model, not PyTorch weights: use decoupe.load")
    try:
        if suffix == ".pkl" and not start.startswith(b"PK"):
            from decoupe.weights.detectron import read_pkl

            return read_pkl(path), None
        if start[8:9] == b"{":  # a safetensors file begins with the length of a JSON header, in 8 bytes
            return _read_safetensors(path)
        if start.startswith((b"PK", b"\x80")):  # torch.save: a zip, or the pickle of releases before 1.6
            return _read_pickle(path, mmap=start.startswith(b"PK")), None
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading {path.name}", "torch") from error
    raise CheckpointError(f"{path} is not a weights file: expected .safetensors or .pth (torch.save)")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise CheckpointError(_DAMAGED.format(path=path)) from error
    own = metadata.get(_METADATA_KEY)
    return state, None if own is None else _parsed(own, path)


def _parsed(written: str, path: Path) -> dict[str, Any]:
    """The metadata that `save_model` wrote."""
    try:
        metadata = json.loads(written)
        required = {key: metadata[key] for key in ("family", "config", "preprocessing", "version")}
        optional = {"vocabulary": {"names": ()}, "licence": "", "extra": {}}
        return {**required, **{key: metadata.get(key, none) for key, none in optional.items()}}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} holds damaged metadata of decoupe ({error}): copy or download it again"
        ) from error


def _read_pickle(path: Path, *, mmap: bool) -> dict[str, Tensor]:
    """Tensors only: torch refuses whatever would run code."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which is refused right after
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        if re.search(r"GLOBAL|reduce|TorchScript|Unsupported class", str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors, loading it would run its code: "
                "save its state_dict() alone with torch.save, or as .safetensors"
            ) from error
        raise CheckpointError(_DAMAGED.format(path=path)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict of tensors by name")
    return content


def _as_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples; the dataclasses have no lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
