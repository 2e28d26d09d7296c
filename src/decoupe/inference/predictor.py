"""From pictures to mattes and segments: one model, opened once, applied to one picture or to many."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from decoupe.arrays import Box, Floats
from decoupe.errors import InputError
from decoupe.inference.framing import VISIBLE
from decoupe.inference.guided import LEAST_RATIO, followed
from decoupe.inference.loading import (
    LoadOptions,
    check_loading,
    check_segment_options,
    name_of,
    other_kind,
    shared,
)
from decoupe.inference.opened import Opened, Pair
from decoupe.inference.pictures import MAX_PIXELS, Picture, Source, read_image
from decoupe.inference.preprocess import Size, from_network, network_size, part_to_network
from decoupe.inference.results import Matte
from decoupe.inference.segments import Segments, Thresholds
from decoupe.inference.subject import (
    Part,
    check_box,
    check_point,
    chosen_segments,
    joined,
    labels_of,
    part_of_box,
    part_of_segment,
    under_point,
)
from decoupe.inference.tiles import Place, tile_side, tiled
from decoupe.inference.turns import Turns
from decoupe.memory import Plan, shown
from decoupe.notices import LabelWarning, warn
from decoupe.runtimes import Runtime, SegmentRuntime, open_runtime
from decoupe.weights.labels import Vocabulary, plain
from decoupe.weights.own import resolved
from decoupe.weights.registry import (
    DEFAULT_SEGMENT_MODEL,
    MatteName,
    ModelSpec,
    Preprocessing,
    SegmentName,
    weights_in,
)

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack


class Segmenter(Opened[Segments]):
    """A model that says what is where: ``segmenter("street.jpg")`` gives `Segments`.

    `load` makes one by name. A picture's result depends on nothing but the picture.

    Args:
        runtime: what computes.
        size: network size instead of the model's own: one side for both, ``(height, width)``, or
            ``"native"``.
        spec: the catalogue's row of the model, where it has one.
        thresholds: when a query counts.
        memory: the most that the process may hold, see `load`.

    Raises:
        InputError: a ``size`` that this model cannot take.
    """

    def __init__(
        self,
        runtime: SegmentRuntime,
        *,
        size: Size | None = None,
        spec: ModelSpec | None = None,
        thresholds: Thresholds | None = None,
        memory: int | str | None = None,
    ) -> None:
        super().__init__(runtime, size=size, spec=spec, memory=memory)
        self.runtime = runtime
        self.thresholds = thresholds or Thresholds()

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of the model's classes."""
        return self.runtime.vocabulary

    def __call__(self, image: Source, *, max_pixels: int = MAX_PIXELS) -> Segments:
        """The segments of one picture.

        Args:
            image: a path, the bytes of a file, a binary file, a Pillow image or an array; see `read_image`.
            max_pixels: largest width × height that is decoded.

        Raises:
            InputError: a picture that cannot be read.
        """
        return self._predict(read_image(image, max_pixels))

    def _computed(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> list[Segments]:
        batch = self._batch(pictures, size)
        with self._turn():
            classes, masks = self.runtime(batch)
        return [
            Segments(
                class_logits,
                mask_logits,
                self.vocabulary,
                picture.pixels,
                picture.icc_profile,
                picture.source,
                self.thresholds,
            )
            for class_logits, mask_logits, picture in zip(classes, masks, pictures, strict=True)
        ]


class Predictor(Opened[Matte]):
    """A model that cuts out subjects: ``predictor("photo.jpg")`` gives a `Matte`.

    `load` makes one by name. A picture's result depends on nothing but the picture: not on its batch
    neighbours and not on what was predicted before.

    Args:
        runtime: what computes.
        size: network size instead of the model's own: one side for both, ``(height, width)``, or
            ``"native"``.
        spec: the catalogue's row of the model, where it has one.
        minmax: stretch each picture's alpha so that its least value becomes 0 and its largest 1, as
            InSPyReNet's reference does; it invents a subject where there is none.
        guided: enlarge the matte along the photograph's outlines, with strands that it has lost, where the
            photograph has at least twice the pixels that the model saw; None follows the model's
            `Preprocessing`.
        segmenter: finds what ``what=`` names, or a function that opens it when it is first needed.
        memory: the most that the process may hold, see `load`.

    Attributes:
        runtime: what computes.
        size: as given; None is the model's own.
        memory: in bytes; None is what is free.
        spec: as given.
        file: what told the model's file from others when `load` opened it; None where it has none.

    Raises:
        InputError: a ``size`` that this model cannot take.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        size: Size | None = None,
        spec: ModelSpec | None = None,
        minmax: bool = False,
        guided: bool | None = None,
        segmenter: Segmenter | Callable[[], Segmenter] | None = None,
        memory: int | str | None = None,
    ) -> None:
        super().__init__(runtime, size=size, spec=spec, memory=memory)
        self.runtime = runtime
        self.minmax = minmax
        self.file: tuple[str, int, int] | None = None
        self.guided = runtime.preprocessing.guided if guided is None else guided
        self._segmenter = segmenter
        self._opening = Turns()  # not the turn to compute: opening may take a download

    @property
    def segmenter(self) -> Segmenter:
        """What finds the subject that ``what=`` names; opened when it is first asked for.

        Raises:
            DecoupeError: as `load` does.
        """
        with self._opening():
            if not isinstance(self._segmenter, Segmenter):
                self._segmenter = (self._segmenter or open_segmenter)()
            return self._segmenter

    def __call__(
        self,
        image: Source,
        *,
        what: str | Sequence[str] | None = None,
        box: Sequence[int] | None = None,
        point: Sequence[int] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Matte:
        """Cut out the subject of one picture.

        Without a choice the subject is what stands in the foreground. With one, each chosen part is cut by
        itself at full resolution and nothing outside the parts is in the matte.

        Args:
            image: a path, the bytes of a file, a binary file, a Pillow image or an array; see `read_image`.
            what: label of the subject, as ``"dog"``, or several; the segment model finds them.
            box: ``(x0, y0, x1, y1)`` in pixels of the upright picture, x1 and y1 just outside: the subject in
                it; with ``what``, the segments that lie mostly in it.
            point: ``(x, y)`` in pixels: the connected part of the matte that holds it; with ``what``, the
                segment.
            max_pixels: largest width × height that is decoded.

        Warns:
            LabelWarning: some of several labels that the segment model does not see here.

        Raises:
            InputError: a picture that cannot be read, a label that the segment model does not know, none that
                it sees here, a box or point outside the picture or without a subject.
            DecoupeError: the segment model cannot be opened, see `load`.
        """
        picture = read_image(image, max_pixels)
        if what is None and box is None and point is None:
            return self._predict(picture)
        within = None if box is None else check_box(box, picture.size)
        at = None if point is None else check_point(point, picture.size)
        # The picture's own opacity counts once, after the parts have been joined.
        opaque = replace(picture, opacity=None)
        if what is not None:
            matte = self._cut(opaque, self._named_parts(picture, labels_of(what), within, at))
        elif within is not None:
            matte = self._cut(opaque, [part_of_box(within, picture.size)])
        else:
            matte = self._predict(opaque)
        if what is None and at is not None:
            matte = replace(matte, alpha=under_point(matte.alpha, at))
        if picture.opacity is None:
            return matte
        return replace(matte, alpha=matte.alpha * picture.opacity, opacity=picture.opacity)

    def _named_parts(
        self, picture: Picture, labels: list[str], box: Box | None, point: tuple[int, int] | None
    ) -> list[Part]:
        """The parts of a picture that the segment model calls by one of ``labels``."""
        vocabulary = self.segmenter.vocabulary
        indices = {label: vocabulary.find(label) for label in labels}
        segments = self.segmenter(picture).panoptic
        chosen = chosen_segments(segments, itertools.chain(*indices.values()), box=box, point=point)
        where = "".join(
            f" {words} {','.join(map(str, place))}"
            for words, place in (("in the box", box), ("at the point", point))
            if place is not None
        )
        seen = {segment.index for segment in chosen}
        missing = [label for label, called in indices.items() if not seen.intersection(called)]
        if not chosen:
            there = ", ".join(dict.fromkeys(plain(segment.label) for segment in segments))
            raise InputError(
                f"{picture.source} shows no {' or '.join(labels)}{where}; "
                + (f"there is: {there}" if there else "the segment model finds nothing in it")
            )
        if missing:
            found = " and ".join(label for label in indices if label not in missing)
            line = f"{picture.source} shows no {' or '.join(missing)}{where}"
            warn(f"{line}, only {found}", LabelWarning)
        others = [segment for segment in segments if not any(segment is one for one in chosen)]
        return [part_of_segment(segment, others) for segment in chosen]

    def _cut(self, picture: Picture, parts: Sequence[Part]) -> Matte:
        """The matte of chosen parts, each seen by itself."""
        alphas = [self._predict(picture.crop(part.box)).alpha for part in parts]
        alpha = joined(parts, alphas, picture.size)
        if alpha.max() < VISIBLE:
            raise InputError(
                f"{picture.source} shows nothing to cut there, as {self.runtime.name} sees it: "
                "choose another part, or another model"
            )
        return _matte(alpha, picture)

    def _computed(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> list[Matte]:
        batches = [self._batch(pictures, scale) for scale in (closer, size) if scale is not None]
        alphas = self._compute(*batches)[:, 0]  # (N, h, w)
        if self.minmax:
            alphas = np.stack([stretched(alpha) for alpha in alphas])
        return [self._as_matte(alpha, picture) for alpha, picture in zip(alphas, pictures, strict=True)]

    def _planned(self, pictures: Sequence[Picture], size: Pair, closer: Pair | None) -> Iterator[Matte]:
        """See `Opened`; above the sizes that the weights know, tiles: whole, the subject would be lost."""
        least, most = self.preprocessing.size_range
        if max(self._sides(size)) <= most:
            yield from super()._planned(pictures, size, closer)
            return
        why = (
            f"{self.runtime.name} is known to work at {least} to {most} pixels a side: {size[1]}×{size[0]} is"
        )
        for picture in pictures:
            yield self._in_tiles(picture, size, most**2, "tiles", why)

    def _beyond(self, picture: Picture, size: Pair, fits: Plan) -> Matte:
        """The matte of a picture that does not fit in memory whole."""
        why = (
            f"{self.runtime.name} takes about {shown(fits.needed or 0)} of memory at {size[1]}×{size[0]}, "
            f"{shown(fits.room)} may be taken:"
        )
        return self._in_tiles(picture, size, fits.pixels, "memory", why)

    def _in_tiles(
        self, picture: Picture, size: Pair, pixels: int, reason: Literal["tiles", "memory"], why: str
    ) -> Matte:
        """The matte of a picture at ``size`` in tiles, guided by a glance at it whole.

        Args:
            picture: what is seen.
            size: at which it is seen.
            pixels: most of a tile.
            reason: of a warning.
            why: how it begins.

        Raises:
            ModelError: no tile that the weights know fits in memory.
        """
        multiple, least = self.preprocessing.multiple, self.preprocessing.size_range[0]
        beside = 4 * math.prod(size)  # of the alpha that tiles add to
        fits = self._fits(max(pixels, least**2), [picture], beside)
        fits = replace(fits, pixels=min(pixels, fits.pixels))
        side = self._largest_side(fits.pixels)
        if not side:
            whole = self.runtime.footprint().of(math.prod(size))
            return super()._beyond(picture, size, replace(fits, needed=whole))
        tile = tile_side(size[0], side, multiple, least), tile_side(size[1], side, multiple, least)
        self._warn(reason, f"{why} seen in tiles of {tile[1]}×{tile[0]}")
        own = math.prod(self.preprocessing.size) <= side**2
        glance = network_size(picture.size, self.preprocessing, None if own else side)
        first = self._compute(self._batch([picture], glance))[0, 0]

        def compute(place: Place) -> Floats:
            part = part_to_network(picture, size, place, self.preprocessing)
            seen: Floats = self._compute(part[np.newaxis])[0, 0]
            return seen

        alpha = tiled(compute, size, first, tile)
        return self._as_matte(stretched(alpha) if self.minmax else alpha, picture)

    def _compute(self, *batches: Floats) -> Floats:
        with self._turn():
            return self.runtime(*batches)

    def _as_matte(self, alpha: Floats, picture: Picture) -> Matte:
        """The model's output ``(h, w)`` at the picture's own size."""
        height, width = picture.size
        if self.guided and height * width >= LEAST_RATIO * alpha.size:
            alpha = followed(alpha.clip(0, 1), picture)
        return _matte(from_network(alpha, picture), picture)


@overload
def load(model: MatteName | None = None, **options: Unpack[LoadOptions]) -> Predictor: ...


@overload
def load(model: SegmentName, **options: Unpack[LoadOptions]) -> Segmenter: ...


@overload
def load(model: str | Path, **options: Unpack[LoadOptions]) -> Any: ...  # the file decides which


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    size: Size | None = None,
    runtime: str | None = None,
    minmax: bool = False,
    guided: bool | None = None,
    segments: str | Path | None = None,
    fuse: bool = True,
    compile: bool = False,  # noqa: A002 - as torch calls it
    memory: int | str | None = None,
    preprocessing: Preprocessing | None = None,
    trust: bool = False,
) -> Predictor | Segmenter:
    """Open a model; what was chosen is in its ``repr``.

    Args:
        model: a path (``.onnx``, ``.xml``, ``.pt2``, ``.safetensors``, ``.pth``, ``.pkl``, a folder that
            transformers wrote), a name of `catalogue`, a hub id ``owner/name``, or None for the embedded
            default, which needs no download and no PyTorch.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` takes the fastest there is.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or PyTorch's own of these names; None or
            ``"auto"`` chooses by device.
        size: network size instead of the model's own: one side for both, ``(height, width)``, or
            ``"native"``.
        runtime: ``"onnx"``, ``"openvino"``, ``"program"`` or ``"torch"``; None or ``"auto"`` follows from the
            model.
        minmax: stretch each picture's alpha to its least and largest value; see `Predictor`.
        guided: enlarge mattes along the photographs' outlines, with lost strands; None follows the model, see
            `Predictor`.
        segments: the model that finds what ``what=`` names, as ``model`` is given; opened when it is first
            needed. None is the catalogue's ``maskformer-swin-base-coco``.
        fuse: compute a checkpoint in its equal, faster form (`decoupe.models.fuse`); False for the model as
            it was trained.
        compile: compile a checkpoint when it first computes, which takes minutes, once for a size; told by a
            `CompileWarning`, as is that there is no compiler, where the model is computed as it is.
        memory: the most that the process may hold, in bytes or as ``"4GB"``, on CUDA of the device; None is
            most of what is free. What does not fit is computed in smaller batches, and a picture that does
            not fit whole in tiles, guided by a glance at the whole, with a `SizeWarning`. How large they are
            follows from what is taken at that moment, and so does the alpha of such a picture.
        preprocessing: how a picture becomes the input of an ``.onnx`` file that is not decoupe's: its size,
            mean and standard deviation.
        trust: open ``.pt2`` files, as ``model`` or ``segments``, which may run whatever code their makers put
            in; no other file runs any.

    Returns:
        A `Predictor` for a matte model, a `Segmenter` for one that names segments.

    Raises:
        UnknownModelError: no such name or file; the message suggests the nearest.
        InputError: a size, runtime or option that this model cannot take.
        DeviceError: a device or precision that this machine does not have.
        MissingExtraError: the model needs PyTorch, which is not installed.
        ModelError: the weights cannot be had or read.
    """
    checked: LoadOptions = {
        "size": size,
        "minmax": minmax,
        "guided": guided,
        "segments": segments,
        "memory": memory,
        "preprocessing": preprocessing,
    }
    spec = check_loading(model, **checked)
    device, dtype = name_of(device), name_of(dtype)
    file = _version(model)  # as it is before it is read: what takes its place later counts as another
    opened = open_runtime(
        model,
        device=device,
        dtype=dtype,
        runtime=runtime,
        fuse=fuse,
        compiled=compile,
        preprocessing=preprocessing,
        trust=trust,
    )
    if isinstance(opened, SegmentRuntime):
        check_segment_options(opened.name, checked)
        return Segmenter(opened, size=size, spec=spec, memory=memory)
    device, dtype = shared(device, dtype, model, segments)
    segmenter = functools.partial(
        open_segmenter, segments, device=device, dtype=dtype, memory=memory, trust=trust
    )
    predictor = Predictor(
        opened, size=size, spec=spec, minmax=minmax, guided=guided, segmenter=segmenter, memory=memory
    )
    predictor.file = file
    return predictor


def open_predictor(model: str | Path | None = None, **options: Unpack[LoadOptions]) -> Predictor:
    """`load` for a model that has to give mattes.

    Raises:
        InputError: it gives segments.
        DecoupeError: as `load` does.
    """
    check_loading(model, "mattes", **options)
    opened = load(model, **options)
    if not isinstance(opened, Predictor):
        raise other_kind(opened.runtime.name, "mattes")
    return opened


def open_segmenter(model: str | Path | None = None, **options: Unpack[LoadOptions]) -> Segmenter:
    """`load` for a model that has to give segments; None is the catalogue's default one.

    Raises:
        InputError: it gives mattes.
        DecoupeError: as `load` does.
    """
    model = DEFAULT_SEGMENT_MODEL if model is None else model
    check_loading(model, "segments", **options)
    opened = load(model, **options)
    if not isinstance(opened, Segmenter):
        raise other_kind(opened.runtime.name, "segments")
    return opened


_opening: dict[object, Turns] = {}
"""Model and options -> the turns of the threads that want it open: one of them opens it."""


@functools.lru_cache(maxsize=2)
def _kept_open(
    versions: tuple[object, ...], model: str | Path | None, **options: Unpack[LoadOptions]
) -> Predictor:
    return open_predictor(model, **options)


def _version(model: str | Path | None) -> tuple[str, int, int] | None:
    """What tells a model's file from another, and from what it was before; None of what is no file."""
    if model is None:
        return None
    place = Path(resolved(model) or model)
    try:
        if place.is_dir():
            place = weights_in(place) or place
        told = place.stat()
    except (OSError, ValueError):  # a name with a null byte
        return None
    return os.path.realpath(place), told.st_mtime_ns, told.st_size


def cut(
    image: Source,
    model: MatteName | str | Path | None = None,
    *,
    what: str | Sequence[str] | None = None,
    box: Sequence[int] | None = None,
    point: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    size: Size | None = None,
    runtime: str | None = None,
    minmax: bool = False,
    guided: bool | None = None,
    segments: str | Path | None = None,
    memory: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Matte:
    """Cut out the subject of one picture: ``decoupe.cut("photo.jpg").save("photo.png")``.

    The two models used last stay open, until their files change. The options are those of `load` that it
    names, and of `Predictor`.

    Raises:
        DecoupeError: as `load` and `Predictor` do.
    """
    options: LoadOptions = {
        "device": name_of(device),
        "dtype": name_of(dtype),
        "size": size,
        "runtime": runtime,
        "minmax": minmax,
        "guided": guided,
        "segments": segments,
        "memory": memory,
    }
    check_loading(model, "mattes", **options)
    # Before a model is fetched for nothing.
    picture = read_image(image, max_pixels)
    if box is not None:
        check_box(box, picture.size)
    if point is not None:
        check_point(point, picture.size)
    if what is not None:
        labels_of(what)
    versions = _version(model), _version(segments)
    with _opening.setdefault((versions, model, *options.values()), Turns())():
        predictor = _kept_open(versions, model, **options)
    return predictor(picture, what=what, box=box, point=point)


def _matte(alpha: Floats, picture: Picture) -> Matte:
    try:
        return Matte(
            alpha, picture.pixels, picture.icc_profile, picture.source, picture.metadata, picture.opacity
        )
    except InputError as error:
        if not np.isnan(alpha).any():
            raise
        raise InputError(
            f"the model gave NaN for {picture.source}: its weights are broken, or too large for its "
            "precision: try float32, or another checkpoint"
        ) from error


def stretched(alpha: Floats) -> Floats:
    """Alpha with its least value moved to 0 and its largest to 1; one that is flat stays as it is."""
    least, most = alpha.min(), alpha.max()
    return (alpha - least) / (most - least) if most > least else alpha
