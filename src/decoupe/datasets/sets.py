"""Matte sets on disk, in the layouts they are published in: finding pairs, splitting them, reading them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from decoupe.datasets.shards import Member, Source, members, opened
from decoupe.errors import InputError
from decoupe.inference.media import READABLE, find_images
from decoupe.inference.pictures import wide_grey

Array = NDArray[np.uint8]
T = TypeVar("T")

LAYOUTS: tuple[tuple[str, str], ...] = (
    ("im", "gt"),  # DIS5K, and BiRefNet's own
    ("images", "masks"),
    ("imgs", "gt"),  # NC4K; COD10K and CAMO as SINet packed them
    ("image", "mask"),  # UHRSD
    ("image", "gt_object"),  # COD10K
    ("images/train", "gt"),  # CAMO
    ("images/test", "gt"),
    ("duts-tr-image", "duts-tr-mask"),
    ("duts-te-image", "duts-te-mask"),
    ("hrsod_train", "hrsod_train_mask"),
    ("hrsod_test", "hrsod_test_mask"),
    ("blurred_image", "mask"),  # P3M-10k
    ("original_image", "mask"),  # P3M-500-NP
    ("original", "mask"),  # AM-2k
)
"""Folders of photographs and of masks, as sets are published; upper and lower case are the same."""
DEEPEST = 3
"""Folders below the one that was given in which sets are looked for."""
ALIKE = 6
"""Bits of 64 in which the `fingerprint` of near duplicates may differ."""
CORRELATED = 0.93
"""Correlation of the colours in it that they have at least: less than copies cropped by 2 % have."""
SHARD_MASKS = ("mask.png", "gt.png", "png")
"""Suffixes of masks in shards, the surest first; another picture of the same key is the photograph."""


@dataclass(frozen=True, order=True)
class Pair:
    """One photograph and its mask.

    Attributes:
        image: where the photograph is.
        mask: where the mask is.
        label: class of the subject, where the file name tells it, as DIS5K's do.
        within: folders inside the set's that it is in, as ``a/b``.
    """

    image: Source
    mask: Source
    label: str | None = None
    within: str = ""

    @property
    def name(self) -> str:
        """Of the photograph, without its suffix, with the folders inside the set's."""
        return str(PurePosixPath(self.within, self.image.stem))


class Pairing(NamedTuple):
    """What a set's folder holds.

    Attributes:
        pairs: photographs with masks.
        bare: photographs without.
        spare: masks without photographs.
    """

    pairs: list[Pair]
    bare: list[Source]
    spare: list[Source]


def find_pairs(folder: str | Path) -> list[Pair]:
    """The pairs of one matte set, by the photographs' names; all masks' may end in more, as ``_mask``.

    Folders inside those of photographs and of masks are read too, and count as part of the names.

    Args:
        folder: in any of `LAYOUTS`, or with one such folder inside; a ``.tar`` shard, or a folder of them, in
            WebDataset's layout: ``KEY.jpg`` beside ``KEY.png``.

    Raises:
        InputError: no set, several of them, two pictures of one name, a photograph without a mask, or no
            photographs.
    """
    folder = Path(folder)
    pairs, bare, _ = pairing(folder)
    if bare:
        raise InputError(
            f"{len(bare)} photographs of {folder} have no mask, {bare[0].stem}{bare[0].suffix} first: "
            "add or remove them"
        )
    if not pairs:
        raise InputError(f"{folder} holds no pairs: expected photographs and masks of the same names")
    return pairs


def pairing(folder: Path) -> Pairing:
    """What pairs in a set's folder, and what does not.

    Raises:
        InputError: the folder holds no set, or several; or two pictures of one name.
    """
    if folder.suffix == ".tar":
        return _in_shards([folder])
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected {folder}/im and {folder}/gt, or a .tar")
    if shards := sorted(folder.glob("*.tar")):
        return _in_shards(shards)
    found = _sets_in(folder)
    if not found:
        raise InputError(
            f"{folder} holds no matte set: expected {folder}/im with photographs and {folder}/gt with masks"
        )
    if len(found) > 1:
        raise InputError(f"{folder} holds several sets: give {' or '.join(map(str, found))}")
    (folders,) = found.values()
    return _in_folders(*folders)


