"""Millions of pictures, on one machine or on a cluster: `cut` spreads them over the workers of Ray Data.

Needs the extra ``batch``.

>>> from decoupe import batch  # doctest: +SKIP
>>> batch.cut("s3://shop/photos", "s3://shop/cut", model="birefnet-lite", gpus=1)  # doctest: +SKIP
Done(cut=999993, kept=0, failed={'women/4711.jpg': 'the file is cut short: …', …})
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from decoupe.errors import DecoupeError, InputError, MissingExtraError, ModelError, OutputError
from decoupe.inference.backgrounds import Background, opened_background
from decoupe.inference.loading import LoadOptions, check_loading
from decoupe.inference.media import READABLE, find_images, result_names
from decoupe.inference.predictor import open_predictor
from decoupe.inference.results import Matte
from decoupe.telemetry import import_ray

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from typing_extensions import Unpack

CHUNK = 32
"""Pictures that a worker takes at a time."""

OBJECT_STORES = ("s3", "gcs", "abfs")

CHUNKS = 10_000
"""Most parts that Ray keeps account of; one that a lost worker had is done again."""


@dataclass(frozen=True)
class Done:
    """What a run did.

    Attributes:
        cut: how many pictures were cut.
        kept: how many results stood already.
        failed: picture, from the source on -> what is wrong with it.
    """

    cut: int
    kept: int
    failed: Mapping[str, str]


def cut(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str | Path | None = None,
    suffix: str = ".png",
    over: Background | None = None,
    quality: int | None = None,
    workers: int | None = None,
    cores: int = 1,
    gpus: float = 0,
    overwrite: bool = False,
    **options: Unpack[LoadOptions],
) -> Done:
    """Cut every picture of a folder, and mirror the folder; run again, it goes on where it was stopped.

    Each worker holds one model, and reads, computes and writes several pictures at a time. Ray starts on this
    machine unless ``ray.init`` has joined a cluster, whose machines need decoupe, its extras and the model.

    Args:
        source: folder, or URI of one as ``s3://bucket/photos``; folders below it are read as well. Hidden
            ones and links to folders are not, nor is ``target`` where it lies inside.
        target: folder or URI. A result is written whole or not at all.
        model: as `decoupe.load` takes it.
        suffix: ending and format of the results; names are those that ``decoupe cut`` gives.
        over: a background, as `decoupe.Matte.over` takes it; None is transparent ground.
        quality: 1 to 100, of WebP, AVIF and JPEG.
        workers: how many; None is as many as the cluster has cores or GPUs for now. A cluster that grows is
            asked for as many as are told.
        cores: of the processor, that each worker takes.
        gpus: that each worker takes; a share such as 0.5 lets workers share one.
        overwrite: make results that stand anew.
        options: of `decoupe.load`, such as ``size=`` or ``dtype=``.

    Returns:
        What was done. Pictures that fail are told there, and the others are cut.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: a folder that is not there or holds no picture, or options that cannot be used.
        OutputError: a format that cannot hold the result, or a target that is the source.
        UnknownModelError: no such model.
        ModelError: no worker could open the model.
    """
    try:
        ray = import_ray()
    except ImportError as error:
        raise MissingExtraError("decoupe.batch", "batch") from error
    if unknown := sorted(options.keys() - LoadOptions.__annotations__.keys()):
        raise TypeError(f"cut() got an unexpected keyword argument {unknown[0]!r}")
    if cores < 1 or gpus < 0 or (workers is not None and workers < 1):
        raise InputError(f"workers={workers}, cores={cores}, gpus={gpus}: expected at least 1, 1 and 0")
    if over is not None:
        over = opened_background(over)  # once, and here: the cluster's other machines have no such file
    nothing = Matte(np.zeros((1, 1), np.float32), np.zeros((1, 1, 3), np.uint8))
    nothing.encode(suffix, over=over, quality=quality)  # refuses now what every picture would be refused for
    check_loading(model, "mattes", **options)
    places = _opened(source), _opened(target)
    names = _names(*places, suffix)
    stand = set() if overwrite else _standing(*places[1])
    missing = {name: made for name, made in names.items() if made not in stand}
    rows = [{"picture": name, "result": made} for name, made in missing.items() if _is_text(name)]
    failed = {name: UNREADABLE for name in missing if not _is_text(name)}
    kept = len(names) - len(missing)
    if not rows:
        return Done(0, kept, failed)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    chunks = math.ceil(len(rows) / CHUNK)
    workers = workers or min(_room(ray.cluster_resources(), cores, gpus), chunks)
    found = ray.data.from_items(rows, override_num_blocks=min(max(workers, chunks), CHUNKS)).map_batches(
        _Worker,
        fn_constructor_args=[
            *places,
            partial(open_predictor, model, **options),
            partial(Matte.encode, suffix=suffix, over=over, quality=quality),
            max(2, cores),
        ],
        batch_size=CHUNK,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=cores,
        num_gpus=gpus,
    )
    try:
        for row in found.iter_rows():
            if row["problem"]:
                failed[row["picture"]] = row["problem"]
    except ray.exceptions.RayError as error:
        raise ModelError(f"the workers ended: {_cause(error)}") from error
    return Done(len(missing) - len(failed), kept, failed)


Place = tuple["FileSystem", str]
"""A file system, and a folder on it."""

UNREADABLE = "its name is not UTF-8, which the workers are told names in: rename it"


def _is_text(name: str) -> bool:
    """Whether a file's name is one of Unicode: others hold what stands for their bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


