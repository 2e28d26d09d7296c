"""Matte sets on disk: finding pairs, splitting them without leaks, and reading them fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
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
    """The pairs ``{im,images,Imgs}/NAME.*`` and ``{gt,masks,GT}/NAME.png`` of one set, by name.

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
    by_name = {path.stem: path for path in masks.iterdir() if path.is_file()}
    pairs, missing = [], []
    for image in sorted(path for path in images.iterdir() if path.is_file()):
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


def read_pair(pair: Pair, *, longest: int | None = None) -> tuple[Array, Array]:
    """A pair as uint8 arrays: photograph ``(H, W, 3)`` and mask ``(H, W)``, long side at most ``longest``.

    Raises:
        InputError: a file cannot be read, or the two sizes differ.
    """
    try:
        with Image.open(pair.image) as opened:
            image = opened.convert("RGB")
        with Image.open(pair.mask) as opened:
            mask = opened.convert("L")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"cannot read the pair {pair.image}, {pair.mask.name}: {error}") from error
    if image.size != mask.size:
        raise InputError(
            f"{pair.mask} is {mask.size}, its photograph {image.size}: apply EXIF rotation to both"
        )
    if longest is not None and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(image), np.asarray(mask)


def fingerprints(pairs: Sequence[Pair]) -> NDArray[np.uint64]:
    """A 64-bit difference hash of each photograph: alike pictures differ in few bits."""
    hashes = np.zeros(len(pairs), np.uint64)
    for row, pair in enumerate(pairs):
        with Image.open(pair.image) as opened:
            opened.draft("L", (32, 32))
            small = np.asarray(opened.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        hashes[row] = np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)[0]
    return hashes


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
    group = near_duplicate_groups(fingerprints(pairs))
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:held_out]
    leaked = np.isin(group, group[chosen])
    return [pair for pair, out in zip(pairs, leaked, strict=True) if not out], [
        pairs[i] for i in sorted(chosen)
    ]


class MatteDataset(Dataset[tuple[Tensor, Tensor]]):
    """Augmented squares of matte pairs, decoded once and kept in memory.

    Every sample is a function of (seed, epoch, index) alone, so an interrupted epoch goes on exactly.

    Args:
        pairs: what to read.
        augmentation: what happens to each sample.
        seed: of everything random.
        longest: long side in pixels at which decoded pictures are kept.
    """

    def __init__(
        self, pairs: Sequence[Pair], augmentation: Augmentation, *, seed: int, longest: int = 352
    ) -> None:
        self.augmentation, self.seed = augmentation, seed
        self.decoded = [read_pair(pair, longest=longest) for pair in pairs]
        self.epoch, self.size = 0, 224

    def __len__(self) -> int:
        return len(self.decoded)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Photograph ``(3, size, size)`` and mask ``(1, size, size)``, both uint8."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image, mask = self.decoded[index]
        return self.augmentation(image, mask, self.size, rng)


class EpochSampler(Sampler[int]):
    """Every index ``repeats[index]`` times, in an order drawn from (seed, epoch), from ``start`` on."""

    def __init__(self, repeats: Sequence[int], *, seed: int, epoch: int, start: int = 0) -> None:
        indices = np.repeat(np.arange(len(repeats)), repeats)
        self.order = np.random.default_rng((seed, epoch)).permutation(indices)[start:]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


def to_batch(images: Tensor, masks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """A uint8 batch -> normalised photographs and masks in [0, 1], float32, channels last."""
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    photographs = (images.to(device).float() / 255 - mean) / std
    return photographs.contiguous(memory_format=torch.channels_last), masks.to(device).float() / 255
