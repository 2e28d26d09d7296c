"""From sets on disk to batches: augmented samples, in an order that only the recipe decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from decoupe.datasets.scenes import Scene, SegmentSet
from decoupe.datasets.sets import Pair, read_pair, read_picture
from decoupe.datasets.shards import Source
from decoupe.errors import DecoupeError, InputError
from decoupe.memory import free
from decoupe.training.augment import Augmentation
from decoupe.training.matching import Truth
from decoupe.training.segment_augment import SegmentAugmentation
from decoupe.weights.registry import Preprocessing

T = TypeVar("T")
R = TypeVar("R")

KEPT_SHARE = 0.3
"""Largest share of the free memory that decoded pictures of all of a machine's processes take; where they
would take more, each is read whenever it is shown."""


class Sample(NamedTuple):
    """All that a training sample depends on, beside the recipe.

    Attributes:
        item: which picture.
        position: of the sample in the whole run; its own random numbers are drawn from it.
        size: ``(height, width)`` in pixels.
    """

    item: int
    position: int
    size: tuple[int, int]


class MatteBatch(NamedTuple):
    """Photographs and their mattes.

    Attributes:
        images: uint8 ``(N, 3, H, W)``.
        masks: uint8 ``(N, 1, H, W)``.
        classes: int64 ``(N,)``, −1 where a picture has none.
        names: of the files, for messages.
    """

    images: Tensor
    masks: Tensor
    classes: Tensor
    names: tuple[str, ...]


class SegmentBatch(NamedTuple):
    """Photographs and their segments.

    Attributes:
        images: uint8 ``(N, 3, H, W)``.
        segments: int32 ``(N, H, W)``: of each pixel the index in its picture's classes, −1 for none.
        classes: of each picture, int64 ``(M,)``.
        names: of the files, for messages.
    """

    images: Tensor
    segments: Tensor
    classes: tuple[Tensor, ...]
    names: tuple[str, ...]

    def truth(self, device: torch.device) -> list[Truth]:
        """The segments as masks ``(M, H, W)``; they are spread out on the device, where that is cheap."""
        segments = self.segments.to(device, non_blocking=True)
        classes = [one.to(device, non_blocking=True) for one in self.classes]
        return [
            Truth(plane == torch.arange(len(one), device=device).view(-1, 1, 1), one)
            for plane, one in zip(segments, classes, strict=True)
        ]


class Told(Dataset[Any]):
    """A dataset whose errors leave worker processes as they are: torch would make a page of each.

    Args:
        dataset: of samples, with a ``collate`` for them.
    """

    def __init__(self, dataset: MatteDataset | SegmentDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, sample: Sample) -> Any:
        """The sample, or what is wrong with it."""
        try:
            return self.dataset[sample]
        except DecoupeError as error:
            return InputError(str(error))  # whose pickle comes back

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch, or what is wrong with the first sample of which something is."""
        wrong = next((one for one in samples if isinstance(one, InputError)), None)
        return wrong or self.dataset.collate(samples)


class MatteDataset(Dataset[tuple[Tensor, Tensor, int, str]]):
    """Augmented matte pairs.

    Args:
        pairs: what to read.
        augmentation: what happens to each sample.
        seed: of everything random.
        longest: long side in pixels at which pictures are decoded.
        keep: keep the decoded pictures if all fit in memory; where processes that prepare samples are begun
            anew, not forked, each would get a copy.
        labels: index of each class label.
        backgrounds: photographs to set subjects on.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        augmentation: Augmentation,
        *,
        seed: int,
        longest: int,
        keep: bool = True,
        labels: Mapping[str, int] | None = None,
        backgrounds: Sequence[Source] = (),
    ) -> None:
        self.pairs, self.augmentation, self.seed = pairs, augmentation, seed
        self.labels = labels or {}
        room = room_for_pictures() if keep else 0
        self.read = reader(partial(read_pair, longest=longest), pairs, longest, room)
        room -= decoded_size(len(pairs), longest)
        self.read_background = reader(partial(read_picture, longest=longest), backgrounds, longest, room)
        self.backgrounds = len(backgrounds)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor, int, str]:
        """Photograph ``(3, H, W)`` and mask ``(1, H, W)``, both uint8; class; name."""
        rng = np.random.default_rng((self.seed, sample.position))
        pair = self.pairs[sample.item]
        other, ground = int(rng.integers(len(self))), int(rng.integers(max(self.backgrounds, 1)))
        image, mask = self.read(sample.item)
        photograph, matte = self.augmentation(
            image,
            mask,
            sample.size,
            rng,
            other=partial(self.read, other),
            background=partial(self.read_background, ground) if self.backgrounds else None,
        )
        return photograph, matte, self.labels.get(pair.label or "", -1), pair.name

    @staticmethod
    def collate(samples: Sequence[tuple[Tensor, Tensor, int, str]]) -> MatteBatch:
        """Samples of one size as a batch."""
        images, masks, classes, names = zip(*samples, strict=True)
        return MatteBatch(torch.stack(images), torch.stack(masks), torch.tensor(classes), names)


class SegmentDataset(Dataset[tuple[Tensor, Tensor, Tensor, str]]):
    """Augmented pictures with their segments.

    Args:
        scenes: what to read.
        indices: which of them.
        augmentation: what happens to each sample.
        seed: of everything random.
        longest: long side in pixels at which pictures are decoded.
        keep: keep the decoded pictures if all fit in memory; where processes that prepare samples are begun
            anew, not forked, each would get a copy.
    """

    def __init__(
        self,
        scenes: SegmentSet,
        indices: Sequence[int],
        augmentation: SegmentAugmentation,
        *,
        seed: int,
        longest: int,
        keep: bool = True,
    ) -> None:
        self.scenes, self.indices, self.augmentation, self.seed = scenes, indices, augmentation, seed
        read = partial(scenes.read, longest=longest)
        room = room_for_pictures() if keep else 0
        # Three colours, and int32 for the segments.
        self.read: Callable[[int], Scene] = reader(read, indices, longest, room, each=7)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor, str]:
        """Photograph uint8 ``(3, H, W)``; segments int32 ``(H, W)``; their classes ``(M,)``; name."""
        rng = np.random.default_rng((self.seed, sample.position))
        augmented = self.augmentation(self.read(sample.item), sample.size, rng)
        return *augmented, self.scenes.name_of(self.indices[sample.item])

    @staticmethod
    def collate(samples: Sequence[tuple[Tensor, Tensor, Tensor, str]]) -> SegmentBatch:
        """Samples of one size as a batch."""
        images, segments, classes, names = zip(*samples, strict=True)
        return SegmentBatch(torch.stack(images), torch.stack(segments), classes, names)


def room_for_pictures() -> int:
    """Bytes that this process may keep decoded pictures in: its part of `KEPT_SHARE` of what is free."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as Accelerate and torchrun tell it
    return round(KEPT_SHARE * free("cpu") / beside)


