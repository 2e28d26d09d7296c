"""What exported files give, whatever computes them. Importing this imports none of the runtimes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Floats
from decoupe.errors import CheckpointError, InputError, ModelError
from decoupe.memory import Footprint
from decoupe.readings import sigmoid
from decoupe.runtimes.sessions import Port, Session, open_session
from decoupe.weights.labels import Vocabulary
from decoupe.weights.registry import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

Stored = TypeVar("Stored", Preprocessing, Vocabulary)

BYTES = 2500
"""Per pixel of the input: no file that decoupe exports takes more."""


class _Exported:
    """What every opened file shares.

    Args:
        session: the open file.
        path: where it lies, for messages.
        name: what to call it; None is the name in the file, or the file's.
        preprocessing: how a picture becomes the input of a file that does not tell; None assumes it.

    Raises:
        CheckpointError: metadata, inputs or outputs that cannot be used.
        InputError: a preprocessing for a file that holds its own.
    """

    dtype = "float32"
    normalises = False
    resizes = False

    def __init__(
        self, session: Session, path: Path, name: str | None, preprocessing: Preprocessing | None
    ) -> None:
        self.session = session
        self.engine = session.engine
        self.device = session.device
        self.name = name or session.metadata.get("decoupe.name") or path.stem
        self.notes: tuple[str, ...] = ()
        self._foreign = "decoupe.preprocessing" not in session.metadata
        if self._foreign:
            self.preprocessing, self.notes = _foreign_preprocessing(
                session.inputs[0].shape, path, preprocessing
            )
        elif preprocessing is None:
            self.preprocessing = _stored(Preprocessing, "preprocessing", session, path)
        else:
            raise InputError(
                f"{path} tells its own size and normalisation: "
                "leave preprocessing out (--input-size, --mean, --std)"
            )

    def footprint(self) -> Footprint:
        """More than any file of decoupe takes; with a fixed size there is nothing to choose."""
        if self.resizes:
            return Footprint(BYTES * math.prod(self.preprocessing.size), 0)
        fixed = any(isinstance(side, int) for side in self.session.inputs[0].shape[2:])
        return Footprint(0, 0 if fixed else BYTES)

    def _run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        try:
            return self.session.run(feeds)
        except ModelError as error:
            size = "×".join(map(str, next(iter(feeds.values())).shape))
            raise ModelError(f"{self.name} cannot compute {size} images ({error}): change size") from None


class ExportedRuntime(_Exported):
    """A file that gives mattes.

    decoupe's own files hold their preprocessing. Any other file with one image input and one mask output is
    taken as well: its size is read from its input shape, its normalisation is assumed to be ImageNet's
    unless both are given, masks that leave [0, 1] are taken for logits, and those of whole numbers for 0 and
    1, or 0 to 255; `notes` says so.
    """

    def __init__(
        self, session: Session, path: Path, name: str | None, preprocessing: Preprocessing | None
    ) -> None:
        _check_matte_ports(session, path)
        super().__init__(session, path, name, preprocessing)
        if len(session.outputs) > 1:  # U²-Net and IS-Net give what their training looked at as well
            self.notes += (f"{path.name} gives {len(session.outputs)} outputs: the first is its mask",)
        self.resizes = session.metadata.get("decoupe.input") == "pixels"
        if self.resizes:
            # The file makes its own size of any picture, and normalises it.
            self.preprocessing = Preprocessing(
                self.preprocessing.size, "whole", (1, sys.maxsize), 1, (0, 0, 0), (1, 1, 1)
            )

    def __call__(self, images: Floats, low: Floats | None = None) -> Floats:
        """Normalised images ``(N, 3, H, W)`` -> alpha ``(N, 1, H, W)`` in [0, 1].

        ``low`` counts where the file takes it; others see the images once.
        """
        port = self.session.inputs[0]
        if self.resizes:
            pictures = (images.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
            return np.concatenate([self._run({port.name: picture[np.newaxis]})[0] for picture in pictures])
        _check_fixed(port.shape, images.shape)
        step = 1 if port.shape[0] == 1 else len(images)
        parts = [slice(start, start + step) for start in range(0, len(images), step)]
        alpha = np.concatenate([self._alpha(images[p], None if low is None else low[p]) for p in parts])
        return _logits_to_alpha(alpha) if self._foreign else alpha

    def _alpha(self, images: Floats, low: Floats | None) -> Floats:
        first, *second = self.session.inputs
        feeds: dict[str, npt.NDArray[Any]] = {first.name: images}
        for port in second:
            feeds[port.name] = np.empty((len(images), 3, 0, 0), np.float32) if low is None else low
        masks = self._run(feeds)[0]
        if np.issubdtype(masks.dtype, np.integer):
            masks = self._unit(masks)
        if masks.ndim not in (3, 4) or masks.size != len(images) * masks.shape[-2] * masks.shape[-1]:
            raise CheckpointError(
                f"{self.name} gives {masks.shape}, expected one mask (N, 1, H, W) a picture"
            )
        return masks.reshape(len(images), 1, *masks.shape[-2:]).astype(np.float32, copy=False)

    def _unit(self, masks: npt.NDArray[Any]) -> Floats:
        """Masks of whole numbers in [0, 1]: of bytes 255 is 1, unless none of the picture's is above 1."""
        least, most = int(masks.min()), masks.max(axis=tuple(range(1, masks.ndim)), keepdims=True)
        if masks.dtype != np.uint8 and (least < 0 or most.max() > 1):
            raise CheckpointError(
                f"{self.name} gives whole numbers from {least} to {most.max()}, as of classes; "
                "expected a mask of 0 to 1, or bytes"
            )
        unit: Floats = masks / np.where(most > 1, np.float32(255), np.float32(1))
        return unit


