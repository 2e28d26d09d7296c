"""``decoupe cut``: pictures, folders, a pipe, or raw frames in it."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from decoupe.commands.console import hush_downloads, printable, say, told
from decoupe.commands.cut_files import Wanted, describe, read_background, wanted
from decoupe.commands.cut_options import CutOptions
from decoupe.commands.options import parse_feeding, parse_numbers, parse_size, taking
from decoupe.commands.plan import make_plan
from decoupe.commands.raw_frames import cut_frames
from decoupe.commands.running import Telling, Worked, do, said_warnings
from decoupe.cores import cores
from decoupe.errors import DecoupeError, InputError
from decoupe.inference.media import find_images, folder_of
from decoupe.inference.pictures import check_picture
from decoupe.runtimes import find_spec
from decoupe.weights.labels import plain

if TYPE_CHECKING:
    from decoupe.inference.predictor import Predictor


@taking(CutOptions)
def cut(options: CutOptions) -> None:
    """Cut the subject out of pictures. A folder gives a folder, and a second run does what is left."""
    with told():
        telling = Telling(options.quiet, options.verbose, options.as_json, options.log)
        hush_downloads(options.quiet)
        if options.what is not None and "list" in options.what:
            raise typer.Exit(_list_labels(options))
        for name in (options.model, options.segments):  # an unknown name is told before anything else
            find_spec(name)
        open_model = functools.partial(_open, options, parse_size(options.size))
        choice = _choice(options)
        with said_warnings(options.quiet):
            over = None if options.over is None else read_background(options.over, options.max_pixels)
        output = wanted(options, over)
        workers = options.workers or min(4, cores())
        if options.raw is not None:
            cut_frames(options, output, open_model, choice, workers, telling)
            return
        look = functools.partial(
            make_plan,
            options.inputs,
            options.out,
            word=output.word,
            overwrite=options.overwrite,
            suffix=output.suffix,
            waiting=options.watch,
            beside=[Path(options.over)] if options.over and Path(options.over).is_file() else [],
            log=options.log,
        )
        for name in options.inputs if options.watch else ():
            if folder_of(Path(name)) is None:
                remedy = "name folders only" if Path(name).exists() else f"create the folder {name}"
                raise InputError(f"--watch waits for pictures to arrive in folders: {remedy}")
        plan = look()
        output.check(plan.outputs)
        work = functools.partial(_cut, output=output, max_pixels=options.max_pixels, choice=choice)
        watched = look if options.watch else None
        do(plan, open_model, work, done="cut", telling=telling, workers=workers, look=watched)


def _open(options: CutOptions, size: Any) -> Predictor:
    from decoupe.inference.predictor import open_predictor

    predictor = open_predictor(
        options.model,
        device=options.device,
        dtype=options.precision,
        compile=options.compile,
        size=size,
        minmax=options.minmax,
        guided=options.guided,
        segments=options.segments,
        memory=options.memory,
        preprocessing=parse_feeding(options.input_size, options.mean, options.std),
        trust=options.trust,
    )
    # An unknown label is told once, not for each picture.
    for label in options.what or ():
        predictor.segmenter.vocabulary.find(label)
    return predictor


def _choice(options: CutOptions) -> dict[str, Any]:
    """What is cut, as a `Predictor` takes it."""
    if options.segments is not None and options.what is None:
        raise InputError("--segments names the model that finds what --what names: add --what LABEL")
    box = parse_numbers("--box", options.box, 4, "X0,Y0,X1,Y1")
    point = parse_numbers("--point", options.point, 2, "X,Y")
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"--box is {options.box!r}, expected X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1")
    if box and point and not (box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]):
        raise InputError("--point lies outside --box: name a pixel in it, or leave one of them out")
    return {"what": options.what, "box": box, "point": point}


def _cut(
    predictor: Predictor,
    source: Path | BinaryIO,
    target: Path | None,
    *,
    output: Wanted,
    max_pixels: int,
    choice: dict[str, Any],
) -> Worked:
    matte = predictor(source, max_pixels=max_pixels, **choice)
    return [(output.bytes_of(matte, target), target)], functools.partial(describe, matte)


def _list_labels(options: CutOptions) -> int:
    """Print what the segment model sees in each picture; the exit status."""
    from decoupe.inference.predictor import open_segmenter

    if options.what != ["list"]:
        raise InputError("--what list lists the labels: leave the other labels out")
    used = ("segments", "device", "precision", "memory", "trust", "max_pixels", "quiet", "verbose")
    read = {name: getattr(options, name) for name in ("inputs", "what", *used)}
    if options != CutOptions(**read):
        raise InputError("--what list cuts nothing: leave the options of cutting out")
    find_spec(options.segments)
    if "" in options.inputs or "-" in options.inputs:
        raise InputError("--what list takes files and folders: name them")
    pictures: list[Path] = []
    status = 0
    for name in options.inputs:
        try:
            found = _listed(Path(name))
        except InputError as error:
            say(str(error))
            status = 1
            continue
        pictures += found
    if not pictures:
        return status
    segmenter = open_segmenter(
        options.segments,
        device=options.device,
        dtype=options.precision,
        memory=options.memory,
        trust=options.trust,
    )
    for picture in pictures:
        try:
            segments = segmenter(picture, max_pixels=options.max_pixels).panoptic
        except DecoupeError as error:
            say(str(error))
            status = 1
            continue
        counts = Counter(plain(segment.label) for segment in segments).most_common()
        labels = ", ".join(label if count == 1 else f"{count} {label}" for label, count in counts)
        typer.echo(printable(f"{picture}: {labels or 'nothing'}"))
    return status


def _listed(place: Path) -> list[Path]:
    """The pictures that an input names.

    Raises:
        InputError: none; told before a model is fetched for nothing.
    """
    folder = folder_of(place)
    if folder is None:
        check_picture(place)
        return [place]
    if not (found := find_images(*folder)):
        raise InputError(f"{place} holds no pictures: name another folder, or the files")
    return found