def decoded_size(count: int, longest: int, each: int = 4) -> int:
    """Bytes of so many decoded pictures at most, as if all were square: ``each`` a pixel, 4 with a mask."""
    return count * longest**2 * each


def reader(
    read: Callable[[T], R], items: Sequence[T], longest: int, room: int, each: int = 4
) -> Callable[[int], R]:
    """What gives item ``i``: decoded once and kept where all fit in ``room`` bytes, read anew otherwise.

    Both give the same numbers; kept pictures are shared with processes that are forked.
    """
    if decoded_size(len(items), longest, each) > room:
        return partial(_read_anew, read, items)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read, items)).__getitem__


def _read_anew(read: Callable[[T], R], items: Sequence[T], index: int) -> R:
    return read(items[index])


class Batches(Sampler[list[Sample]]):
    """The batches of a run: every epoch shows each index ``repeats[index]`` times, in an order of its own.

    Nothing but the step decides a batch, so an interrupted run goes on exactly, and several processes share
    out the same batches: each takes its slice of every part.

    Args:
        repeats: of each index per epoch.
        size_of: ``(height, width)`` at a step.
        steps: of the whole run.
        batch_size: samples a step, of all processes.
        seed: of the orders.
        start: step of the first batch.
        parts: a process's samples of a step come in so many batches, one after the other.
        process: number of this process, from 0.
        processes: how many there are; with ``parts`` they divide ``batch_size``.
    """

    def __init__(
        self,
        repeats: Sequence[int],
        size_of: Callable[[int], tuple[int, int]],
        steps: int,
        *,
        batch_size: int,
        seed: int,
        start: int = 0,
        parts: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.indices = np.repeat(np.arange(len(repeats)), repeats)
        self.size_of, self.steps, self.start = size_of, steps, start
        self.batch_size, self.seed = batch_size, seed
        self.parts, self.process, self.processes = parts, process, processes

    def __len__(self) -> int:
        return (self.steps - self.start) * self.parts

    def __iter__(self) -> Iterator[list[Sample]]:
        order_of = lru_cache(maxsize=2)(self.order)
        each = self.batch_size // (self.parts * self.processes)
        for step in range(self.start, self.steps):
            size = self.size_of(step)
            for part in range(self.parts):
                first = step * self.batch_size + (part * self.processes + self.process) * each
                batch = []
                for position in range(first, first + each):
                    epoch, place = divmod(position, len(self.indices))
                    batch.append(Sample(order_of(epoch)[place], position, size))
                yield batch

    def order(self, epoch: int) -> list[int]:
        """The indices of one epoch, as they are shown."""
        order: list[int] = np.random.default_rng((self.seed, epoch)).permutation(self.indices).tolist()
        return order


def dynamic_size(limits: tuple[int, int], seed: int, step: int) -> tuple[int, int]:
    """``(height, width)`` of a step's batch, each drawn from ``limits`` in steps of 32 pixels."""
    rng = np.random.default_rng((seed, step, 32))
    height, width = (32 * int(rng.integers(limits[0] // 32, limits[1] // 32 + 1)) for _ in range(2))
    return height, width


def normalised(images: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """uint8 ``(N, 3, H, W)`` -> what the network sees, float32 on the device, channels last."""
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    photographs = (images.to(device, non_blocking=True).float() / 255 - mean) / std
    return photographs.contiguous(memory_format=torch.channels_last)