class ExportedSegmentRuntime(_Exported):
    """A file of decoupe's that gives segments; see `_Exported`."""

    def __init__(
        self, session: Session, path: Path, name: str | None, preprocessing: Preprocessing | None
    ) -> None:
        inputs, outputs = session.inputs, session.outputs
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or [len(port.shape) for port in outputs] != [3, 4]:
            raise CheckpointError(
                f"{path} takes {_listed(inputs)} and gives {_listed(outputs)}; expected one image, "
                "and class and mask logits: export it again"
            )
        super().__init__(session, path, name, preprocessing)
        self.vocabulary = _stored(Vocabulary, "vocabulary", session, path)

    def __call__(self, images: Floats) -> tuple[Floats, Floats]:
        """Normalised images ``(N, 3, H, W)`` -> class logits ``(N, Q, K + 1)``, masks ``(N, Q, h, w)``."""
        classes, masks = self._run({self.session.inputs[0].name: images})
        return classes, masks


def open_file(
    path: Path, *, device: str = "auto", name: str | None = None, preprocessing: Preprocessing | None = None
) -> ExportedRuntime | ExportedSegmentRuntime:
    """Open an exported file as what it gives.

    Args:
        path: the file.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``, the latter also with an index.
        name: what to call it; None is the name in the file, or the file's.
        preprocessing: how a picture becomes the input of a file that is not decoupe's.

    Raises:
        CheckpointError: no readable file, not one image in and one mask out, or metadata that cannot be used.
        DeviceError: a device that the installed runtime does not have.
        InputError: a preprocessing for a file that holds its own.
    """
    session = open_session(path, device)
    kind = ExportedSegmentRuntime if "decoupe.vocabulary" in session.metadata else ExportedRuntime
    return kind(session, path, name, preprocessing)


def _check_matte_ports(session: Session, path: Path) -> None:
    """Refuse what is not one image in and a mask out; others' files may give more after the mask."""
    inputs, outputs, ours = session.inputs, session.outputs, "decoupe.preprocessing" in session.metadata
    count = 2 if ours and [port.name for port in inputs] == ["image", "low"] else 1
    pixels = session.metadata.get("decoupe.input") == "pixels"
    image = inputs[0].shape if inputs else ()
    channels_first = len(image) == 4 and (image[1] == 3 or (image[3] != 3 and not isinstance(image[1], int)))
    if len(inputs) != count or len(image) != 4 or not (channels_first or pixels):
        raise CheckpointError(f"{path} takes {_listed(inputs)}; expected one image input (N, 3, H, W)")
    if inputs[0].type != "float32" and not pixels:
        raise CheckpointError(f"{path} takes {inputs[0].type}, expected float32: export it in float32")
    batch = image[0]
    if isinstance(batch, int) and batch != 1:
        raise CheckpointError(
            f"{path} takes {batch} images at a time, expected 1 or any number: export it again"
        )
    shape = outputs[0].shape if outputs else ()
    several = len(shape) == 4 and isinstance(shape[1], int) and shape[1] != 1
    if (ours and len(outputs) != 1) or len(shape) not in (3, 4) or several:
        raise CheckpointError(f"{path} gives {_listed(outputs)}; expected one mask output (N, 1, H, W)")


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(map(str, ports)) or "nothing"


def _foreign_preprocessing(
    shape: Sequence[int | str | None], path: Path, given: Preprocessing | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """How a picture becomes the input of a file that does not tell: as given, else from its shape."""
    fixed = tuple(side for side in shape[2:] if isinstance(side, int))
    if given is not None:
        if len(fixed) == 2 and fixed != given.size:
            raise InputError(
                f"{path} takes {fixed[1]}×{fixed[0]} only, not {given.size[1]}×{given.size[0]}: "
                f"give --input-size {fixed[1]}x{fixed[0]}, or leave it out"
            )
        return given, (f"{path.name} is fed as it was told to: values outside [0, 1] are logits",)
    height, width = ((side if isinstance(side, int) else 1024) for side in shape[2:])
    notes = (
        f"{path.name} holds no preprocessing of decoupe's",
        f"assumed: size {width}×{height}, stretched, ImageNet mean and std; values outside [0, 1] are logits",
    )
    return Preprocessing(size=(height, width), multiple=1 if len(fixed) == 2 else 32), notes


def _check_fixed(expected: Sequence[int | str | None], shape: tuple[int, ...]) -> None:
    """Refuse images of another size than a file with a fixed one takes."""
    if any(
        isinstance(side, int) and side != given for side, given in zip(expected[2:], shape[2:], strict=True)
    ):
        raise InputError(
            f"the model takes {expected[3]}×{expected[2]} only, not {shape[3]}×{shape[2]}: leave size out, "
            "or export it with dynamic sizes"
        )


def _stored(kind: type[Stored], key: str, session: Session, path: Path) -> Stored:
    """A dataclass from a file's metadata, where JSON has made lists of its tuples."""
    try:
        values = json.loads(session.metadata[f"decoupe.{key}"])
        fields: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in values.items()
        }
        return kind(**fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} holds metadata decoupe.{key} that cannot be used ({error}): export it again"
        ) from None


def _logits_to_alpha(masks: Floats) -> Floats:
    """Masks ``(N, 1, H, W)``, each alpha already or logits, as alpha; decided for each by itself."""
    least, most = masks.min(axis=(1, 2, 3), keepdims=True), masks.max(axis=(1, 2, 3), keepdims=True)
    return np.where((least < -1e-3) | (most > 1 + 1e-3), sigmoid(masks), masks.clip(0, 1))
