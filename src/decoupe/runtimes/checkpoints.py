"""Checkpoints computed by PyTorch. Importing this does not import it."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from decoupe.arrays import Floats
from decoupe.errors import DeviceError, ModelError
from decoupe.memory import Footprint
from decoupe.runtimes.sessions import sentence_of
from decoupe.weights import registry
from decoupe.weights.registry import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from decoupe.weights.checkpoint import LoadedModel

LOWERED = {("cpu", "bfloat16"), ("cuda", "bfloat16"), ("cuda", "float16")}
"""Kinds of device and precisions in which a fused model holds the weights of its products."""
EXACT = ("inspyrenet", "efficientnet")
"""Families and backbones, by what their names begin with, that ``"auto"`` computes in float32. InSPyReNet's
attention magnifies what is rounded off, with random weights beyond use; what that does to trained ones was
not measured. On EfficientNet-Lite, bfloat16 changes some mattes by half of their range, as
``benchmarks/precision.py`` shows."""

Images: TypeAlias = npt.NDArray[Any]
"""What a runtime takes, see `decoupe.runtimes.Runtime`: float32, or uint8."""


class _TorchModel:
    """What both kinds of torch runtime share: a module on a device, and one way to compute with it.

    Args:
        loaded: the model and how to feed it.
        again: loads it once more, for `_exact`.
        name: what to call it.
        device: where it computes.
        dtype: see `torch_dtype` for ``"auto"``.
            Below float32 the model runs under autocast, and in float16 a picture whose result is not finite
            is computed again in float32: bfloat16 has no smaller range.
        fuse: whether to make it faster by `decoupe.models.fuse.fuse`.
        compiled: whether to compile it, see `decoupe.models.compiled`.
    """

    engine = "PyTorch"
    normalises = True

    def __init__(
        self,
        loaded: LoadedModel,
        again: Callable[[], LoadedModel],
        name: str,
        device: torch.device,
        dtype: str,
        *,
        fuse: bool,
        compiled: bool,
    ) -> None:
        self._again = again
        self._device = device
        self.name = name
        self.device = str(device)
        self.dtype = torch_dtype(dtype, device, loaded.family, getattr(loaded.config, "backbone", ""))
        self.preprocessing: Preprocessing = loaded.preprocessing
        self.notes = tuple(loaded.notes)
        self._footprint: Footprint | None = None
        self.module = loaded.model.to(device).eval()
        self._lowered = fuse and (device.type, self.dtype) in LOWERED
        if fuse:
            import torch

            from decoupe.models import fuse as fusion

            fusion.fuse(self.module)
            if self._lowered:
                fusion.lower(self.module, getattr(torch, self.dtype))
        self._compute: Callable[..., Any] = self.module
        if compiled:
            from decoupe.models.compiled import Compiled

            self._compute = Compiled(self.module, name)

    def footprint(self) -> Footprint:
        """What computing takes beside the weights: two small pictures tell, once."""
        if self._footprint is None:
            import torch

            from decoupe.models.footprint import footprint

            def run(side: int) -> None:
                with torch.inference_mode():
                    image = torch.zeros(1, 3, side, side, device=self._device)
                    self._computed(self.module, lambda out: (), [image], self.dtype)

            multiple = self.preprocessing.multiple
            # InSPyReNet pools context at a size of its own: what is taken for less than half of that tells
            # nothing of larger pictures.
            pooled = min(getattr(self.module.config, "base_size", (0,)))
            least = -(-max(256, pooled // 2) // multiple) * multiple
            self._footprint = footprint(self.module, run, (least, least + 4 * multiple))
        return self._footprint

    def _outputs(self, read: Callable[[Any], tuple[torch.Tensor, ...]], *inputs: Images) -> list[Floats]:
        """What ``read`` takes out of the module's output for a batch, as float32 arrays."""
        import torch

        try:
            with torch.inference_mode():
                batch = [self._fed(images) for images in inputs]
                found = self._computed(self._compute, read, batch, self.dtype)
                # One picture at a time, so that none is computed differently for its neighbours' sake.
                for index in range(len(batch[0]) if self.dtype == "float16" else 0):
                    if not all(bool(torch.isfinite(tensor[index]).all()) for tensor in found):
                        alone = [images[index : index + 1] for images in batch]
                        exact = self._computed(self._exact, read, alone, "float32")
                        for tensor, row in zip(found, exact, strict=True):
                            tensor[index] = row[0]
                return [tensor.cpu().numpy() for tensor in found]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size = "×".join(map(str, inputs[0].shape))
            raise ModelError(
                f"{self.name} has not enough memory for {size} images on {self.device} "
                f"({sentence_of(error)}): choose a smaller size, or another device"
            ) from None

    def _fed(self, images: Images) -> torch.Tensor:
        """A batch on the device, normalised ``(N, 3, H, W)``, to the bit as `to_network` normalises."""
        import torch

        batch = torch.from_numpy(images)
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self._device, non_blocking=True)
        if batch.dtype != torch.uint8:
            return batch
        # By tensors: CUDA divides by a number with its reciprocal.
        values = (255.0, 255.0, 255.0), self.preprocessing.mean, self.preprocessing.std
        full, mean, std = (torch.tensor(three, device=self._device).view(3, 1, 1) for three in values)
        return batch.permute(0, 3, 1, 2).contiguous().div(full).sub_(mean).div_(std)

    @functools.cached_property
    def _exact(self) -> Callable[..., Any]:
        """What computes in float32; loaded again where the weights have been rounded."""
        if not self._lowered:
            return self.module
        from decoupe.models.fuse import fuse

        return fuse(self._again().model.to(self._device))

    def _computed(
        self,
        compute: Callable[..., Any],
        read: Callable[[Any], tuple[torch.Tensor, ...]],
        batch: Sequence[torch.Tensor],
        dtype: str,
    ) -> tuple[torch.Tensor, ...]:
        import torch

        with torch.autocast(self._device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            found = read(compute(*batch))
        return tuple(tensor.float() for tensor in found)


class TorchRuntime(_TorchModel):
    """A checkpoint of a matte model computed by PyTorch; `open_runtime` makes one."""

    def __call__(self, images: Images, low: Images | None = None) -> Floats:
        """Images -> alpha ``(N, 1, H, W)`` in [0, 1]; see `Runtime`."""
        import torch

        inputs = [images] if low is None else [images, low]
        (logits,) = self._outputs(lambda out: (out.logits,), *inputs)
        alpha: Floats = torch.from_numpy(logits).sigmoid().numpy()
        return alpha


class TorchSegmentRuntime(_TorchModel):
    """A checkpoint of a segment model computed by PyTorch; `open_runtime` makes one."""

    def __init__(self, loaded: LoadedModel, *args: Any, **options: Any) -> None:
        super().__init__(loaded, *args, **options)
        self.vocabulary = loaded.vocabulary

    def __call__(self, images: Images) -> tuple[Floats, Floats]:
        """Images -> class and mask logits; see `SegmentRuntime`."""
        classes, masks = self._outputs(lambda out: (out.class_logits, out.mask_logits), images)
        return classes, masks


def open_torch(
    model: str,
    device: str,
    dtype: str,
    fuse: bool,
    compiled: bool,
    preprocessing: Preprocessing | None,
) -> TorchRuntime | TorchSegmentRuntime:
    """A checkpoint opened as what it gives; the arguments are those of `decoupe.runtimes.open_runtime`."""
    from decoupe.weights import load_model, require_torch

    # Huge pages where the system leaves them to the program: 10 times fewer page faults; pvt_v2_b0 at
    # 512² on one thread takes 1.25 s, not 1.36 s, with the same peak memory. Read when PyTorch starts.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    require_torch(f"the model {model!r}")
    _survive_forks()
    chosen = _torch_device(device)
    load = functools.partial(load_model, model, preprocessing)
    loaded = load()
    kind = TorchSegmentRuntime if loaded.family in registry.SEGMENT_FAMILIES else TorchRuntime
    return kind(loaded, load, model, chosen, dtype, fuse=fuse, compiled=compiled)


@functools.cache
def _survive_forks() -> None:
    """Let PyTorch compute on one thread in forked processes, as its own loaders do: it would wait for ever.

    OpenMP's other threads are not forked, and it does not know.
    """
    import torch

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


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
        # Of a word that is none PyTorch lists the twenty that it knows, most for makers of hardware.
        reason = "no such device" if "one of cpu, " in str(error) else sentence_of(error)
        raise DeviceError(f"device {device!r} cannot be used here ({reason}): use 'cpu', or 'auto'") from None
    if chosen.type == "meta":
        raise DeviceError("device 'meta' computes nothing: use 'cpu', or 'auto'")
    return chosen


def torch_dtype(dtype: str, device: torch.device, *parts: str) -> str:
    """The precision that ``dtype`` means on a device: ``"auto"`` is the fastest that keeps alpha.

    That is float16 on CUDA, bfloat16 on CPUs that compute in it, and float32 elsewhere and for `EXACT`.

    Args:
        dtype: ``"auto"``, or a precision, which is taken as it is.
        device: that computes.
        parts: names of the model's family and backbone, where a model is meant.
    """
    if dtype == "auto":
        if any(part.startswith(EXACT) for part in parts):
            return "float32"
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if device.type == "cpu" and _computes_in_bfloat16() else "float32"
    return dtype


def _computes_in_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own: others are slower in it."""
    import torch

    able = torch.cpu.get_capabilities()
    # Without oneDNN, as on Macs, PyTorch has loops of its own, which are slower than float32.
    used: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return used and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch had not enough memory: on CUDA it has an error for that, elsewhere a sentence."""
    import torch

    # "can't allocate memory" on Linux and macOS, "not enough memory" on Windows, "out of memory" on MPS.
    said = re.search(r"allocate memory|not enough memory|out of memory|Invalid buffer size", str(error))
    return isinstance(error, torch.OutOfMemoryError) or said is not None
