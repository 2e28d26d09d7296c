"""What computes: PyTorch and ONNX Runtime behind one protocol. Importing this imports neither."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from decoupe.errors import (
    CheckpointError,
    DeviceError,
    InputError,
    ModelError,
    UnknownModelError,
    unknown,
)
from decoupe.memory import Footprint
from decoupe.weights import download, registry
from decoupe.weights.labels import Vocabulary
from decoupe.weights.own import resolved
from decoupe.weights.registry import ModelSpec, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime
    import torch

    from decoupe.weights.checkpoint import LoadedModel

Floats = npt.NDArray[np.float32]

RUNTIMES = ("onnx", "torch")
DTYPES = ("float32", "bfloat16", "float16")

ONNX_BYTES = 2500
"""Per pixel of the input, which ONNX Runtime takes at most for a model that decoupe exported."""


class OpenModel(Protocol):
    """A model that is ready to compute, whatever it gives.

    Attributes:
        name: the model's name, or its file's.
        device: where it computes, as ``"cpu"`` or ``"cuda:0"``.
        dtype: the precision it computes in, one of `DTYPES`.
        preprocessing: how a picture becomes its input.
        notes: what had to be assumed or inferred in opening it, one line each.
    """

    name: str
    device: str
    dtype: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]

    def footprint(self) -> Footprint:
        """What computing takes beside the weights; measured when it is first asked for."""
        ...


@runtime_checkable
class Runtime(OpenModel, Protocol):
    """A model that gives mattes; the attributes are those of `OpenModel`."""

    def __call__(self, images: Floats, low: Floats | None = None) -> Floats:
        """Alpha of a batch.

        Args:
            images: normalised, ``(N, 3, H, W)``.
            low: the same pictures at the model's own size, ``(N, 3, h, w)``, for models that look twice.

        Returns:
            Alpha ``(N, 1, H, W)`` in [0, 1].
        """
        ...


@runtime_checkable
class SegmentRuntime(OpenModel, Protocol):
    """A model that gives segments; the attributes are those of `OpenModel`.

    Attributes:
        vocabulary: the names of its K classes.
    """

    vocabulary: Vocabulary

    def __call__(self, images: Floats) -> tuple[Floats, Floats]:
        """Normalised images ``(N, 3, H, W)`` -> class logits ``(N, Q, K + 1)``, masks ``(N, Q, h, w)``."""
        ...


class OnnxRuntime:
    """An ``.onnx`` file computed by ONNX Runtime.

    decoupe's own files hold their preprocessing. Any other file with one image input and one mask output is
    taken as well: its size is read from its input shape, its normalisation is assumed to be ImageNet's, and
    masks that leave [0, 1] are taken for logits; `notes` says so.

    Args:
        path: the file.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``, the latter also with an index.
        name: what to call it; None is the name in the file, or the file's.

    Raises:
        CheckpointError: no readable ONNX file, or not one image in and one mask out.
        DeviceError: a device that the installed ONNX Runtime does not have.
    """

    dtype = "float32"

    def __init__(self, path: Path, *, device: str = "auto", name: str | None = None) -> None:
        self.session = _open_session(path, device)
        cuda = "CUDAExecutionProvider" in self.session.get_providers()
        self.device = f"cuda:{device.partition(':')[2] or 0}" if cuda else "cpu"
        if device.startswith("cuda") and not cuda:
            raise DeviceError(
                f"device {device!r} could not be started by ONNX Runtime: check the CUDA driver, or use 'cpu'"
            )
        self._input, self._output = _ports(self.session, path)
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.name = name or metadata.get("decoupe.name") or path.stem
        self.preprocessing, self.notes = _onnx_preprocessing(metadata, self._input.shape, path)
        self._foreign = bool(self.notes)

    def __call__(self, images: Floats, low: Floats | None = None) -> Floats:
        """Normalised images ``(N, 3, H, W)`` -> alpha ``(N, 1, H, W)`` in [0, 1]; they are seen once."""
        del low
        _check_fixed(self._input.shape, images.shape)
        step = 1 if self._input.shape[0] == 1 else len(images)
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        alpha = np.concatenate([self._run(part) for part in parts]).astype(np.float32, copy=False)
        return _logits_to_alpha(alpha) if self._foreign else alpha

    def footprint(self) -> Footprint:
        """More than any file of decoupe takes; with a fixed size there is nothing to choose."""
        fixed = any(isinstance(side, int) for side in self._input.shape[2:])
        return Footprint(0, 0 if fixed else ONNX_BYTES)

    def _run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        try:
            masks: npt.NDArray[Any] = self.session.run([self._output.name], {self._input.name: images})[0]
        except _onnx_errors() as error:
            size = "×".join(map(str, images.shape))
            raise ModelError(
                f"{self.name} cannot compute {size} images ({_first_line(error)}): change size"
            ) from None
        if masks.ndim not in (3, 4) or masks.size != len(images) * masks.shape[-2] * masks.shape[-1]:
            raise CheckpointError(
                f"{self.name} gives {masks.shape}, expected one mask (N, 1, H, W) a picture"
            )
        return masks.reshape(len(images), 1, *masks.shape[-2:])


class _TorchModel:
    """What both kinds of torch runtime share: a module on a device, and one way to compute with it.

    Args:
        loaded: the model and how to feed it.
        name: what to call it.
        device: where it computes.
        dtype: ``"auto"`` is float16 on CUDA, bfloat16 on CPUs that compute in it and float32 elsewhere.
            Below float32 the model runs under autocast, and in float16 a picture whose result is not finite
            is computed again in float32: bfloat16 has no smaller range.
        fuse: whether to make it faster by `decoupe.models.fuse.fuse`.
    """

    def __init__(
        self, loaded: LoadedModel, name: str, device: torch.device, dtype: str, *, fuse: bool = True
    ) -> None:
        self._device = device
        self.name = name
        self.device = str(device)
        self.dtype = torch_dtype(dtype, device)
        self.preprocessing: Preprocessing = loaded.preprocessing
        self.notes = tuple(loaded.notes)
        self._footprint: Footprint | None = None
        self.module = loaded.model.to(device).eval()
        if fuse:
            import torch

            from decoupe.models import fuse as fusion

            fusion.fuse(self.module)
            if device.type == "cpu" and self.dtype == "bfloat16":
                fusion.lower(self.module, torch.bfloat16)

    def footprint(self) -> Footprint:
        """What computing takes beside the weights: two small pictures tell, once."""
        if self._footprint is None:
            import torch

            from decoupe.models.footprint import footprint

            def run(side: int) -> None:
                with torch.inference_mode():
                    image = torch.zeros(1, 3, side, side, device=self._device)
                    self._computed(lambda out: (), [image], self.dtype)

            multiple = self.preprocessing.multiple
            least = -(-256 // multiple) * multiple
            self._footprint = footprint(self.module, run, (least, least + 4 * multiple))
        return self._footprint

    def _outputs(self, read: Callable[[Any], tuple[torch.Tensor, ...]], *inputs: Floats) -> list[Floats]:
        """What ``read`` takes out of the module's output for a batch, as float32 arrays."""
        import torch

        try:
            with torch.inference_mode():
                batch = [torch.from_numpy(images).to(self._device) for images in inputs]
                found = self._computed(read, batch, self.dtype)
                # One picture at a time, so that none is computed differently for its neighbours' sake.
                for index in range(len(batch[0]) if self.dtype == "float16" else 0):
                    if not all(bool(torch.isfinite(tensor[index]).all()) for tensor in found):
                        alone = [images[index : index + 1] for images in batch]
                        exact = self._computed(read, alone, "float32")
                        for tensor, row in zip(found, exact, strict=True):
                            tensor[index] = row[0]
                return [tensor.cpu().numpy() for tensor in found]
        except torch.OutOfMemoryError as error:
            size = "×".join(map(str, inputs[0].shape))
            raise ModelError(
                f"{self.name} has not enough memory for {size} images on {self.device} "
                f"({_first_line(error)}): choose a smaller size, or another device"
            ) from None

    def _computed(
        self, read: Callable[[Any], tuple[torch.Tensor, ...]], batch: Sequence[torch.Tensor], dtype: str
    ) -> tuple[torch.Tensor, ...]:
        import torch

        with torch.autocast(self._device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            found = read(self.module(*batch))
        return tuple(tensor.float() for tensor in found)


class TorchRuntime(_TorchModel):
    """A checkpoint of a matte model computed by PyTorch; `open_runtime` makes one."""

    def __call__(self, images: Floats, low: Floats | None = None) -> Floats:
        """Normalised images ``(N, 3, H, W)`` -> alpha ``(N, 1, H, W)`` in [0, 1]; see `Runtime`."""
        import torch

        inputs = [images] if low is None else [images, low]
        (logits,) = self._outputs(lambda out: (out.logits,), *inputs)
        alpha: Floats = torch.from_numpy(logits).sigmoid().numpy()
        return alpha


class TorchSegmentRuntime(_TorchModel):
    """A checkpoint of a segment model computed by PyTorch; `open_runtime` makes one."""

    def __init__(
        self, loaded: LoadedModel, name: str, device: torch.device, dtype: str, *, fuse: bool = True
    ) -> None:
        super().__init__(loaded, name, device, dtype, fuse=fuse)
        self.vocabulary = loaded.vocabulary

    def __call__(self, images: Floats) -> tuple[Floats, Floats]:
        """Normalised images ``(N, 3, H, W)`` -> class and mask logits; see `SegmentRuntime`."""
        classes, masks = self._outputs(lambda out: (out.class_logits, out.mask_logits), images)
        return classes, masks


def _open_torch(model: str, device: str, dtype: str, fuse: bool) -> TorchRuntime | TorchSegmentRuntime:
    from decoupe.weights import load_model, require_torch

    # Huge pages where the system leaves them to the program: 10 times fewer page faults; pvt_v2_b0 at
    # 512² on one thread takes 1.25 s, not 1.36 s, with the same peak memory. Read when PyTorch starts.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    spec = find_spec(model)
    command = "segment" if spec is not None and spec.family in registry.SEGMENT_FAMILIES else "cut"
    require_torch(f"decoupe {command} -m {model}")
    chosen = _torch_device(device)
    loaded = load_model(model)
    if loaded.family in registry.SEGMENT_FAMILIES:
        return TorchSegmentRuntime(loaded, model, chosen, dtype, fuse=fuse)
    return TorchRuntime(loaded, model, chosen, dtype, fuse=fuse)


def open_runtime(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    fuse: bool = True,
) -> Runtime | SegmentRuntime:
    """Open a model for computing.

    Args:
        model: a path (``.onnx``, ``.safetensors``, ``.pth``), a name in the catalogue or of `own_models`, a
            hub id ``owner/name``, or None for the embedded default.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` takes the fastest there is.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``; None or ``"auto"`` chooses by device.
        runtime: ``"onnx"`` or ``"torch"``; None or ``"auto"`` follows from the model.
        fuse: compute a checkpoint in its equal, faster form (`decoupe.models.fuse`).

    Raises:
        UnknownModelError: no such name or file.
        InputError: a runtime that cannot compute this model, or ``fuse=False`` for an ``.onnx`` file.
        DeviceError: a device or precision that this machine does not have.
        MissingExtraError: the model needs PyTorch, which is not installed.
        ModelError: the weights cannot be had or read.
    """
    model = resolved(model)
    spec = find_spec(model)
    kind = _runtime_of(spec.file if spec is not None else str(model))
    _check_choice("runtime", runtime, RUNTIMES)
    _check_choice("dtype", dtype, DTYPES)
    if runtime not in (None, "auto", kind):
        remedy = "give its checkpoint instead" if kind == "onnx" else "export it to .onnx first"
        raise InputError(
            f"model {str(model)!r} runs on {kind}, not on {runtime}: {remedy}, or leave runtime out"
        )
    if kind == "torch":
        return _open_torch(str(model), device or "auto", dtype or "auto", fuse)
    if not fuse:
        raise InputError(
            f"{model or 'the embedded model'} is an ONNX file, fused as it was written: leave fuse out"
        )
    if dtype not in (None, "auto", "float32"):
        raise DeviceError(f"dtype {dtype} was asked for, ONNX files compute in float32: leave dtype out")
    if spec is not None:
        return OnnxRuntime(download.fetch(spec), device=device or "auto", name=spec.name)
    return OnnxRuntime(Path(str(model)), device=device or "auto")


def find_spec(model: str | os.PathLike[str] | None) -> ModelSpec | None:
    """The catalogue's row for ``model``; None where it is a file.

    Raises:
        UnknownModelError: neither a file, a name nor a hub id; the message suggests the nearest name.
    """
    model = resolved(model)
    if model is None:
        return registry.spec(registry.DEFAULT_MODEL)
    path, name = Path(model), os.fspath(model)
    if path.is_file():
        return None
    if path.is_dir() and name not in registry.CATALOGUE:
        if registry.weights_in(path) is None:
            raise UnknownModelError(f"{path} is a folder: name the .onnx, .safetensors or .pth file in it")
        return None
    if path.suffix in registry.WEIGHTS_SUFFIXES:
        raise UnknownModelError(f"model file {path} does not exist: check the path")
    return registry.spec(name)


def _runtime_of(file: str) -> str:
    return "onnx" if file.endswith(".onnx") else "torch"


def _check_choice(kind: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in (*known, "auto"):
        raise InputError(unknown(kind, value, ("auto", *known)))


def _open_session(path: Path, device: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As fast without, and memory of one large picture is given back, not held for the process's life.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Threads that spin between pictures take the cores from decoding and writing them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        # Its own fallback prints to standard output, where a picture may be going.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except _onnx_errors() as error:
        reason = _first_line(error)
        if device == "auto" and len(providers) > 1:
            return _open_session(path, "cpu")  # CUDA is installed and does not work
        if len(providers) > 1:
            raise DeviceError(
                f"device {device!r} cannot be used by ONNX Runtime ({reason}): check the driver, or use 'cpu'"
            ) from None
        raise CheckpointError(f"{path} is not a usable ONNX model ({reason}): export it again") from None


def _first_line(error: Exception) -> str:
    # ONNX Runtime puts its name and a code before the sentence, with colons between.
    return str(error).partition("\n")[0].rpartition(" : ")[2][:200].rstrip(". ")


def _onnx_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions, which share no base class; each release names some more."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    named = (kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return RuntimeError, ValueError, *named


def _providers(device: str, available: list[str]) -> list[str | tuple[str, dict[str, str]]]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device {device!r} is not one of ONNX Runtime's here: use 'auto', 'cpu' or 'cuda'")
    cuda = "CUDAExecutionProvider" in available
    if kind == "cuda" and not cuda:
        raise DeviceError(
            f"device {device!r} is not available to ONNX Runtime here: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu; or use device 'cpu'"
        )
    if kind == "cpu" or not cuda:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]


def _ports(session: onnxruntime.InferenceSession, path: Path) -> tuple[Any, Any]:
    """The one image input and the one mask output of a file, named and shaped."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] in (1, 2, 4):
        raise CheckpointError(f"{path} takes {_described(inputs)}; expected one image input (N, 3, H, W)")
    if inputs[0].type != "tensor(float)":
        raise CheckpointError(f"{path} takes {inputs[0].type}, expected float32: export it in float32")
    batch = inputs[0].shape[0]
    if isinstance(batch, int) and batch != 1:
        raise CheckpointError(
            f"{path} takes {batch} images at a time, expected 1 or any number: export it again"
        )
    shape = outputs[0].shape
    several = len(shape) == 4 and isinstance(shape[1], int) and shape[1] != 1
    if len(outputs) != 1 or len(shape) not in (3, 4) or several:
        raise CheckpointError(f"{path} gives {_described(outputs)}; expected one mask output (N, 1, H, W)")
    return inputs[0], outputs[0]


def _described(ports: list[Any]) -> str:
    return ", ".join(f"{port.name} {port.shape}" for port in ports)


def _onnx_preprocessing(
    metadata: dict[str, str], shape: list[int | str | None], path: Path
) -> tuple[Preprocessing, tuple[str, ...]]:
    """How a picture becomes the input: from the metadata of decoupe's files, else from the input's shape."""
    written = metadata.get("decoupe.preprocessing")
    if written is not None:
        return _parsed_preprocessing(written, path), ()
    height, width = ((side if isinstance(side, int) else 1024) for side in shape[2:])
    notes = (
        f"{path.name} holds no preprocessing of decoupe's",
        f"assumed: size {width}×{height}, stretched, ImageNet mean and std; values outside [0, 1] are logits",
    )
    fixed = all(isinstance(side, int) for side in shape[2:])
    return Preprocessing(size=(height, width), multiple=1 if fixed else 32), notes


def _parsed_preprocessing(written: str, path: Path) -> Preprocessing:
    try:
        values: dict[str, Any] = json.loads(written)
        return Preprocessing(**{key: _frozen(value) for key, value in values.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} holds metadata decoupe.preprocessing that cannot be used ({error}): export it again"
        ) from None


def _frozen(value: Any) -> Any:
    """A JSON list as the tuple it was written from."""
    return tuple(value) if isinstance(value, list) else value


def _check_fixed(expected: list[int | str | None], shape: tuple[int, ...]) -> None:
    """Refuse images of another size than a file with a fixed one takes."""
    if any(
        isinstance(side, int) and side != given for side, given in zip(expected[2:], shape[2:], strict=True)
    ):
        raise InputError(
            f"the model takes {expected[3]}×{expected[2]} only, not {shape[3]}×{shape[2]}: leave size out, "
            "or export it with dynamic sizes"
        )


def _logits_to_alpha(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Masks ``(N, 1, H, W)``, each alpha already or logits, as alpha; decided for each by itself."""
    least, most = masks.min(axis=(1, 2, 3), keepdims=True), masks.max(axis=(1, 2, 3), keepdims=True)
    with np.errstate(over="ignore"):
        squashed = 1 / (1 + np.exp(-masks))
    return np.where((least < -1e-3) | (most > 1 + 1e-3), squashed, masks.clip(0, 1))


def _torch_device(device: str) -> torch.device:
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        # Only a tensor on it shows that the device can really be used.
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _first_line(error)
        raise DeviceError(f"device {device!r} cannot be used here ({reason}): use 'cpu', or 'auto'") from None
    if chosen.type == "meta":
        raise DeviceError("device 'meta' computes nothing: use 'cpu', or 'auto'")
    return chosen


def torch_dtype(dtype: str, device: torch.device) -> str:
    """The precision that ``dtype`` means on a device: ``"auto"`` is the fastest that keeps alpha."""
    if dtype == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if device.type == "cpu" and _computes_in_bfloat16() else "float32"
    return dtype


def _computes_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own: others are slower in it."""
    import torch

    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
