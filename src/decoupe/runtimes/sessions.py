"""Exported files opened by what computes them. Importing this imports none of the runtimes."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from decoupe.cores import model_threads
from decoupe.errors import CheckpointError, DeviceError, InstallationError, MissingExtraError, ModelError
from decoupe.telemetry import import_onnxruntime, import_openvino
from decoupe.weights import require_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime

OPENVINO_SUFFIX = ".xml"
PROGRAM_SUFFIX = ".pt2"
_OPENVINO_KEYS = ("family", "licence", "name", "preprocessing", "version", "vocabulary")
PROGRAM_METADATA = "decoupe.json"
"""What a program's file calls decoupe's metadata."""
_LATER = re.compile(r"Opset \d+ is under development|Unsupported model IR version: \d+")


@dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Attributes:
        name: of the port.
        shape: a number for each fixed side, anything else for a free one.
        type: of its elements, as ``float32``.
    """

    name: str
    shape: tuple[int | str | None, ...]
    type: str

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}"


class Session(Protocol):
    """An open file, whatever computes it.

    Attributes:
        engine: what does, as its makers call it.
        inputs: what it takes.
        outputs: what it gives.
        metadata: what it tells of itself.
        device: where it computes, as ``"cpu"`` or ``"cuda:0"``.
    """

    @property
    def engine(self) -> str: ...  # noqa: D102 - see above
    @property
    def inputs(self) -> Sequence[Port]: ...  # noqa: D102
    @property
    def outputs(self) -> Sequence[Port]: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Arrays by the names of inputs -> outputs in order.

        Raises:
            ModelError: they cannot be computed.
        """
        ...


class OrtSession:
    """An ``.onnx`` file opened by ONNX Runtime.

    Raises:
        CheckpointError: no readable ONNX file.
        DeviceError: a device that the installed ONNX Runtime does not have.
    """

    engine = "ONNX Runtime"

    def __init__(self, path: Path, device: str) -> None:
        self._session = _open_session(path, device)
        self._settings = returning_memory()
        cuda = "CUDAExecutionProvider" in self._session.get_providers()
        self.device = f"cuda:{device.partition(':')[2] or 0}" if cuda else "cpu"
        if device.startswith("cuda") and not cuda:
            raise DeviceError(
                f"device {device!r} could not be started by ONNX Runtime: check the CUDA driver, or use 'cpu'"
            )
        self.inputs = [_port(each) for each in self._session.get_inputs()]
        self.outputs = [_port(each) for each in self._session.get_outputs()]
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """See `Session`."""
        try:
            found: list[npt.NDArray[Any]] = self._session.run(None, feeds, self._settings)
        except _onnx_errors() as error:
            # It says so behind names of its files and functions.
            short = "allocate memory" in str(error)
            raise ModelError("not enough memory" if short else sentence_of(error)) from None
        return found


class OpenVinoSession:
    """An ``.xml`` file of OpenVINO's intermediate representation, on the CPU.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: no readable file.
        DeviceError: another device than the CPU.
    """

    engine = "OpenVINO"
    device = "cpu"

    def __init__(self, path: Path, device: str) -> None:
        try:
            openvino = import_openvino()
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"the model {path}", "openvino") from error
        except ImportError as error:
            raise InstallationError("openvino", error) from error
        if device not in ("auto", "cpu"):
            raise DeviceError(f"OpenVINO does not run on device {device!r} here: use 'auto' or 'cpu'")
        try:
            model = openvino.Core().read_model(path)
            # Its own choice would be bfloat16 where the processor has it.
            self._compiled = openvino.Core().compile_model(
                model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} is not a usable OpenVINO model ({sentence_of(error)}): export it again"
            ) from None
        self.inputs = [_openvino_port(each) for each in model.inputs]
        self.outputs = [_openvino_port(each) for each in model.outputs]
        kept = [["decoupe", key] for key in _OPENVINO_KEYS if model.has_rt_info(["decoupe", key])]
        self.metadata = {".".join(key): model.get_rt_info(key).astype(str) for key in kept}

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """See `Session`."""
        try:
            found = self._compiled(feeds)
        except RuntimeError as error:
            raise ModelError(sentence_of(error)) from None
        return [found[port].copy() for port in self._compiled.outputs]


class ProgramSession:
    """A ``.pt2`` file of `torch.export`, on the CPU.

    Opening one runs code of its maker's where he put some in: `torch.export.load` unpickles what is no
    tensor and evaluates sizes that are written as text. Whoever asks for it has to trust the file.

    Raises:
        MissingExtraError: PyTorch is not installed.
        CheckpointError: no readable file, or one that PyTorch's release cannot read.
        DeviceError: another device than the CPU.
    """

    engine = "torch.export"
    device = "cpu"

    def __init__(self, path: Path, device: str) -> None:
        require_torch(f"the model {path}")
        import torch
        import torchvision  # noqa: F401 - registers deformable convolution

        from decoupe.backbones import swin_operators

        if device not in ("auto", "cpu"):
            raise DeviceError(f"programs do not run on device {device!r}: use 'auto' or 'cpu'")
        swin_operators.register()
        extra = {PROGRAM_METADATA: ""}
        try:
            with path.open("rb") as file, _silent("torch.export"):
                program = torch.export.load(file, extra_files=extra)
            self._module = program.module()
            self.metadata: Mapping[str, str] = json.loads(extra[PROGRAM_METADATA] or "{}")
        except Exception as error:  # whatever a broken zip, pickle or graph makes it raise
            raise CheckpointError(
                f"{path} is not a usable program of torch.export ({sentence_of(error)}): export it again"
            ) from None
        names = set(program.graph_signature.user_inputs)
        self.inputs = [_program_port(node) for node in program.graph.nodes if node.name in names]
        self.outputs = [_program_port(node) for node in program.graph.output_node().args[0]]

    def run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """See `Session`."""
        import torch

        try:
            with torch.inference_mode():
                found = self._module(*(torch.from_numpy(feeds[port.name]) for port in self.inputs))
        except (AssertionError, RuntimeError) as error:  # sizes that it was not made for; whatever fails
            raise ModelError(sentence_of(error)) from None
        return [each.numpy() for each in ([found] if isinstance(found, torch.Tensor) else found)]


def open_session(path: Path, device: str) -> Session:
    """The file opened by what its ending names."""
    if path.suffix.lower() == OPENVINO_SUFFIX:
        return OpenVinoSession(path, device)
    if path.suffix.lower() == PROGRAM_SUFFIX:
        return ProgramSession(path, device)
    return OrtSession(path, device)


def _port(port: Any) -> Port:
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    return Port(port.name, tuple(port.shape), {"float": "float32"}.get(kind, kind))


def _openvino_port(port: Any) -> Port:
    sides = tuple(side.get_length() if side.is_static else "?" for side in port.partial_shape)
    kinds = {"f32": "float32", "u8": "uint8"}
    kind = port.element_type.get_type_name()
    return Port(port.any_name, sides, kinds.get(kind, kind))


def _program_port(node: Any) -> Port:
    value = node.meta["val"]
    sides = tuple(side if isinstance(side, int) else str(side) for side in value.shape)
    return Port(node.name, sides, str(value.dtype).removeprefix("torch."))


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Suppress what a library logs before it raises."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def sentence_of(error: Exception) -> str:
    """The sentence in a runtime's error."""
    lines = str(error).strip().splitlines() or [""]
    # OpenVINO's comes last, after the places in its code that it went through.
    line = lines[-1] if lines[0].startswith("Exception from ") else lines[0]
    # ONNX Runtime puts its name and a code before the sentence, with colons between.
    return line.rpartition(" : ")[2][:200].rstrip(". ")


