"""Matte sets on disk: finding pairs, splitting them without leaks, and reading them fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from decoupe.errors import InputError
from decoupe.training.augment import Augmentation
from decoupe.weights.registry import IMAGENET_MEAN, IMAGENET_STD

Array = NDArray[np.uint8]

IMAGE_FOLDERS = ("im", "images", "Imgs")
MASK_FOLDERS = ("gt", "masks", "GT")


@dataclass(frozen=True, order=True)
class Pair:
    """One photograph and its mask."""

    image: Path
    mask: Path


def find_pairs(folder: str | Path) -> list[Pair]:
    """The pairs ``{im,images,Imgs}/NAME.*`` and ``{gt,masks,GT}/NAME.*`` of one set, by name.

    Raises:
        InputError: the folders are not there, or a photograph has no mask, or nothing pairs.
    """
    folder = Path(folder)
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    masks = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if images is None or masks is None:
        raise InputError(
            f"{folder} holds no matte set: expected {folder}/im with photographs and {folder}/gt with masks"
        )
    by_name = {path.stem: path for path in pictures_in(masks)}
    pairs, missing = [], []
    for image in sorted(pictures_in(images)):
        if image.stem in by_name:
            pairs.append(Pair(image, by_name[image.stem]))
        else:
            missing.append(image.name)
    if missing:
        raise InputError(
            f"{len(missing)} photographs of {folder} have no mask, {missing[0]} first: add or remove them"
        )
    if not pairs:
        raise InputError(f"{images} holds no photographs")
    return pairs


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones."""
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def read_pair(pair: Pair, *, longest: int | None = None) -> tuple[Array, Array]:
    """A pair as uint8 arrays: photograph ``(H, W, 3)`` and mask ``(H, W)``, long side at most ``longest``.

    Raises:
        InputError: a file cannot be read, or the two sizes differ.
    """
    with opened(pair.image) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    with opened(pair.mask) as file:
        mask = ImageOps.exif_transpose(file).convert("L")
    if image.size != mask.size:
        sizes = ["{}×{}".format(*picture.size) for picture in (mask, image)]
        raise InputError(f"{pair.mask} is {sizes[0]}, its photograph {sizes[1]}: make them the same")
    if longest is not None and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(image), np.asarray(mask)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture of a set, open for reading; InputError names it if that fails."""
    try:
        with Image.open(path) as file:
            yield file
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): get it again, or remove the pair") from error


def fingerprint(pair: Pair) -> np.uint64:
    """A 64-bit difference hash of the photograph: alike pictures differ in few bits."""
    with opened(pair.image) as file:
        file.draft("L", (32, 32))
        small = np.asarray(file.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits: np.uint64 = np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)[0]
    return bits


def fingerprints(pairs: Sequence[Pair]) -> NDArray[np.uint64]:
    """The `fingerprint` of every photograph."""
    with ThreadPoolExecutor() as pool:
        return np.fromiter(pool.map(fingerprint, pairs), np.uint64, len(pairs))


def near_duplicate_groups(hashes: NDArray[np.uint64], *, bits: int = 6) -> NDArray[np.intp]:
    """A group number for each picture; pictures whose hashes differ in at most ``bits`` bits share one."""
    group = np.arange(len(hashes))
    octets = hashes.view(np.uint8).reshape(-1, 8)
    ones = np.array([bin(value).count("1") for value in range(256)], np.uint8)
    for row in range(len(hashes)):
        distance = ones[octets[row + 1 :] ^ octets[row]].sum(1)
        for other in np.flatnonzero(distance <= bits) + row + 1:
            group[group == group[other]] = group[row]
    return group


def split(pairs: Sequence[Pair], held_out: int, *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs: ``held_out`` of them, near duplicates of those in neither part.

    Deterministic in ``seed`` and in the pairs' order.
    """
    if not held_out:
        return list(pairs), []
    group = near_duplicate_groups(fingerprints(pairs))
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:held_out]
    leaked = np.isin(group, group[chosen])
    return [pair for pair, out in zip(pairs, leaked, strict=True) if not out], [
        pairs[i] for i in sorted(chosen)
    ]


def spread(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most ``most`` pairs, evenly from the whole set: the first ones by name are not like the rest."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[index * len(pairs) // most] for index in range(most)]


class Sample(NamedTuple):
    """All that a training sample depends on, beside the recipe's seed.

    Attributes:
        pair: which one.
        position: of the sample in the whole run; its own random numbers are drawn from it.
        size: side of the square in pixels.
    """

    pair: int
    position: int
    size: int


class MatteDataset(Dataset[tuple[Tensor, Tensor]]):
    """Augmented squares of matte pairs, decoded once and kept in memory.

    Args:
        pairs: what to read.
        augmentation: what happens to each sample.
        seed: of everything random.
        longest: long side in pixels at which decoded pictures are kept.
    """

    def __init__(self, pairs: Sequence[Pair], augmentation: Augmentation, *, seed: int, longest: int) -> None:
        self.augmentation, self.seed = augmentation, seed
        with ThreadPoolExecutor() as pool:
            self.decoded = list(pool.map(partial(read_pair, longest=longest), pairs))

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Photograph ``(3, size, size)`` and mask ``(1, size, size)``, both uint8."""
        rng = np.random.default_rng((self.seed, sample.position))
        other = self.decoded[rng.integers(len(self))]
        return self.augmentation(*self.decoded[sample.pair], other, sample.size, rng)


class Schedule(Sampler[list[Sample]]):
    """The batches of a run: every epoch shows each index ``repeats[index]`` times, in an order of its own.

    Nothing but the step decides a batch, so an interrupted run goes on exactly.

    Args:
        repeats: of each index per epoch.
        sizes: side of the squares at each step of the run.
        batch_size: samples a step.
        seed: of the orders.
        start: step of the first batch.
    """

    def __init__(
        self, repeats: Sequence[int], sizes: Sequence[int], *, batch_size: int, seed: int, start: int = 0
    ) -> None:
        self.indices = np.repeat(np.arange(len(repeats)), repeats)
        self.sizes, self.batch_size, self.seed, self.start = sizes, batch_size, seed, start

    def __len__(self) -> int:
        return len(self.sizes) - self.start

    def __iter__(self) -> Iterator[list[Sample]]:
        order_of = lru_cache(maxsize=2)(self.order)
        for step in range(self.start, len(self.sizes)):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                epoch, place = divmod(position, len(self.indices))
                batch.append(Sample(order_of(epoch)[place], position, self.sizes[step]))
            yield batch

    def order(self, epoch: int) -> list[int]:
        """The indices of one epoch, as they are shown."""
        order: list[int] = np.random.default_rng((self.seed, epoch)).permutation(self.indices).tolist()
        return order


def to_batch(images: Tensor, masks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A uint8 batch -> normalised photographs and masks in [0, 1], float32, channels last."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    images, masks = images.to(device, non_blocking=True), masks.to(device, non_blocking=True)
    photographs = (images.float() / 255 - mean) / std
    return photographs.contiguous(memory_format=torch.channels_last), masks.float() / 255