def is_matte_set(folder: Path) -> bool:
    """Whether a folder holds photographs with masks in any of the ways that `find_pairs` reads."""
    if folder.suffix == ".tar":
        return True
    return folder.is_dir() and (any(folder.glob("*.tar")) or bool(_sets_in(folder)))


def masks_of(folder: Path) -> Path | None:
    """The folder of masks of a set's folder; None where it is no set, or holds several."""
    found = _layouts(folder)
    return found[0][1] if len(found) == 1 else None


def photographs_of(masks: Path) -> Path | None:
    """The folder of photographs beside a set's folder of masks; None where there is none."""
    around = [*_layouts(masks.parent), *_layouts(masks.parent.parent)]
    return next((images for images, of_them in around if of_them.samefile(masks)), None)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name, told by their endings; hidden files are left out.

    Raises:
        InputError: it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give one with photographs")
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in READABLE)


def pictures_below(folder: Path) -> dict[str, Path]:
    """The pictures of a folder and of those inside it, by their path from it without ending.

    Raises:
        InputError: it is no folder, or two share a name.
    """
    by_name: dict[str, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if (first := by_name.setdefault(name, path)) is not path:
            raise InputError(f"{first} and {path.name} share a name: keep one of them")
    return by_name


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each set: its folder's, with as many of the folders above as tell them apart.

    Raises:
        InputError: a folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    parts = [(path.with_suffix("") if path.suffix == ".tar" else path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise InputError(f"{folders[parts.index(max(parts, key=parts.count))]} is given twice: give it once")
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return []


def read_pair(pair: Pair, *, longest: int | None = None) -> tuple[Array, Array]:
    """A pair as uint8 arrays: photograph ``(H, W, 3)`` and mask ``(H, W)``, long side at most ``longest``.

    Raises:
        InputError: a file cannot be read, or the two sizes differ; or a mask of unknown range.
    """
    with opened(pair.mask) as file:
        mask = ImageOps.exif_transpose(file)
    mask = _eight_bit(mask, str(pair.mask)).convert("L")
    image, size = read_photograph(pair.image, longest)
    if size != mask.size:
        sizes = ["{}×{}".format(*one) for one in (mask.size, size)]
        raise InputError(f"{pair.mask} is {sizes[0]}, its photograph {sizes[1]}: make them the same")
    if mask.size != image.size:
        mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(image), np.asarray(mask)


def read_picture(source: Source, *, longest: int | None = None) -> Array:
    """A photograph as uint8 ``(H, W, 3)``, long side at most ``longest``.

    Raises:
        InputError: it cannot be read.
    """
    return np.asarray(read_photograph(source, longest)[0])


def read_photograph(source: Source, longest: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """A photograph upright in RGB, its long side at most ``longest``; and ``(width, height)`` as on disk.

    Raises:
        InputError: it cannot be read.
    """
    with opened(source) as file:
        upright = file.getexif().get(ExifTags.Base.Orientation, 1) < 5
        size = file.size if upright else file.size[::-1]
        if longest is not None and max(size) > longest:
            file.draft("RGB", (longest, longest))  # JPEGs decode at a fraction of their size
        image = ImageOps.exif_transpose(file)
    image = _eight_bit(image, str(source)).convert("RGB")
    if longest is not None and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return image, size


def fingerprint(source: Source) -> Array:
    """What copies of a photograph share, ``(776,)``: 64 bits of a difference hash, and 16×16 colours."""
    with opened(source) as file:
        file.draft("RGB", (32, 32))
        picture = ImageOps.exif_transpose(file)
    picture = _eight_bit(picture, str(source)).convert("RGB")
    small = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return np.concatenate([bits, np.asarray(picture.resize((16, 16), Image.Resampling.BOX)).ravel()])


def fingerprints(sources: Sequence[Source]) -> Array:
    """The `fingerprint` of every photograph, ``(N, 776)``."""
    prints = np.zeros((len(sources), 776), np.uint8)
    with ThreadPoolExecutor() as pool:
        for index, print_of in enumerate(pool.map(fingerprint, sources)):
            prints[index] = print_of
    return prints


def near_duplicates(prints: Array) -> NDArray[np.intp]:
    """Pairs of pictures ``(M, 2)``, the lower index first, that are one photograph as far as prints tell.

    Hash and colours both have to agree: on a plain ground the hash is alike for many things of one shape.
    """
    found = [np.zeros((0, 2), np.intp)]
    if len(prints):
        signs = 2 * np.unpackbits(prints[:, :8], axis=1).astype(np.float32) - 1
        colours = prints[:, 8:].astype(np.float32)
        colours -= colours.mean(1, keepdims=True)
        colours /= np.maximum(np.linalg.norm(colours, axis=1, keepdims=True), 1e-6)
        for start in range(0, len(prints), 1024):
            rows = slice(start, start + 1024)
            alike = signs[rows] @ signs.T >= 64 - 2 * ALIKE
            alike &= colours[rows] @ colours.T >= CORRELATED
            row, column = np.nonzero(alike)
            pairs = np.stack([row + start, column], 1)
            found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


def split(
    sets: Mapping[str, Sequence[Pair]], held_out: Mapping[str, int], *, seed: int
) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """The pairs of each set to train on, and those to hold out: see `split_photographs`."""
    photographs = {name: [pair.image for pair in pairs] for name, pairs in sets.items()}
    train, out = split_photographs(photographs, held_out, seed=seed)
    return (
        {name: [sets[name][index] for index in indices] for name, indices in train.items()},
        {name: [sets[name][index] for index in indices] for name, indices in out.items()},
    )


def split_photographs(
    sets: Mapping[str, Sequence[Source]], held_out: Mapping[str, int], *, seed: int
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Which photographs of each set to train on, and which to hold out.

    Near duplicates of those that are held out are in neither. Which of a set are held out is deterministic in
    ``seed`` and in the photographs' order, and the same whatever other sets there are.

    Args:
        sets: photographs by the name of their set.
        held_out: how many of each.
        seed: of the choice.

    Returns:
        Indices of each set, growing.
    """
    every = [(name, index) for name, photographs in sets.items() for index in range(len(photographs))]
    out = {
        (name, index)
        for name, photographs in sets.items()
        for index in np.random.default_rng(seed).permutation(len(photographs))[: held_out[name]].tolist()
    }
    leaked = set(out)
    if out:
        prints = fingerprints([sets[name][index] for name, index in every])
        for pair in near_duplicates(prints).tolist():
            alike = {every[row] for row in pair}
            if alike & out:
                leaked |= alike

    def of(places: Collection[tuple[str, int]]) -> dict[str, list[int]]:
        return {
            name: [index for index in range(len(photographs)) if (name, index) in places]
            for name, photographs in sets.items()
        }

    return of(set(every) - leaked), of(out)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` items, evenly from the whole sequence: the first by name are not like the rest."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def _sets_in(folder: Path, depth: int = 0) -> dict[Path, tuple[Path, Path]]:
    """Folders of photographs and of their masks in and below a folder, by what a user gives to mean each."""
    if found := _layouts(folder):
        return {folder: found[0]} if len(found) == 1 else {images: (images, masks) for images, masks in found}
    if depth == 0:
        around = [*_layouts(folder.parent), *_layouts(folder.parent.parent)]
        if named := [one for one in around if one[0].samefile(folder)]:
            return {folder: named[0]}
    if depth == DEEPEST:
        return {}
    return {
        given: found
        for inside in _folders(folder).values()
        for given, found in _sets_in(inside, depth + 1).items()
    }


def _layouts(folder: Path) -> list[tuple[Path, Path]]:
    """Folders of photographs and of their masks that stand in one folder."""
    both = ((_descend(folder, images), _descend(folder, masks)) for images, masks in LAYOUTS)
    return [(images, masks) for images, masks in both if images and masks]


def _descend(folder: Path, path: str) -> Path | None:
    for name in path.split("/"):
        inside = _folders(folder).get(name)
        if inside is None:
            return None
        folder = inside
    return folder


def _folders(folder: Path) -> dict[str, Path]:
    """The folders inside one by their name in lower case."""
    found = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return {path.name.lower(): path for path in found}


def endings(ones: Collection[str], others: Collection[str]) -> tuple[str, str]:
    """What all names of each kind end in beyond the other's, as ``_mask``; nothing where some are alike.

    The shortest that makes some of them alike; each begins at one of ``_-. ``.
    """
    if not set(ones) & set(others):
        for end in _tails(ones):
            bare = {name.removesuffix(end) for name in ones}
            for other in _tails(others):
                if bare & {name.removesuffix(other) for name in others}:
                    return end, other
    return "", ""


def _tails(names: Collection[str]) -> list[str]:
    """Endings that all names have, shortest first, nothing among them."""
    first = next(iter(names), "")
    tails = (first[place:] for place in reversed(range(len(first))) if first[place] in "_-. ")
    return ["", *(tail for tail in tails if all(name.endswith(tail) for name in names))]


def _in_folders(images: Path, masks: Path) -> Pairing:
    pictures, truths = pictures_below(images), pictures_below(masks)
    end, other = endings(pictures, truths)
    return _paired(
        [(name.removesuffix(end), path) for name, path in pictures.items()],
        {name.removesuffix(other): path for name, path in truths.items()},
        images,
    )


def _in_shards(shards: Sequence[Path]) -> Pairing:
    """Pairs of WebDataset's layout: a key is all before the first dot of a name, with its folders."""
    by_key: dict[tuple[Path, str], dict[str, Member]] = defaultdict(dict)
    for member in (member for shard in shards for member in members(shard)):
        path = PurePosixPath(member.name)
        stem, _, suffix = path.name.partition(".")
        by_key[member.shard, str(path.with_name(stem))][suffix.lower()] = member
    images: list[tuple[str, Source]] = []
    masks: dict[str, Source] = {}
    for (shard, key), files in by_key.items():
        pictures = {suffix: file for suffix, file in files.items() if file.suffix.lower() in READABLE}
        # A PNG alone is a photograph that lacks its mask.
        masks_of = [one for one in SHARD_MASKS if one in pictures and (one != "png" or len(pictures) > 1)]
        photographs = [one for one in pictures if one not in masks_of[:1]]
        if masks_of:
            masks[f"{shard}/{key}"] = pictures[masks_of[0]]
        if photographs:
            images.append((f"{shard}/{key}", pictures[photographs[0]]))
    return _paired(images, masks)


def _paired(
    images: Sequence[tuple[str, Source]], masks: Mapping[str, Source], folder: Path | None = None
) -> Pairing:
    """Photographs and masks of the same names; ``folder`` is that of the photographs, if they are files."""
    pairs = [
        Pair(image, masks[name], _label(image.stem), _within(image, folder))
        for name, image in images
        if name in masks
    ]
    named = {name for name, _ in images}
    bare = [image for name, image in images if name not in masks]
    return Pairing(pairs, bare, [mask for name, mask in masks.items() if name not in named])


def _within(image: Source, folder: Path | None) -> str:
    """The folders between a set's and a photograph; nothing in shards, whose keys name pictures."""
    if folder is None or not isinstance(image, Path) or image.parent == folder:
        return ""
    return image.parent.relative_to(folder).as_posix()


def _label(stem: str) -> str | None:
    """DIS5K names its files ``group#GROUP#class#CLASS#photograph``."""
    fields = stem.split("#")
    return fields[3] if len(fields) >= 5 else None


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """A picture of 8 bits a channel; Pillow clips deeper grey instead of scaling it."""
    wide = wide_grey(picture, name)
    return picture if wide is None else Image.fromarray(np.rint(wide / 257).astype(np.uint8))