def returning_memory() -> onnxruntime.RunOptions:
    """A run whose arena is given back at its end.

    Without an arena the system is asked for each large map anew, and much of a large model's time goes by in
    page faults (`benchmarks/exporting.py --settings`); in one that is kept the largest picture stays taken.
    """
    settings = import_onnxruntime().RunOptions()
    settings.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return settings


def _open_session(path: Path, device: str) -> onnxruntime.InferenceSession:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = model_threads()  # it sees no container's limit
    # What it plans after the first picture of a size is memory that it does not give back.
    options.enable_mem_pattern = False
    # Threads that spin between pictures take the cores from decoding and writing them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        # Its own fallback prints to standard output, where a picture may be going.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except _onnx_errors() as error:
        reason = sentence_of(error)
        if device == "auto" and len(providers) > 1:
            return _open_session(path, "cpu")  # CUDA is installed and does not work
        if len(providers) > 1:
            raise DeviceError(
                f"device {device!r} cannot be used by ONNX Runtime ({reason}): check the driver, or use 'cpu'"
            ) from None
        if (later := _LATER.search(str(error))) is not None:
            raise CheckpointError(
                f"{path} is of a later ONNX than this ONNX Runtime knows ({later[0]}): upgrade onnxruntime"
            ) from None
        raise CheckpointError(f"{path} is not a usable ONNX model ({reason}): export it again") from None


def _onnx_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions, which share no base class; each release names some more."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    named = (kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return RuntimeError, ValueError, *named


def _providers(device: str, available: list[str]) -> list[str | tuple[str, dict[str, str]]]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"ONNX Runtime does not run on device {device!r} here: use 'auto', 'cpu' or 'cuda'")
    cuda = "CUDAExecutionProvider" in available
    if kind == "cuda" and not cuda:
        raise DeviceError(
            f"device {device!r} is not available to ONNX Runtime here: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu; or use device 'cpu'"
        )
    if kind == "cpu" or not cuda:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]
