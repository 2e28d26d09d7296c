"""Files in and out: the pictures of a folder, where their results go, writing them whole or not at all."""

from __future__ import annotations

import errno
import functools
import math
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path, PurePath
from typing import BinaryIO, Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from decoupe.errors import InputError, OutputError
from decoupe.inference.checks import check_number
from decoupe.inference.metadata import loaded, with_resolution
from decoupe.inference.png import encode_png

if sys.platform != "win32":
    import fcntl

AnyPath = TypeVar("AnyPath", bound=PurePath)

READABLE = frozenset(
    f".{ending}"
    for ending in (
        "jpg",
        "jpeg",
        "jfif",
        "png",
        "webp",
        "tif",
        "tiff",
        "bmp",
        "gif",
        "avif",
        "heic",
        "heif",
        "jp2",
        "ppm",
        "pgm",
        "tga",
    )
)
"""File endings that `find_images` takes for pictures."""

# Of each format what is written, and the options: fast, since photographs are large, and never lossy unasked.
_FORMATS: dict[str, tuple[str, dict[str, int | bool | str]]] = {
    # What `encode_png` does not write: palettes, and grey of 16 bits. Type 3 is run lengths, as there.
    ".png": ("PNG", {"compress_level": 1, "compress_type": 3}),
    ".webp": ("WEBP", {"lossless": True, "quality": 20, "method": 1, "exact": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".avif": ("AVIF", {"quality": 90, "speed": 8}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}

PREVIEW = 1024
"""Most pixels a side of what notebooks show."""

SUFFIXES = tuple(_FORMATS)
"""File endings of the formats that are written."""

# The options beside the quality of formats that have one.
_OF_QUALITY: dict[str, dict[str, int | bool | str]] = {
    "JPEG": {"subsampling": "4:2:0"},
    "WEBP": {"method": 4, "exact": True},
    "AVIF": {"speed": 8},
}
_MODES_OF_PNG = frozenset({"L", "RGB", "RGBA"})  # of `encode_png`
_LONGEST_SIDES = {"WEBP": 16_383, "JPEG": 65_500, "AVIF": 65_536}  # pixels; libjpeg's and libaom's own bounds
_LONGEST_EXIF_OF_JPEG = 65_533  # bytes: those of a segment less its length
_MODES_OF_JPEG = frozenset({"L", "RGB", "CMYK"})


def folder_of(path: Path) -> tuple[Path, str] | None:
    """The folder that an input names, and the pattern that chooses in it: ``**`` is everything.

    Of ``photos/**/*.jpg`` the folder is ``photos``; None of what names a file.
    """
    if path.is_dir():
        return path, "**"
    folder = Path()
    for number, part in enumerate(path.parts):
        if set(part) & set("*?[") and not (folder / part).exists():  # browsers save files as photo[1].jpg
            return folder, str(Path(*path.parts[number:]))
        folder /= part
    return None


def find_images(
    path: Path,
    pattern: str = "**",
    exclude: Collection[Path] = (),
    problem: Callable[[str], object] | None = None,
    listed: Callable[[Path], object] | None = None,
) -> list[Path]:
    """The pictures in the folder ``path`` and the folders below it, by file ending, sorted.

    Hidden files and folders are skipped, and so are the folders ``exclude`` (outputs that lie inside), and
    pipes, which nobody may ever write to.

    Args:
        path: folder.
        pattern: what pictures have to match, from the folder on, as ``*.jpg`` or ``**/a*``.
        exclude: folders to leave out.
        problem: called with one line for each folder that cannot be listed; None raises it.
        listed: called with each folder that is looked into.

    Raises:
        InputError: ``path`` is no folder, or one that cannot be listed.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: name a folder of pictures")
    skipped = {os.path.realpath(folder) for folder in exclude} - {os.path.realpath(path)}
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        line = f"{error.filename} cannot be listed ({error.strerror}): check its permissions"
        if problem is None:
            raise InputError(line)
        problem(line)

    for folder, folders, files in os.walk(path, onerror=refuse):
        here = Path(folder)
        if listed is not None:
            listed(here)
        folders[:] = [n for n in folders if n[0] != "." and os.path.realpath(here / n) not in skipped]
        named = [here / name for name in files if name[0] != "." and Path(name).suffix.lower() in READABLE]
        found += [picture for picture in named if not _is_special(picture)]
    if pattern != "**":
        matching = set(path.glob(f"{pattern}/*" if pattern.endswith("**") else pattern))
        found = [picture for picture in found if picture in matching]
    return sorted(found)


def output_paths(sources: Iterable[Path], root: Path, out: Path, suffix: str = ".png") -> dict[Path, Path]:
    """Where each result goes when the folder ``root`` is mirrored into ``out``, by `result_names`.

    Raises:
        OutputError: a result would overwrite a source.
    """
    names = result_names(sources, suffix)
    targets = {source: out / name.relative_to(root) for source, name in names.items()}
    refuse_overwriting(targets.values(), real_paths(names))
    return targets


def result_names(sources: Iterable[AnyPath], suffix: str) -> dict[AnyPath, AnyPath]:
    """The name of each result, which ends in ``suffix``; no two are the same.

    Where two sources differ in their ending only, as ``a.jpg`` and ``a.bmp``, the results keep it:
    ``a.jpg.png``. So does that of ``a.jpg.tif``, if it lies beside the two. Many disks take ``A.png`` and
    ``a.png`` for one file, and so does this, unless the sources' disk tells ``A.jpg`` from ``a.jpg``.
    """
    names = {source: source.with_suffix(suffix) for source in sources}
    while alike := _shared(names):
        for source, name in names.items():
            if folded(name) in alike:
                names[source] = source.with_name(f"{source.name}{suffix}")
    return names


def _shared(names: Mapping[AnyPath, AnyPath]) -> set[str]:
    """The names, folded, that several sources would have; one that kept its ending is among them no more."""
    takers: dict[str, list[AnyPath]] = {}
    for source, name in names.items():
        takers.setdefault(folded(name), []).append(source)
    return {
        name
        for name, sources in takers.items()
        if len({names[source] for source in sources}) < len(sources) or len(set(map(folded, sources))) > 1
    }


def folded(path: PurePath | str) -> str:
    """What is the same of names that differ in case only."""
    return str(path).casefold()


def real_path_of() -> Callable[[Path], str]:
    """A function that finds where files lie, links followed: quickly, as it asks once for each folder.

    It is for one look at the disk: it never learns that a folder has become another.
    """
    real_folder = functools.cache(os.path.realpath)  # Path.resolve raises where links lead in a circle

    def real_path(path: Path) -> str:
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or _is_link(path):
            return os.path.realpath(path)
        return f"{real_folder(folder).rstrip(os.sep)}{os.sep}{name}"

    return real_path


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # too long a name
        return False


def real_paths(paths: Iterable[Path]) -> frozenset[str]:
    """Where the files lie, links followed."""
    return frozenset(map(real_path_of(), paths))


def refuse_overwriting(targets: Iterable[Path], inputs: Collection[str]) -> None:
    """Raise OutputError where one of ``targets`` is one of ``inputs`` (`real_paths`), under whatever name."""
    real_path = real_path_of()
    for target in targets:
        if real_path(target) in inputs:
            raise OutputError(f"{target} is an input, and would be overwritten: choose another output")


def is_done(target: Path) -> bool:
    """Whether ``target`` stands: files are written whole or not at all; an empty one is a crash's remains."""
    try:
        status = target.stat()
    except OSError:
        # Neither done nor undoable as far as is known here: doing it finds out, and tells.
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def is_outdated(source: Path, target: Path) -> bool:
    """Whether ``target``, which stands, is older than ``source``."""
    try:
        return target.stat().st_mtime_ns < source.stat().st_mtime_ns
    except OSError:
        return False


def image_format(suffix: str) -> str:
    """Pillow's name of the format of a file ending such as ``".png"``.

    Raises:
        OutputError: not a format that is written here.
    """
    if not isinstance(suffix, str):
        raise InputError(f"suffix is {suffix!r}, expected a file ending: such as '.png'")
    if not suffix:
        raise OutputError("the output has no file ending, which tells the format: end it in .png")
    if suffix.lower() not in _FORMATS:
        raise OutputError(f"unknown output format {suffix!r}: end it in one of {', '.join(SUFFIXES)}")
    return _FORMATS[suffix.lower()][0]


def encode(image: Image.Image, suffix: str = ".png", *, quality: int | None = None) -> bytes:
    """``image`` as the bytes of a file that ends in ``suffix``.

    Its ``info`` is kept: ``icc_profile``, ``exif`` (in TIFF without exposure and place) and ``dpi``.

    Args:
        image: what is written.
        suffix: tells the format.
        quality: 1 to 100, of JPEG, WebP and AVIF; None is the best that is not wasteful.

    Raises:
        OutputError: a format that is not written here, or that cannot hold the image or its size.
        InputError: a quality out of range, or of a format that is lossless.
    """
    name = image_format(suffix)
    options = _FORMATS[suffix.lower()][1]
    if quality is not None:
        check_quality(suffix, quality)
        options = {"quality": int(quality), **_OF_QUALITY[name]}
    if name == "JPEG" and image.mode not in _MODES_OF_JPEG:
        raise OutputError(
            "JPEG has no transparency: save as .png, or put the cut-out over a background (over, --over)"
        )
    # Before it is tried: libjpeg prints its own line on standard error.
    if max(image.size) > (longest := _LONGEST_SIDES.get(name, math.inf)):
        raise OutputError(
            f"the picture is {image.width}×{image.height}, and {name} holds at most {longest} pixels a side: "
            "save as .png or .tif"
        )
    buffer = BytesIO()
    profile = image.info.get("icc_profile") if image.mode != "L" else None
    told = {key: image.info[key] for key in ("exif", "dpi") if key in image.info}
    if name == "PNG" and image.mode in _MODES_OF_PNG:
        return encode_png(np.asarray(image), profile, **told)
    if name == "TIFF" and "exif" in told:
        told["exif"] = _without_parts(told["exif"])
    if name in ("WEBP", "AVIF") and "dpi" in told:
        told["exif"] = with_resolution(told.get("exif"), told.pop("dpi"))
    if name == "JPEG" and len(image.info.get("exif", b"")) > _LONGEST_EXIF_OF_JPEG:
        raise OutputError(
            "JPEG has no room for so much EXIF: leave it out (metadata=False, --no-metadata), or save as .png"
        )
    try:
        image.save(buffer, format=name, icc_profile=profile, **told, **options)
    except KeyError:
        raise OutputError(f"the installed Pillow cannot write {name}: upgrade it, or save as .png") from None
    except (OSError, ValueError, RuntimeError) as error:  # the last: AVIF's
        raise OutputError(f"the picture cannot be written as {name} ({error}): save as .png") from None
    return buffer.getvalue()


def preview(image: Image.Image) -> bytes:
    """``image``, which is made smaller, as a PNG file that a notebook keeps: without EXIF."""
    image.thumbnail((PREVIEW, PREVIEW))
    return encode_png(np.asarray(image), image.info.get("icc_profile"))


def encode_layers(layers: Mapping[str, Image.Image]) -> bytes:
    """Pictures by name as the pages of one TIFF file, which editors open as layers.

    Photoshop's own layers are not written: Pillow has no such part.
    """
    buffer = BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, True) as pages:
        for name, image in layers.items():
            told = {key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info}
            tags = {**_without_parts(image.info.get("exif")), int(ExifTags.Base.PageName): name}
            image.save(pages, format="TIFF", tiffinfo=tags, **_FORMATS[".tif"][1], **told)
            pages.newFrame()
    return buffer.getvalue()


def _without_parts(exif: bytes | None) -> Image.Exif:
    """EXIF without its inner blocks, which libtiff cannot write."""
    block = loaded(exif)
    for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        block.pop(part, None)
    return block


def check_quality(suffix: str, quality: int) -> None:
    """Raise InputError for a quality that a format of this ending cannot have."""
    name = image_format(suffix)
    if name not in _OF_QUALITY:
        raise InputError(f"{name} is lossless: leave quality out, or save as .webp, .avif or .jpg")
    check_number(
        "quality", quality, "a number from 1 to 100, without decimals", least=1, most=100, whole=True
    )


def write_bytes(data: bytes, target: Path, *, overwrite: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        data: what it holds.
        target: where it goes.
        overwrite: whether a file that holds something is replaced.

    Raises:
        OutputError: a place that cannot be written; whatever stood at ``target`` is then still there.
    """
    with replacing(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def check_folder(target: Path) -> None:
    """Refuse a target without a folder, before work that takes long.

    Raises:
        OutputError: ``target`` would stand in a folder that does not exist.
    """
    if not target.parent.is_dir():
        raise _homeless(target)


def _homeless(target: Path) -> OutputError:
    return OutputError(f"{target} cannot be written, its folder does not exist: create {target.parent}")


@contextmanager
def replacing(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside ``target``: takes its place when the block ends, vanishes when it fails.

    Where ``target`` is a link it stays one, and the file that it points to is replaced; what takes a file's
    place has its permissions. Without ``overwrite`` a file that holds something is never replaced, even if it
    has come while the block ran.

    Raises:
        OutputError: whatever OSError the block or the replacing raises, as one line.
    """
    if "\0" in str(target):
        raise OutputError(
            f"{str(target)!r} cannot be written, no name holds a null byte: name another output"
        )
    if _is_special(target):
        raise OutputError(f"{target} is not a regular file: name another output")
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name another output")
        place = Path(os.path.realpath(target)) if target.is_symlink() else target
        with _held_file(place.parent) as temporary:
            try:
                _take_permissions(temporary, place, stat.S_IRUSR | stat.S_IWUSR)  # to be written meanwhile
                yield temporary
                if overwrite or not is_done(place):
                    _take_permissions(temporary, place)
                    temporary.replace(place)
                else:
                    raise OutputError(f"{target} has come meanwhile and was left as it is: see --overwrite")
            finally:
                with suppress(OSError):
                    if sys.platform == "win32":
                        temporary.chmod(stat.S_IWRITE)  # what is only read is not deleted there
                    temporary.unlink()
    except OutputError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT and not place.parent.is_dir():
            raise _homeless(place) from None
        reason = error.strerror or str(error)
        remedy = "check the folder's permissions and free space"
        # As in /dev/fd, where no files are made, or of a question mark on Windows' disks.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL):
            remedy = "name another output"
        raise OutputError(f"{target} cannot be written ({reason}): {remedy}") from None


def _take_permissions(file: Path, of: Path, beside: int = 0) -> None:
    """Give ``file`` the permissions of ``of``, if that stands, and the bits ``beside``."""
    with suppress(OSError):  # some disks know none
        file.chmod(of.stat().st_mode & 0o777 | beside)


@contextmanager
def _held_file(folder: Path) -> Iterator[Path]:
    """A new, empty file in ``folder``, locked while its writer lives, so that no other run removes it."""
    while True:
        path = folder / f".decoupe-{os.urandom(8).hex()}.part"
        with path.open("xb") as file:
            # Another run may have taken it for a dead one's before it was locked.
            if lock(file) == "another's" or not path.exists():
                continue
            if sys.platform == "win32":
                file.close()  # no open file is replaced there
            yield path
            return


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed runs left in ``folder``, and none of a run that is alive."""
    with suppress(OSError):
        for path in folder.glob(".decoupe-*.part"):
            with suppress(OSError), path.open("r+b") as file:
                if lock(file) == "ours":
                    path.unlink()


def lock(file: BinaryIO) -> Literal["ours", "another's", "none"]:
    """Lock an open file until it is closed or its process ends: whose it is then; some disks know none."""
    if sys.platform == "win32":
        return "none"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another's"
    except OSError:
        return "none"
    return "ours"


def _is_special(target: Path) -> bool:
    """Whether a device, a pipe or the like stands there."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False  # writing finds out, and tells
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