class _Worker:
    """One model and what it needs to cut pictures of one place into another."""

    def __init__(self, source: Place, target: Place, load: Any, encode: Any, threads: int) -> None:
        self.source, self.target = source, target
        self.predictor, self.encode, self.threads = load(), encode, threads

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Cut a chunk; what went wrong with each, or nothing, is in the column ``problem``."""
        with ThreadPoolExecutor(self.threads) as pool:
            problems = list(pool.map(self._cut, rows["picture"], rows["result"]))
        return {"picture": rows["picture"], "problem": np.array(problems)}

    def _cut(self, picture: str, result: str) -> str:
        """Cut a picture; what is wrong with it, if anything is."""
        files, folder = self.source
        try:
            with files.open_input_file(f"{folder}/{picture}") as file:
                data = file.read()
            _write(self.encode(self.predictor(data)), *self.target, result)
        except (DecoupeError, OSError) as error:
            return str(error)
        except Exception as error:  # a run over millions does not end with one of them
            return f"failed unexpectedly ({type(error).__name__}: {error})"
        return ""


def _write(data: bytes, files: FileSystem, folder: str, name: str) -> None:
    """A file, whole or not at all, and the folders it stands in."""
    path = f"{folder}/{name}"
    if files.type_name in OBJECT_STORES:  # they have no folders, and show a file when it is closed
        with files.open_output_stream(path) as stream:
            stream.write(data)
        return
    parent = path.rpartition("/")[0]
    part = f"{parent}/.decoupe-{os.urandom(8).hex()}.part"
    files.create_dir(parent, recursive=True)
    try:
        with files.open_output_stream(part) as stream:
            stream.write(data)
        files.move(part, path)
    except OSError:
        with suppress(OSError):
            files.delete_file(part)
        raise


def _room(held: Mapping[str, float], cores: int, gpus: float) -> int:
    """How many workers what a cluster has is enough for."""
    rooms = []
    for kind, each in (("CPU", cores), ("GPU", gpus)):
        if each and (room := int(held.get(kind, 0) // each)) < 1:
            raise InputError(
                f"a worker takes {each:g} {kind}, the cluster has {held.get(kind, 0):g}: "
                "let it take less, or tell workers= where the cluster grows"
            )
        rooms += [room] if each else []
    return min(rooms)


def _opened(place: str | os.PathLike[str]) -> Place:
    """The file system of a folder or URI, and the folder there."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    text = os.fspath(place)
    if not text:
        raise InputError("a folder's name is empty: check the variable that it came from")
    if "://" not in text:
        return LocalFileSystem(), Path(os.path.realpath(Path(text).expanduser())).as_posix()
    try:
        files, folder = FileSystem.from_uri(text)
    except (ArrowException, ValueError, OSError) as error:
        raise InputError(
            f"{text} cannot be opened ({error}): name a folder, or a URI that pyarrow knows"
        ) from None
    return files, folder.rstrip("/")


def _names(source: Place, target: Place, suffix: str) -> dict[str, str]:
    """Every picture -> its result, both from their folders on."""
    if source == target:
        raise OutputError(f"{target[1]} holds the pictures: choose another target")
    found = _pictures(source, target)
    if not found:
        raise InputError(f"{source[1]} holds no pictures: name a folder that does")
    return {str(path): str(name) for path, name in result_names(found, suffix).items()}


def _pictures(source: Place, target: Place) -> list[PurePosixPath]:
    """The pictures of a folder, from it on, sorted; those of ``target`` are not among them."""
    from pyarrow.fs import FileSelector, LocalFileSystem

    files, folder = source
    if isinstance(files, LocalFileSystem):
        # pyarrow follows links to folders, and those that lead in a circle without end.
        exclude = [Path(target[1])] if files == target[0] else []
        return [
            PurePosixPath(path.relative_to(folder).as_posix())
            for path in find_images(Path(folder), exclude=exclude)
        ]
    inside = f"{target[1]}/" if files == target[0] else None
    try:
        listed = files.get_file_info(FileSelector(folder, recursive=True))
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error}): name a folder of pictures") from None
    paths = (
        PurePosixPath(one.path[len(folder) + 1 :])
        for one in listed
        if one.is_file and not (inside and one.path.startswith(inside))
    )
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in READABLE and not any(part.startswith(".") for part in path.parts)
    )


def _standing(files: FileSystem, folder: str) -> set[str]:
    """The files of a folder that hold something, from it on."""
    from pyarrow.fs import FileSelector

    listed = files.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    return {one.path[len(folder) + 1 :] for one in listed if one.is_file and one.size}


def _cause(error: BaseException) -> str:
    """The last line of what Ray tells: what a worker raised."""
    return str(error).strip().rpartition("\n")[2].removeprefix("decoupe.errors.")
